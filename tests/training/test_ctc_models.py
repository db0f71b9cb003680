"""Every way to a model, on tiny folders."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    ParakeetCTCConfig,
    ParakeetFeatureExtractor,
    ParakeetForCTC,
    SeamlessM4TFeatureExtractor,
    Wav2Vec2BertConfig,
    Wav2Vec2BertForCTC,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    Wav2Vec2Processor,
    WhisperConfig,
    WhisperModel,
)

from hfaudio.audio.features import LOG_MEL, WHISPER
from hfaudio.data.collate import CTCCollator
from hfaudio.data.examples import ExampleEncoder
from hfaudio.models import LstmCTCConfig, LstmForCTC, WhisperCTCConfig, WhisperForCTC
from hfaudio.models.frames import FrameCount
from hfaudio.processing import SpectralFeatureExtractor, build_char_tokenizer
from hfaudio.training.ctc_models import ModelArguments, build_model, build_tokenizer, duration_limits, fresh_head

TOKENIZER = build_char_tokenizer(["abcdefgh"])
SIZES = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
WAVE = SIZES | {"conv_dim": (8,) * 7, "num_conv_pos_embedding_groups": 2, "num_conv_pos_embeddings": 16}
WHISPER_SIZES = {"d_model": 32, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 32}
HEAD = {"vocab_size": len(TOKENIZER), "pad_token_id": 0}
FOLDERS = ("wav2vec2", "w2v-bert", "parakeet", "lstm_ctc", "whisper_ctc", "whisper")


def save(name: str, folder: Path) -> None:
    torch.manual_seed(0)
    if name == "wav2vec2":
        model, extractor = Wav2Vec2ForCTC(Wav2Vec2Config(**WAVE, **HEAD)), Wav2Vec2FeatureExtractor()
    elif name == "w2v-bert":
        model, extractor = Wav2Vec2BertForCTC(Wav2Vec2BertConfig(**SIZES, **HEAD)), SeamlessM4TFeatureExtractor()
    elif name == "parakeet":
        model = ParakeetForCTC(ParakeetCTCConfig(encoder_config=SIZES, **HEAD))
        extractor = ParakeetFeatureExtractor()
    elif name == "lstm_ctc":
        model = LstmForCTC(LstmCTCConfig(hidden_size=16, conv_channels=16, **HEAD))
        extractor = SpectralFeatureExtractor(LOG_MEL)
    elif name == "whisper_ctc":
        model = WhisperForCTC(WhisperCTCConfig(**WHISPER_SIZES, **HEAD))
        extractor = SpectralFeatureExtractor(WHISPER, normalize=False)
    else:
        decoder = {"decoder_layers": 1, "decoder_attention_heads": 2, "decoder_ffn_dim": 32}
        model = WhisperModel(WhisperConfig(vocab_size=20, pad_token_id=0, **WHISPER_SIZES, **decoder))
        extractor = SpectralFeatureExtractor(WHISPER, normalize=False)
    model.config.text_normalizer = "basic"
    model.save_pretrained(folder)
    Wav2Vec2Processor(extractor, TOKENIZER).save_pretrained(folder)


@pytest.mark.parametrize("name", FOLDERS)
def test_any_folder_gets_a_new_head_and_trains_on_a_padded_batch(name: str, tmp_path: Path) -> None:
    save(name, tmp_path)
    arguments = ModelArguments(model=str(tmp_path))
    tokenizer = build_tokenizer(arguments, ["xyz xy"])
    model, extractor = build_model(arguments, tokenizer, "basic")
    assert model.config.vocab_size == len(tokenizer) == 6 and model.config.text_normalizer == "basic"
    processor = Wav2Vec2Processor(extractor, tokenizer)
    rng = np.random.default_rng(0)
    clips = [rng.normal(0, 0.1, n).astype(np.float32) for n in (16_000, 24_000)]
    examples = [ExampleEncoder(processor)(clip, "xyz", {"id": "0"}, epoch=0) for clip in clips]
    loss = model(**CTCCollator(processor)(examples)).loss
    loss.backward()
    assert torch.isfinite(loss)
    frames = FrameCount.of(model, extractor)(24_000)
    assert 5 <= frames <= 80


@pytest.mark.parametrize("name", [n for n in FOLDERS if n != "whisper"])
def test_a_kept_vocabulary_keeps_the_head(name: str, tmp_path: Path) -> None:
    save(name, tmp_path)
    arguments = ModelArguments(model=str(tmp_path), keep_vocabulary=True)
    tokenizer = build_tokenizer(arguments, ["abc"])
    model, _ = build_model(arguments, tokenizer, "basic")
    kept = type(model).from_pretrained(tmp_path)
    assert tokenizer.get_vocab() == TOKENIZER.get_vocab()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), kept.parameters(), strict=True))
    with pytest.raises(ValueError, match="learned text as --normalizer basic writes it"):
        build_model(arguments, tokenizer, "english")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"features": "spectrogram"}, "log_mel, mfcc, whisper; got 'spectrogram'"),
        ({"model": "a/b", "hidden_size": 3}, "--hidden_size is an option of --model lstm, not of a/b"),
        ({"keep_vocabulary": True}, "--keep_vocabulary needs a --model with a vocabulary"),
        ({"freeze_feature_encoder": True}, "LstmForCTC has no such part"),
    ],
)
def test_options_that_would_do_nothing_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_model(ModelArguments(**options), TOKENIZER, "basic")


def test_masking_inside_the_model_is_refused_where_there_is_none(tmp_path: Path) -> None:
    save("lstm_ctc", tmp_path)
    with pytest.raises(ValueError, match="lstm_ctc does not mask inside the model"):
        build_model(ModelArguments(model=str(tmp_path), mask_time_prob=0.1), TOKENIZER, "basic")


@pytest.mark.parametrize("name", ["wav2vec2", "w2v-bert"])
def test_clips_at_the_shortest_duration_can_be_masked(name: str, tmp_path: Path) -> None:
    save(name, tmp_path)
    model, extractor = build_model(ModelArguments(model=str(tmp_path), mask_time_prob=0.5), TOKENIZER, "basic")
    shortest, _ = duration_limits(model, FrameCount.of(model, extractor), 16_000, [1.0, 1.1])
    assert 0.2 < shortest < 0.3
    samples = np.zeros(int(shortest / 1.1 * 16_000) + 1, np.float32)
    inputs = extractor(samples, sampling_rate=16_000, return_tensors="pt")
    model.train()(inputs[model.main_input_name])
    with pytest.raises(ValueError, match="mask_length"):
        model(inputs[model.main_input_name][:, : -len(inputs[model.main_input_name][0]) // 4])


def test_clips_at_the_longest_duration_fit_a_whisper_encoder_when_slowed(tmp_path: Path) -> None:
    save("whisper", tmp_path)
    model, extractor = build_model(ModelArguments(model=str(tmp_path)), TOKENIZER, "basic")
    _, longest = duration_limits(model, FrameCount.of(model, extractor), 16_000, [1.0, 0.9])
    assert longest == pytest.approx(27.0, abs=0.1)
    model(extractor(np.zeros(int(longest / 0.9 * 16_000), np.float32), return_tensors="pt")["input_features"])


def test_fresh_head_draws_new_weights() -> None:
    model = LstmForCTC(LstmCTCConfig(hidden_size=16, conv_channels=16))
    before = model.lm_head.weight.clone()
    fresh_head(model)
    assert not torch.equal(model.lm_head.weight, before)
    with pytest.raises(ValueError, match="has no lm_head or ctc_head"):
        fresh_head(torch.nn.Linear(1, 1))
