"""Adapters on tiny random models: what is trained, what is saved, and what is refused."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import (
    AutoModelForCTC,
    LlamaConfig,
    LlamaForCausalLM,
    Trainer,
    TrainingArguments,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    Wav2Vec2Processor,
    WhisperConfig,
    WhisperForConditionalGeneration,
    WhisperProcessor,
    pipeline,
)

import hfaudio.auto  # noqa: F401
from hfaudio.models import LstmCTCConfig, LstmForCTC
from hfaudio.processing import build_char_tokenizer
from hfaudio.training.adapters import (
    AdapterArguments,
    GradientCheck,
    add_adapter,
    load_adapters,
    open_adapter,
    quantization_config,
    save_adapter,
    save_merged,
    trainable_table,
)

SIZES: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}


def wav2vec2(seed: int = 0, **options: Any) -> Wav2Vec2ForCTC:
    torch.manual_seed(seed)
    config = Wav2Vec2Config(**SIZES, conv_dim=(8,) * 7, num_conv_pos_embedding_groups=2, vocab_size=8, **options)
    model = Wav2Vec2ForCTC(config).eval()
    for name, weight in model.named_parameters():  # a trained model's biases are not all zero
        if name.endswith("bias"):
            torch.nn.init.normal_(weight, std=0.1)
    return model


def whisper() -> WhisperForConditionalGeneration:
    torch.manual_seed(0)
    sizes = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "vocab_size": 20, "pad_token_id": 0}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "max_source_positions": 50}
    ids = {"bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
    return WhisperForConditionalGeneration(WhisperConfig(**sizes, **heads, **ids, num_mel_bins=8))


def processor() -> Wav2Vec2Processor:
    return Wav2Vec2Processor(Wav2Vec2FeatureExtractor(), build_char_tokenizer(["abcd e"]))


def speech() -> dict[str, torch.Tensor]:
    noise = torch.randn(2, 8000, generator=torch.Generator().manual_seed(1))
    return {"input_values": noise, "labels": torch.tensor([[3, 4, 5], [5, 3, 4]])}


def mels() -> dict[str, torch.Tensor]:
    features = torch.randn(2, 8, 100, generator=torch.Generator().manual_seed(1))
    return {"input_features": features, "labels": torch.tensor([[3, 4, 5], [5, 3, 4]])}


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    return model.eval()(**speech()).logits


def trained(model: torch.nn.Module) -> set[str]:
    return {name for name, weight in model.named_parameters() if weight.requires_grad}


def shaken(model: Any, seed: int = 3) -> Any:
    """The model after a change of everything that is trained, in place of a training."""
    generator = torch.Generator().manual_seed(seed)
    for weight in model.parameters():
        if weight.requires_grad:
            weight.data += 0.1 * torch.randn(weight.shape, generator=generator)
    return model.eval()


class Rows(torch.utils.data.Dataset):
    """The same batch again and again, row by row."""

    def __init__(self, batch: dict[str, torch.Tensor]) -> None:
        self.batch = batch

    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {name: value[index % len(value)] for name, value in self.batch.items()}


def train(model: Any, folder: Path, batch: dict[str, torch.Tensor], **options: Any) -> None:
    settings: dict[str, Any] = {"max_steps": 4, "per_device_train_batch_size": 2, "learning_rate": 1e-2}
    settings |= {"report_to": "none", "use_cpu": True, "save_strategy": "no", "disable_tqdm": True}
    args = TrainingArguments(str(folder), **(settings | options), remove_unused_columns=False)
    Trainer(model, args, train_dataset=Rows(batch), callbacks=[GradientCheck()]).train()


@pytest.mark.parametrize("kind", ["lora", "dora", "bitfit", "mms"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_trained_weights_change_and_no_other(kind: str, checkpointing: bool, tmp_path: Path) -> None:
    base = wav2vec2(layerdrop=0.0, adapter_attn_dim=4) if kind == "mms" else wav2vec2(layerdrop=0.0)
    language = {"adapter_language": "deu"} if kind == "mms" else {}
    model = add_adapter(base, AdapterArguments(adapter=kind, **language), ["lm_head"])
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    train(model, tmp_path, speech(), gradient_checkpointing=checkpointing)  # GradientCheck raises where one has none
    changed = {name for name, weight in model.named_parameters() if not torch.equal(weight, before[name])}
    assert trained(model) and changed == trained(model)
    assert any("lm_head" in name and name.endswith("weight") for name in changed)


def test_whisper_takes_its_own_inputs_with_lora(tmp_path: Path) -> None:
    model = add_adapter(whisper(), AdapterArguments(adapter="lora", adapter_rank=2))
    train(model, tmp_path, mels(), gradient_checkpointing=True)
    assert all("lora_" in name for name in trained(model))


def test_without_an_adapter_the_model_is_as_it_was() -> None:
    base = wav2vec2()
    names = trained(base)
    assert add_adapter(base, AdapterArguments()) is base and trained(base) == names


def test_a_frozen_weight_stays_frozen_with_bitfit() -> None:
    base = wav2vec2()
    base.freeze_feature_encoder()
    model = add_adapter(base, AdapterArguments(adapter="bitfit"))
    assert trained(model) and not any("feature_extractor" in name for name in trained(model))


def test_a_new_head_is_trained_saved_and_restored(tmp_path: Path) -> None:
    model = shaken(add_adapter(wav2vec2(), AdapterArguments(adapter="lora"), ["lm_head"]))
    save_adapter(model, tmp_path, processor())
    assert any("lm_head" in name for name in load_file(tmp_path / "adapter_model.safetensors"))
    again = load_adapters(wav2vec2(), {"default": tmp_path})
    torch.testing.assert_close(logits(again), logits(model), rtol=0, atol=0)
    assert not torch.allclose(logits(again), logits(wav2vec2()), atol=1e-2)


def test_a_head_of_another_size_than_the_base_is_made_again(tmp_path: Path) -> None:
    wav2vec2().save_pretrained(tmp_path / "base")
    options = {"vocab_size": 11, "ignore_mismatched_sizes": True}
    base = AutoModelForCTC.from_pretrained(tmp_path / "base", **options)
    model = shaken(add_adapter(base, AdapterArguments(adapter="lora"), ["lm_head"]))
    save_adapter(model, tmp_path / "adapter", processor())
    again = open_adapter(tmp_path / "adapter", AutoModelForCTC)
    torch.testing.assert_close(logits(again), logits(model), rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_merged_gives_the_logits_of_the_adapter(kind: str, tmp_path: Path) -> None:
    model = shaken(add_adapter(wav2vec2(), AdapterArguments(adapter=kind), ["lm_head"]))
    before = logits(model)
    assert save_merged(model, tmp_path, processor(), speech()) < 1e-4
    torch.testing.assert_close(logits(model), before, rtol=0, atol=0)  # a copy was merged
    merged = Wav2Vec2ForCTC.from_pretrained(tmp_path)
    assert not isinstance(merged, PeftModel)
    torch.testing.assert_close(logits(merged), before, rtol=0, atol=1e-4)


def test_merging_that_changes_the_logits_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = shaken(add_adapter(wav2vec2(), AdapterArguments(adapter="lora")))
    monkeypatch.setattr(PeftModel, "merge_and_unload", lambda self: wav2vec2(seed=5), raising=False)
    with pytest.raises(ValueError, match=r"merging changes the logits by .* more than 0\.0001"):
        save_merged(model, tmp_path, processor(), speech())
    assert not list(tmp_path.iterdir())


def test_two_adapters_are_switched_by_name(tmp_path: Path) -> None:
    expected = {}
    for seed, name in enumerate(("adults", "infants")):
        model = shaken(add_adapter(wav2vec2(), AdapterArguments(adapter="lora"), ["lm_head"]), seed)
        save_adapter(model, tmp_path / name, processor())
        expected[name] = logits(model)
    both = load_adapters(wav2vec2(), {name: tmp_path / name for name in expected})
    assert not torch.allclose(expected["adults"], expected["infants"], atol=1e-2)
    for name in ("adults", "infants", "adults"):
        both.set_adapter(name)
        torch.testing.assert_close(logits(both), expected[name], rtol=0, atol=0)


@pytest.mark.parametrize("name", ["children", "a.b"])
def test_a_name_that_torch_uses_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"cannot be called '{name}'"):
        load_adapters(wav2vec2(), {name: tmp_path})


WRONG_BASES = {
    "other weights": lambda: wav2vec2(seed=9),
    "sizes": lambda: Wav2Vec2ForCTC(Wav2Vec2Config(**SIZES | {"hidden_size": 32})),
    "architecture": whisper,
}


@pytest.mark.parametrize("base", WRONG_BASES.values(), ids=WRONG_BASES.keys())
def test_an_adapter_of_another_base_is_refused(base: Any, tmp_path: Path) -> None:
    save_adapter(add_adapter(wav2vec2(), AdapterArguments(adapter="lora")), tmp_path, processor())
    with pytest.raises(ValueError, match=r"was trained on .* differs in"):
        load_adapters(base(), {"default": tmp_path})


def test_untrained_bases_with_biases_of_zero_are_told_apart(tmp_path: Path) -> None:
    save_adapter(add_adapter(whisper(), AdapterArguments(adapter="lora")), tmp_path, processor())
    other = whisper()
    torch.nn.init.normal_(other.model.encoder.conv1.weight)
    with pytest.raises(ValueError, match="conv1"):
        load_adapters(other, {"default": tmp_path})


def test_a_base_in_half_precision_is_the_same_base(tmp_path: Path) -> None:
    save_adapter(add_adapter(wav2vec2(), AdapterArguments(adapter="lora")), tmp_path, processor())
    load_adapters(wav2vec2().to(torch.bfloat16), {"default": tmp_path})


def test_a_missing_base_is_named(tmp_path: Path) -> None:
    save_adapter(add_adapter(wav2vec2(), AdapterArguments(adapter="lora")), tmp_path, processor())
    file = tmp_path / "adapter_config.json"
    config = json.loads(file.read_text()) | {"base_model_name_or_path": str(tmp_path / "gone"), "revision": "abc123"}
    file.write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"needs the base .*gone' at revision abc123, which cannot be opened"):
        open_adapter(tmp_path, AutoModelForCTC)
    with pytest.raises(ValueError, match="is no adapter"):
        load_adapters(wav2vec2(), {"default": tmp_path / "empty"})


def test_pipeline_opens_adapter_and_merged_model_of_wav2vec2(tmp_path: Path) -> None:
    wav2vec2().save_pretrained(tmp_path / "base")
    processor().save_pretrained(tmp_path / "base")  # transformers 5.23 takes the tokenizer from there
    model = shaken(add_adapter(Wav2Vec2ForCTC.from_pretrained(tmp_path / "base"), AdapterArguments(adapter="lora")))
    save_adapter(model, tmp_path / "adapter", processor())
    save_merged(model, tmp_path / "merged", processor(), speech())
    for folder in ("adapter", "merged"):
        pipe = pipeline("automatic-speech-recognition", model=str(tmp_path / folder))
        torch.testing.assert_close(logits(pipe.model), logits(model), rtol=0, atol=1e-4)
        assert isinstance(pipe(speech()["input_values"][0].numpy())["text"], str)


def test_pipeline_opens_adapter_and_merged_model_of_whisper(small_whisper: Path, tmp_path: Path) -> None:
    base = WhisperForConditionalGeneration.from_pretrained(small_whisper)
    parts = WhisperProcessor.from_pretrained(small_whisper)
    model = shaken(add_adapter(base, AdapterArguments(adapter="lora")))
    features = torch.randn(1, base.config.num_mel_bins, 2 * base.config.max_source_positions)
    inputs = {"input_features": features, "decoder_input_ids": torch.tensor([[3, 4, 5]])}
    save_adapter(model, tmp_path / "adapter", parts)
    save_merged(model, tmp_path / "merged", parts, inputs)
    texts = []
    with torch.no_grad():
        expected = model(**inputs).logits
        for folder in ("adapter", "merged"):
            pipe = pipeline("automatic-speech-recognition", model=str(tmp_path / folder))
            torch.testing.assert_close(pipe.model(**inputs).logits, expected, rtol=0, atol=1e-4)
            noise = speech()["input_values"][0].numpy()
            texts.append(pipe(noise, generate_kwargs={"max_new_tokens": 5})["text"])
    assert texts[0] == texts[1]


# ---- what is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"adapter": "prefix"}, "one of none, lora, .*; got 'prefix'"),
        ({"adapter": "lora", "adapter_rank": 0}, "adapter_rank must be at least 1; got 0"),
        ({"adapter": "lora", "adapter_dropout": 1.0}, "adapter_dropout must be"),
        ({"adapter": "bitfit", "adapter_rank": 4}, "adapter_rank is an option of lora, dora, qlora"),
        ({"adapter_targets": ["q_proj"]}, "adapter_targets is an option of"),
        ({"adapter": "mms"}, "adapter_language"),
        ({"adapter": "lora", "adapter_language": "deu"}, "adapter_language"),
    ],
)
def test_options_that_are_wrong_or_have_no_effect(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AdapterArguments(**options)


@pytest.mark.parametrize("targets", [["query"], [r"encoder\.nothing.*"]])
def test_targets_that_match_nothing(targets: list[str]) -> None:
    message = r"match no linear layer of Wav2Vec2ForCTC; it has .*intermediate_dense.*q_proj"
    with pytest.raises(ValueError, match=message):
        add_adapter(wav2vec2(), AdapterArguments(adapter="lora", adapter_targets=targets))


def test_one_regular_expression_chooses_layers() -> None:
    args = AdapterArguments(adapter="lora", adapter_targets=[r".*layers\.1\..*q_proj"])
    assert all("layers.1.attention.q_proj" in name for name in trained(add_adapter(wav2vec2(), args)))


def test_models_without_preset_or_adapter_layers() -> None:
    lstm = LstmForCTC(LstmCTCConfig(vocab_size=8, feature_size=8, hidden_size=8, num_hidden_layers=1))
    with pytest.raises(ValueError, match=r"lstm_ctc.*--adapter none"):
        add_adapter(lstm, AdapterArguments(adapter="lora"))
    llama = LlamaForCausalLM(LlamaConfig(**SIZES, vocab_size=8))
    with pytest.raises(ValueError, match=r"no preset of layers for llama; name some by --adapter_targets"):
        add_adapter(llama, AdapterArguments(adapter="lora"))
    with pytest.raises(ValueError, match="needs a base with adapter layers"):
        add_adapter(wav2vec2(), AdapterArguments(adapter="mms", adapter_language="deu"))


def test_qlora_without_bitsandbytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="qlora needs bitsandbytes: pip install bitsandbytes"):
        quantization_config(AdapterArguments(adapter="qlora"))
    assert quantization_config(AdapterArguments(adapter="lora")) is None


def test_qlora_on_a_base_in_full_precision() -> None:
    with pytest.raises(ValueError, match="4 bits"):
        add_adapter(wav2vec2(), AdapterArguments(adapter="qlora"))


# ---- the check of gradients


def test_a_trained_weight_without_gradient_is_named(tmp_path: Path) -> None:
    model = wav2vec2(layerdrop=0.0)
    model.unused = torch.nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r"get no gradient: .*unused\.weight, unused\.bias"):
        train(model, tmp_path, speech())


def test_layers_that_are_dropped_at_random_are_no_mistake(tmp_path: Path) -> None:
    torch.manual_seed(0)
    train(wav2vec2(layerdrop=0.5), tmp_path, speech(), max_steps=8)


def test_a_gradient_of_zero_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = wav2vec2(layerdrop=0.0)
    torch.nn.init.zeros_(model.lm_head.weight)
    model.lm_head.weight.requires_grad_(False)  # nothing below learns
    with caplog.at_level(logging.WARNING):
        train(model, tmp_path, speech())
    assert "weights is zero: wav2vec2." in caplog.text


@pytest.mark.parametrize("options", [{"gradient_accumulation_steps": 2}, {"warmup_steps": 2, "max_steps": 6}])
def test_lora_starts_without_a_warning(
    options: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = add_adapter(wav2vec2(layerdrop=0.0), AdapterArguments(adapter="lora"), ["lm_head"])
    with caplog.at_level(logging.WARNING, logger="hfaudio"):
        train(model, tmp_path, speech(), **options)
    assert not caplog.records


def test_updates_that_fp16_skips_are_not_counted(caplog: pytest.LogCaptureFixture) -> None:
    model, check = LstmForCTC(LstmCTCConfig(vocab_size=8, feature_size=8, hidden_size=8)), GradientCheck()
    arguments: Any = (None, None, None)
    for value in (float("inf"), float("inf"), float("nan")):
        for weight in model.parameters():
            weight.grad = torch.full_like(weight, value)
        check.on_pre_optimizer_step(*arguments, model=model)
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight)  # as of LoRA's A at its first update
    check.on_pre_optimizer_step(*arguments, model=model)
    assert not caplog.records


def test_the_table_counts_by_part() -> None:
    table = trainable_table(add_adapter(whisper(), AdapterArguments(adapter="lora", adapter_rank=2)))
    total = sum(weight.numel() for weight in whisper().parameters())
    row = next(line for line in table.splitlines() if line.startswith("all")).replace(",", "").split()
    assert int(row[1]) == total + int(row[2]) and "model.encoder" in table and "model.decoder" in table


def test_in_a_training_of_all_weights_idle_ones_are_only_reported(caplog: pytest.LogCaptureFixture) -> None:
    model, check = wav2vec2(layerdrop=0.0, mask_time_prob=0.0), GradientCheck(is_error=False)
    model.unused = torch.nn.Linear(2, 2)
    model(torch.randn(1, 1600), labels=torch.tensor([[3, 4]])).loss.backward()
    arguments: Any = (None, None, None)
    for _ in range(3):
        check.on_pre_optimizer_step(*arguments, model=model)
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 1 and "no gradient: unused.weight, unused.bias;" in messages[0]
