"""New and pretrained MusicGens: what they are made of, stock loading, stereo, memory."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import MusicgenForConditionalGeneration, pipeline

from hfaudio.data.bundled import path
from hfaudio.models.musicgen import check_conditions, encode_audio, label_codes, window_frames
from hfaudio.text.prompts import draw_prompts
from hfaudio.training.music_models import (
    HEADS_AND_EMBEDDINGS,
    MusicModelArguments,
    open_music_model,
    plan_memory,
    save_halves,
    word_tokenizer,
)

SMALL = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "ffn_dim": 32, "text_hidden_size": 16}


def small(**options: Any) -> tuple[Any, Any]:
    torch.manual_seed(0)
    return open_music_model(MusicModelArguments(**SMALL | options), draw_prompts(200, random.Random(0)))


def test_pipeline_opens_a_new_model_that_was_saved(tmp_path: Path) -> None:
    model, processor = small(window_seconds=0.4)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    assert str(path("codec")) not in (tmp_path / "config.json").read_text()
    play = pipeline("text-to-audio", model=str(tmp_path))
    made = play("slow flute tune in d minor")
    assert made["sampling_rate"] == 16_000
    assert made["audio"].shape[-1] == 0.4 * 16_000  # by default what it was trained on
    assert np.isfinite(made["audio"]).all()


def test_half_precision_on_disk_is_single_precision_in_memory(tmp_path: Path) -> None:
    model, _ = small()
    model.save_pretrained(tmp_path)
    size = (tmp_path / "model.safetensors").stat().st_size
    save_halves(model, tmp_path)
    assert (tmp_path / "model.safetensors").stat().st_size < 0.51 * size
    again = MusicgenForConditionalGeneration.from_pretrained(tmp_path)
    assert again.dtype == torch.float32
    weight, twin = (m.decoder.lm_heads[0].weight for m in (model, again))
    torch.testing.assert_close(weight, twin, rtol=1e-3, atol=1e-6)


def test_only_the_decoder_and_a_new_text_encoder_are_trained() -> None:
    model, _ = small()
    trained = {name.split(".")[0] for name, weight in model.named_parameters() if weight.requires_grad}
    assert trained == {"text_encoder", "decoder", "enc_to_dec_proj"}
    model, _ = small(freeze_text_encoder=True)
    trained = {name.split(".")[0] for name, weight in model.named_parameters() if weight.requires_grad}
    assert trained == {"decoder", "enc_to_dec_proj"}


def test_pretrained_model_keeps_its_window_or_gets_another(tmp_path: Path) -> None:
    model, processor = small(window_seconds=1.0)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    assert window_frames(open_music_model(MusicModelArguments(model=str(tmp_path)), [])[0]) == 25
    again, _ = open_music_model(MusicModelArguments(model=str(tmp_path), window_seconds=2.0), [])
    assert window_frames(again) == 50
    assert not any(weight.requires_grad for weight in again.text_encoder.parameters())


def test_dropout_of_a_pretrained_model_can_be_another(tmp_path: Path) -> None:
    model, processor = small(window_seconds=1.0)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    same, other = (
        open_music_model(MusicModelArguments(model=str(tmp_path), dropout=dropout), [])[0] for dropout in (None, 0.0)
    )
    text = processor.tokenizer("slow flute tune", return_tensors="pt").input_ids
    start = torch.randint(0, 512, (4, 6))
    for opened, varies in ((same, True), (other, False)):
        opened.train()
        with torch.no_grad():
            first, second = (opened(input_ids=text, decoder_input_ids=start).logits for _ in range(2))
        assert first.equal(second) != varies


def test_codes_are_those_of_the_bundled_codec() -> None:
    model, _ = small()
    assert model.audio_encoder.config.num_quantizers == 4
    audio = 0.1 * torch.randn(1, 1, 16_000, generator=torch.Generator().manual_seed(0))
    codes = encode_audio(model.audio_encoder, audio, 4)
    assert codes.shape == (1, 4, 25)
    prompt = model.audio_encoder.encode(audio).audio_codes[0]  # as `generate` encodes an audio prompt
    assert prompt.equal(codes)


def test_melody_model_takes_text_and_chroma() -> None:
    model, processor = small(melody=True)
    assert set(check_conditions(model)) == {"text", "melody"}
    second = np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000).astype(np.float32)
    chroma = processor.feature_extractor(second, sampling_rate=16_000, return_tensors="pt")["input_features"]
    assert chroma.shape[-1] == 12
    assert chroma[0].mean(0).argmax() == 9  # an a


def test_stereo_model_begins_with_what_mono_knows(tmp_path: Path) -> None:
    """Two equal channels give, on each of them, the logits that mono gives."""
    model, processor = small()
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    stereo, _ = open_music_model(MusicModelArguments(model=str(tmp_path), channels=2), [])
    codes = torch.randint(0, 512, (4, 6))
    text = processor.tokenizer("slow flute tune", return_tensors="pt")
    text = {name: text[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        mono = model.eval()(**text, decoder_input_ids=label_codes([codes], model.decoder.config)["decoder_input_ids"])
        both = label_codes([codes.repeat_interleave(2, 0)], stereo.decoder.config)
        wide = stereo.eval()(**text, decoder_input_ids=both["decoder_input_ids"])
    for side in (0, 1):
        torch.testing.assert_close(wide.logits[side::2], mono.logits)
    assert stereo.decoder.config.audio_channels == 2
    with pytest.raises(ValueError, match="cannot be made mono"):
        stereo.save_pretrained(tmp_path)
        open_music_model(MusicModelArguments(model=str(tmp_path), channels=1), [])


def test_tokenizer_knows_the_commonest_words_and_marks_others() -> None:
    tokenizer = word_tokenizer(["Slow flute tune!", "slow piano", "a, c# minor"], 6)
    assert len(tokenizer) == 6
    assert tokenizer.tokenize("slow kazoo") == ["slow", "<unk>"]
    assert tokenizer("").input_ids == [tokenizer.eos_token_id]
    assert word_tokenizer(["c# minor don't"], 99).tokenize("C# minor, DON'T") == ["c#", "minor", "don't"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_codebooks": 9}, "--num_codebooks is 9 and the codec has 8"),
        ({"num_codebooks": 0}, "--num_codebooks must be at least 1"),
        ({"channels": 3}, "--channels must be 1 or 2; got 3"),
        ({"window_seconds": 0.0}, "--window_seconds must be above 0"),
        ({"model": "bundled", "melody": True}, "--melody makes a new model"),
        ({"model": str(path("codec"))}, "is a encodec model, expected one of musicgen, musicgen_melody"),
    ],
)
def test_mistakes_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        open_music_model(MusicModelArguments(**options), ["a b"])


def test_plan_takes_the_first_way_that_fits() -> None:
    model, _ = small(hidden_size=512, num_hidden_layers=4, ffn_dim=1024)
    large = plan_memory(model, 16, 1500)
    assert (large.adapter, large.batch_size, large.gradient_checkpointing) == ("none", 16, False)
    less = plan_memory(model, 1.5, 1500)
    assert less.adapter == "none"
    assert less.batch_size * less.gradient_accumulation_steps == 16
    assert less.gigabytes <= 0.8 * 1.5
    assert plan_memory(model, 0.32, 1500).adapter == "lora"
    with pytest.raises(ValueError, match=r"--memory_gb 0\.1 is too little"):
        plan_memory(model, 0.1, 1500)


def test_heads_and_embeddings_have_adapters_where_asked() -> None:
    import re

    model, _ = small()
    found = [name for name, _ in model.named_modules() if re.fullmatch(HEADS_AND_EMBEDDINGS, name)]
    assert "decoder.lm_heads.3" in found
    assert "decoder.model.decoder.embed_tokens.0" in found
    assert "decoder.model.decoder.layers.0.encoder_attn.q_proj" in found
    assert not any(name.startswith(("text_encoder", "audio_encoder")) for name in found)
