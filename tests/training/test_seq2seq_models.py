"""Architectures other than an English-only Whisper, through the recipe's own steps."""

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForSpeechSeq2Seq,
    GenerationConfig,
    MoonshineConfig,
    MoonshineForConditionalGeneration,
    PreTrainedTokenizerFast,
    Speech2TextConfig,
    Speech2TextForConditionalGeneration,
    SpeechEncoderDecoderConfig,
    SpeechEncoderDecoderModel,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Processor,
)

from hfaudio.processing.targets import PlainTargets, WhisperTargets
from hfaudio.training.seq2seq_models import (
    Seq2SeqModelArguments,
    build_targets,
    freeze,
    longest_clip,
    new_whisper,
    open_seq2seq,
)

HERE = [
    "--use_cpu",
    "--dataloader_num_workers",
    "0",
    "--disable_tqdm",
    "True",
    "--max_steps",
    "2",
    "--eval_steps",
    "2",
]
HERE += ["--save_steps", "2", "--max_eval_examples", "3", "--watch_examples", "2", "--max_train_examples", "8"]
HERE += ["--forgetting_examples", "1"]
IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}


def letters() -> PreTrainedTokenizerFast:
    vocabulary = {token: number for number, token in enumerate(["<pad>", "<s>", "</s>", "<unk>", *"abcde|"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    specials = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **specials)


def moonshine():
    layers = {"encoder_num_hidden_layers": 1, "decoder_num_hidden_layers": 1}
    heads = {"encoder_num_attention_heads": 2, "decoder_num_attention_heads": 2}
    sizes = {"hidden_size": 16, "intermediate_size": 16, "max_position_embeddings": 40}
    return MoonshineForConditionalGeneration(MoonshineConfig(vocab_size=10, **layers, **heads, **sizes, **IDS))


def speech_encoder_decoder():
    encoder = Wav2Vec2Config(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, conv_dim=(8,) * 7,
        num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2, mask_time_prob=0.0,
    )  # fmt: skip
    decoder = {
        "model_type": "bart", "d_model": 16, "decoder_layers": 1, "decoder_attention_heads": 2, "decoder_ffn_dim": 16,
        "vocab_size": 10, "is_decoder": True, "add_cross_attention": True, "max_position_embeddings": 40,
        "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    config = SpeechEncoderDecoderConfig(encoder=encoder.to_dict(), decoder=decoder, **IDS)
    return SpeechEncoderDecoderModel(config=config)


@pytest.mark.parametrize("make", [moonshine, speech_encoder_decoder])
def test_other_architectures_are_trained_scored_and_opened(make, songs: Path, tmp_path: Path, run_seq2seq) -> None:
    torch.manual_seed(0)
    model = make()
    model.generation_config = GenerationConfig(max_length=20, **IDS)
    model.save_pretrained(tmp_path / "base")
    Wav2Vec2Processor(Wav2Vec2FeatureExtractor(return_attention_mask=True), letters()).save_pretrained(
        tmp_path / "base"
    )
    results = run_seq2seq("--model", tmp_path / "base", "--dataset", songs, "--output_dir", tmp_path / "tuned", *HERE)
    assert results["metrics"]["test/wer/generate"]["n"] == 3
    assert "forgetting/silence/text/after" in results["metrics"]
    assert not any("times" in name or "long form" in name for name in results["metrics"])
    tuned = AutoModelForSpeechSeq2Seq.from_pretrained(tmp_path / "tuned")
    start = dict(model.named_parameters())
    assert any(not torch.equal(weight, start[name]) for name, weight in tuned.named_parameters())


def multilingual(folder: Path) -> Path:
    sizes = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "dropout": 0.0, "vocab_size": 260}
    torch.manual_seed(0)
    model, processor = new_whisper(Seq2SeqModelArguments(**sizes), ["abc de"])
    tokenizer = processor.tokenizer
    config = model.generation_config
    config.is_multilingual = True
    config.lang_to_id = {"<|en|>": tokenizer.convert_tokens_to_ids("<|en|>")}
    config.task_to_id = {name: tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in ("transcribe", "translate")}
    positions = model.model.decoder.embed_positions
    positions.weight = torch.nn.Parameter(positions.weight[:40].clone())
    model.config.max_target_positions = model.generation_config.max_length = 40
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def test_a_multilingual_whisper_is_told_its_language(songs: Path, tmp_path: Path, run_seq2seq) -> None:
    base = multilingual(tmp_path / "base")
    options = [
        "--model",
        base,
        "--dataset",
        songs,
        "--output_dir",
        tmp_path / "tuned",
        *HERE,
        "--forgetting_examples",
        0,
    ]
    with pytest.raises(ValueError, match="must be told the language; set --language or --language_column"):
        run_seq2seq(*options)
    with pytest.raises(ValueError, match="no language 'klingon'"):
        run_seq2seq(*options, "--language", "klingon")
    results = run_seq2seq(*options, "--language", "english")
    assert results["language"] == "english"
    saved = GenerationConfig.from_pretrained(tmp_path / "tuned")
    assert (saved.language, saved.task) == ("en", "transcribe")  # pipeline() needs no further word
    args = Seq2SeqModelArguments(model=str(base))
    model, processor = open_seq2seq(args, [])
    targets = build_targets(args, model, processor, "english", trained=True)
    assert isinstance(targets, WhisperTargets) and targets.prompt_length == 4
    assert targets.generate_kwargs == {"language": "en", "task": "transcribe"}


def test_a_start_token_that_only_the_config_tells() -> None:
    model = Speech2TextForConditionalGeneration(
        Speech2TextConfig(vocab_size=10, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
                          decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16)
    )  # fmt: skip
    model.generation_config.decoder_start_token_id = None
    processor = type("Processor", (), {"tokenizer": letters()})
    targets = build_targets(Seq2SeqModelArguments(model="x"), model, processor, None, trained=True)
    assert isinstance(targets, PlainTargets)
    assert (targets.start_id, targets.end_id) == (model.config.decoder_start_token_id, model.config.eos_token_id)
    with pytest.raises(ValueError, match="speech_to_text knows no tasks"):
        build_targets(Seq2SeqModelArguments(model="x", task="translate"), model, processor, None, trained=True)


@pytest.mark.parametrize(
    ("part", "frozen", "trained"),
    [
        ("encoder", "model.encoder.layers.0.fc1.weight", "model.decoder.layers.0.fc1.weight"),
        ("decoder", "model.decoder.layers.0.fc1.weight", "model.encoder.layers.0.fc1.weight"),
        ("convolutions", "model.encoder.conv2.bias", "model.encoder.layers.0.fc1.weight"),
        ("embeddings", "model.decoder.embed_tokens.weight", "model.decoder.layers.0.fc1.weight"),
    ],
)
def test_parts_that_are_frozen(part, frozen, trained) -> None:
    model, _ = new_whisper(Seq2SeqModelArguments(d_model=16, encoder_layers=1, decoder_layers=1), ["abc"])
    freeze(model, [part])
    weights = dict(model.named_parameters())
    assert not weights[frozen].requires_grad and weights[trained].requires_grad


def test_how_long_a_clip_may_be() -> None:
    model, _ = new_whisper(Seq2SeqModelArguments(d_model=16, encoder_layers=1, decoder_layers=1), ["abc"])
    assert longest_clip(model, [1.0], 0.0) == 30
    assert longest_clip(model, [0.9, 1.1], 0.5) == pytest.approx(26)  # 26 s and a second of silence, 10 % slower: 30
    assert longest_clip(moonshine(), [0.9], 0.5) == float("inf")
