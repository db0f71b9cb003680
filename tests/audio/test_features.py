"""hfaudio.audio.features against librosa (0.11) and transformers' WhisperFeatureExtractor (5.23)."""

import ast
import dataclasses
import sys
from pathlib import Path

import librosa
import numpy as np
import pytest
import torch
from transformers import WhisperFeatureExtractor

from hfaudio.audio import features
from hfaudio.audio.features import (
    ARTICLE_MFCC,
    LOG_MEL,
    WHISPER,
    FeatureSettings,
    extract_features,
    normalize_features,
)

PRESETS = pytest.mark.parametrize("settings", [LOG_MEL, ARTICLE_MFCC, WHISPER], ids=["log_mel", "mfcc", "whisper"])


def chirp(seconds: float, seed: int = 0) -> torch.Tensor:
    """A tone rising from 200 to 4000 Hz that comes and goes, in noise."""
    t = np.arange(round(16000 * seconds)) / 16000
    tone = np.sin(2 * np.pi * (200 * t + 1900 * t**2 / seconds)) * np.sin(2 * np.pi * 1.5 * t) ** 2
    noise = np.random.default_rng(seed).standard_normal(len(t))
    return torch.tensor(0.3 * tone + 0.003 * noise, dtype=torch.float32)


def librosa_arguments(settings: FeatureSettings) -> dict[str, object]:
    return {
        "sr": settings.sample_rate,
        "n_fft": settings.n_fft,
        "win_length": settings.win_length,
        "hop_length": settings.hop_length,
        "n_mels": settings.n_mels,
        "fmin": settings.f_min,
        "fmax": settings.f_max,
    }


def test_log_mel_is_the_logarithm_of_librosas_melspectrogram_down_to_60_db() -> None:
    waveform = torch.cat([chirp(1.0), torch.zeros(8000)])  # the silence goes below the floor
    energies = librosa.feature.melspectrogram(y=waveform.numpy(), **librosa_arguments(LOG_MEL))
    expected = np.log(energies.clip(energies.max() / 1e6))  # 60 dB
    np.testing.assert_allclose(extract_features(waveform, LOG_MEL), expected.T, atol=2e-3)


def test_mfcc_is_librosas() -> None:
    """Same Hann window, zeros beyond the ends, Slaney mels, dB with an 80 dB floor, orthonormal DCT-II."""
    waveform = torch.cat([chirp(1.0), torch.zeros(8000)])  # the silence goes below the floor
    expected = librosa.feature.mfcc(y=waveform.numpy(), n_mfcc=40, **librosa_arguments(ARTICLE_MFCC))
    computed = extract_features(waveform, ARTICLE_MFCC)
    assert computed.shape == (47, 40)
    np.testing.assert_allclose(computed, expected.T, atol=1e-2)  # in dB; the first coefficients are in the hundreds


@pytest.mark.parametrize("n_mels", [80, 128])
def test_whisper_is_transformers(n_mels: int) -> None:
    waveform = chirp(2.3)
    extractor = WhisperFeatureExtractor(feature_size=n_mels)
    expected = extractor(waveform.numpy(), sampling_rate=16000, return_tensors="pt").input_features[0].T
    padded = torch.nn.functional.pad(waveform, (0, 30 * 16000 - len(waveform)))
    computed = extract_features(padded, dataclasses.replace(WHISPER, n_mels=n_mels))
    assert computed.shape == (3000, n_mels)
    torch.testing.assert_close(computed, expected, atol=1e-4, rtol=0)


@PRESETS
def test_a_clip_in_a_batch_equals_the_clip_alone(settings: FeatureSettings) -> None:
    batch = torch.stack([chirp(0.5, seed=0), 0.001 * chirp(0.5, seed=1)])  # different loudness: floors are per clip
    together = extract_features(batch.reshape(2, 1, -1), settings)
    assert together.shape == (2, 1, settings.num_frames(8000), settings.feature_size)
    for clip, computed in zip(batch, together, strict=True):
        torch.testing.assert_close(computed[0], extract_features(clip, settings), atol=1e-3, rtol=1e-5)


@pytest.mark.parametrize("settings", [LOG_MEL, ARTICLE_MFCC], ids=["log_mel", "mfcc"])
def test_zeros_appended_in_a_batch_change_no_frame_of_the_clip(settings: FeatureSettings) -> None:
    waveform = chirp(0.7)
    padded = torch.nn.functional.pad(waveform, (0, 5000))
    frames = settings.num_frames(len(waveform))
    torch.testing.assert_close(
        extract_features(padded, settings)[:frames], extract_features(waveform, settings), atol=1e-3, rtol=1e-5
    )


@PRESETS
@pytest.mark.parametrize("samples", [1, 2, 159, 160, 200, 201, 202, 255, 256, 319, 320, 1000, 16000])
def test_any_length_gives_the_promised_frames(settings: FeatureSettings, samples: int) -> None:
    computed = extract_features(torch.full((samples,), 0.1), settings)
    assert computed.shape == (settings.num_frames(samples), settings.feature_size)
    assert len(computed) >= 1
    assert computed.isfinite().all()


@PRESETS
def test_silence_is_finite(settings: FeatureSettings) -> None:
    computed = extract_features(torch.zeros(4000), settings)
    assert computed.isfinite().all()
    assert normalize_features(computed).abs().max() < 1e-2


@PRESETS
def test_gradient_reaches_the_waveform(settings: FeatureSettings) -> None:
    with torch.inference_mode():  # the cached window and filters must not stay inference tensors
        extract_features(torch.ones(1000), dataclasses.replace(settings, hop_length=123))
    waveform = chirp(0.2).requires_grad_()
    extract_features(waveform, dataclasses.replace(settings, hop_length=123)).sum().backward()
    assert waveform.grad is not None
    assert waveform.grad.isfinite().all() and waveform.grad.abs().max() > 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_dtype_follows_the_input(dtype: torch.dtype) -> None:
    waveform = chirp(0.2).to(dtype)
    computed = extract_features(waveform, LOG_MEL)
    assert computed.dtype == dtype
    torch.testing.assert_close(computed.float(), extract_features(waveform.float(), LOG_MEL), atol=5e-2, rtol=1e-2)


def test_autocast_does_not_cost_precision() -> None:
    waveform = chirp(0.2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        computed = extract_features(waveform, LOG_MEL)
    torch.testing.assert_close(computed, extract_features(waveform, LOG_MEL))


def test_normalized_features_have_mean_zero_and_deviation_one() -> None:
    normalized = normalize_features(extract_features(chirp(1.0), LOG_MEL))
    torch.testing.assert_close(normalized.mean(0), torch.zeros(80), atol=1e-4, rtol=0)
    torch.testing.assert_close(normalized.std(0, correction=0), torch.ones(80), atol=1e-3, rtol=0)


def test_normalizing_one_frame_gives_zeros_and_a_finite_gradient() -> None:
    frame = torch.randn(1, 40, requires_grad=True)
    normalized = normalize_features(frame)
    assert (normalized == 0).all()
    normalized.sum().backward()
    assert frame.grad is not None and frame.grad.isfinite().all()


def test_rates_of_the_presets() -> None:
    assert LOG_MEL.frames_per_second == WHISPER.frames_per_second == 100
    assert ARTICLE_MFCC.frames_per_second == 31.25
    assert (LOG_MEL.feature_size, ARTICLE_MFCC.feature_size, WHISPER.feature_size) == (80, 40, 80)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dynamic_range_db": 0.0}, "dynamic_range_db must be positive or None, got 0.0"),
        ({"feature_type": "plp"}, "log_mel, mfcc or whisper, got 'plp'"),
        ({"hop_length": 0}, "hop_length must be at least 1, got 0"),
        ({"win_length": 600}, "must not exceed n_fft=512, got 600"),
        ({"f_max": 9000.0}, "sample_rate / 2 = 8000"),
        ({"n_mfcc": 13}, "n_mfcc belongs to feature_type mfcc"),
        ({"feature_type": "mfcc"}, "n_mfcc must be between 1 and n_mels=80, got None"),
    ],
)
def test_impossible_settings_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(LOG_MEL, **change)


def test_an_empty_waveform_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one sample"):
        extract_features(torch.zeros(2, 0), LOG_MEL)


def test_the_file_stands_alone() -> None:
    """It is copied into model folders: nothing but the standard library, torch and torchaudio."""
    tree = ast.parse(Path(features.__file__).read_text())
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
    packages = {name.split(".")[0] for name in imported}
    assert packages - sys.stdlib_module_names == {"torch", "torchaudio"}
