from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoFeatureExtractor, AutoProcessor, Wav2Vec2Processor, WhisperFeatureExtractor

import hfaudio.auto  # noqa: F401
from hfaudio.audio.features import ARTICLE_MFCC, LOG_MEL, WHISPER
from hfaudio.processing import SpectralFeatureExtractor, build_bpe_tokenizer, build_char_tokenizer


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.1, round(16_000 * seconds)).astype(np.float32)


@pytest.mark.parametrize("settings", [LOG_MEL, ARTICLE_MFCC, WHISPER], ids=lambda s: s.feature_type)
def test_a_clip_alone_equals_itself_in_a_batch(settings) -> None:
    extractor = SpectralFeatureExtractor(settings)
    clips = [noise(1.0), noise(0.31, 1), noise(2.2, 2)]
    batch = extractor(clips, sampling_rate=16_000, return_tensors="pt")
    assert batch["input_features"].shape[::2] == (3, settings.feature_size)
    for i, clip in enumerate(clips):
        alone = extractor(clip, sampling_rate=16_000, return_tensors="pt")["input_features"][0]
        length = int(batch["attention_mask"][i].sum())
        assert len(alone) == length == settings.num_frames(len(clip))
        assert torch.equal(batch["input_features"][i, :length], alone)


def test_features_have_mean_zero_and_deviation_one_over_the_clip() -> None:
    features = SpectralFeatureExtractor(LOG_MEL).extract(noise(1.0))
    np.testing.assert_allclose(features.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(features.std(0), 1, atol=1e-2)


def test_whisper_features_equal_those_of_transformers_without_the_padding_to_30_seconds() -> None:
    clip = noise(1.5)
    ours = SpectralFeatureExtractor(WHISPER, normalize=False).extract(clip)
    theirs = WhisperFeatureExtractor()(clip, sampling_rate=16_000, return_tensors="np")["input_features"][0].T
    # the last two frames see the mirrored end of the clip here, zeros there
    np.testing.assert_allclose(ours[:-2], theirs[: len(ours) - 2], atol=1e-4)


@pytest.mark.parametrize("settings", [LOG_MEL, ARTICLE_MFCC, WHISPER], ids=lambda s: s.feature_type)
def test_saved_alone_and_in_a_processor_it_opens_equal(settings, tmp_path: Path) -> None:
    extractor = SpectralFeatureExtractor(settings, normalize=False)
    extractor.save_pretrained(tmp_path / "alone")
    for tokenizer in (build_char_tokenizer(["ab"]), build_bpe_tokenizer(["ab ab"], 8)):
        folder = tmp_path / type(tokenizer).__name__
        Wav2Vec2Processor(extractor, tokenizer).save_pretrained(folder)
        processor = AutoProcessor.from_pretrained(folder)
        assert type(processor.tokenizer) is type(tokenizer)
        for opened in (AutoFeatureExtractor.from_pretrained(tmp_path / "alone"), processor.feature_extractor):
            assert (opened.settings, opened.normalize) == (settings, False)
            assert np.array_equal(opened.extract(noise(0.5)), extractor.extract(noise(0.5)))


def test_another_rate_and_stereo_are_refused() -> None:
    extractor = SpectralFeatureExtractor(LOG_MEL)
    with pytest.raises(ValueError, match="expected audio at 16000 Hz, got 44100; resample it"):
        extractor(noise(1.0), sampling_rate=44_100)
    with pytest.raises(ValueError, match=r"expected mono audio of shape \(samples,\), got \(2, 100\)"):
        extractor([np.zeros((2, 100), dtype=np.float32)], sampling_rate=16_000)
