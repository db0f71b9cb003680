"""hfaudio.audio.resample against scipy (>= 1.14), sines and itself in blocks."""

import numpy as np
import pytest
import torch
from scipy.signal import resample_poly

from hfaudio.audio.resample import resample, resample_blocks


def sine(frequency: float, rate: int, samples: int) -> np.ndarray:
    return np.sin(2 * np.pi * frequency * np.arange(samples) / rate).astype(np.float32)


@pytest.mark.parametrize(("from_rate", "to_rate"), [(44100, 16000), (48000, 16000), (8000, 16000), (22050, 16000)])
def test_sine_stays_a_sine(from_rate: int, to_rate: int) -> None:
    resampled = resample(sine(1000, from_rate, from_rate), from_rate, to_rate)
    expected = sine(1000, to_rate, to_rate)
    assert resampled.dtype == np.float32
    assert len(resampled) == to_rate
    np.testing.assert_allclose(resampled[100:-100], expected[100:-100], atol=2e-3)


def test_what_the_new_rate_cannot_hold_is_removed() -> None:
    aliased = resample(sine(10_000, 44100, 44100), 44100, 16000)[100:-100]
    assert np.abs(aliased).max() < 1e-2  # -40 dB; torchaudio's 6 zero crossings give -45 dB here


@pytest.mark.parametrize(("up", "down"), [(160, 441), (2, 1), (1, 3)])
def test_agrees_with_scipy_on_band_limited_noise(up: int, down: int) -> None:
    spectrum = np.random.default_rng(0).standard_normal(22050) * np.exp(1j * np.arange(22050))
    edge = int(22050 * 0.7 * min(1, up / down))  # both filters are flat below 70 % of the lower Nyquist frequency
    spectrum[edge:] = 0
    signal = np.fft.irfft(spectrum, 44100)
    signal /= signal.std()
    error = resample(signal, down, up)[200:-200] - resample_poly(signal, up, down, window=("kaiser", 12.0))[200:-200]
    assert error.std() < 1e-2


def test_equal_rates_return_the_input() -> None:
    signal = sine(440, 16000, 100)
    assert resample(signal, 16000, 16000) is signal


def test_tensors_keep_shape_dtype_and_gradient() -> None:
    signal = torch.randn(2, 3, 441, dtype=torch.float64, requires_grad=True)
    resampled = resample(signal, 44100, 16000)
    assert resampled.shape == (2, 3, 160)
    assert resampled.dtype == torch.float64
    resampled.square().sum().backward()
    assert signal.grad is not None and signal.grad.abs().max() > 0
    torch.testing.assert_close(resampled[1, 2], resample(signal[1, 2], 44100, 16000))


def test_filters_first_made_in_inference_mode_serve_training() -> None:
    with torch.inference_mode():
        resample(torch.randn(100), 7, 5)
    signal = torch.randn(100, requires_grad=True)
    resample(signal, 7, 5).sum().backward()


@pytest.mark.parametrize("samples", [1, 2, 100])
def test_short_signals(samples: int) -> None:
    assert len(resample(np.ones(samples, np.float32), 44100, 16000)) == -(-samples * 160 // 441)


def test_length_is_exact_where_float32_cannot_count() -> None:
    """Of odd numbers above 2**24 = 16,777,216 float32 has none; torchaudio returns one sample less here."""
    assert len(resample(np.zeros(5_592_407, np.float32), 1, 3)) == 16_777_221


def test_rates_without_common_divisor_need_no_gigabytes() -> None:
    resampled = resample(sine(1000, 44101, 44101), 44101, 16000)
    assert abs(len(resampled) - 16000) <= 1
    np.testing.assert_allclose(resampled[100:15900], sine(1000, 16000, 16000)[100:15900], atol=1e-2)


@pytest.mark.parametrize(("from_rate", "to_rate"), [(44100, 16000), (8000, 16000), (48000, 16000), (16000, 16000)])
@pytest.mark.parametrize("sizes", [[3000], [1, 2, 1000, 0, 5, 1992], [7] * 400 + [200]])
def test_blocks_equal_the_whole(from_rate: int, to_rate: int, sizes: list[int]) -> None:
    signal = np.random.default_rng(0).standard_normal(3000).astype(np.float32)
    blocks = np.split(signal, np.cumsum(sizes)[:-1])
    joined = np.concatenate(list(resample_blocks(blocks, from_rate, to_rate)))
    np.testing.assert_allclose(joined, resample(signal, from_rate, to_rate), atol=1e-6)


@pytest.mark.parametrize(("from_rate", "to_rate"), [(44100, 16000), (16000, 48000)])
def test_channels_in_blocks_are_resampled_one_by_one(from_rate: int, to_rate: int) -> None:
    stereo = np.random.default_rng(0).standard_normal((2, 3000)).astype(np.float32)
    blocks = np.split(stereo, [1, 1700], axis=1)
    joined = np.concatenate(list(resample_blocks(blocks, from_rate, to_rate)), axis=1)
    expected = np.stack([resample(channel, from_rate, to_rate) for channel in stereo])
    np.testing.assert_allclose(joined, expected, atol=1e-6)


def test_wrong_input_is_refused() -> None:
    with pytest.raises(TypeError, match="divide 16-bit integers by 32768"):
        resample(np.ones(10, np.int16), 8000, 16000)
    with pytest.raises(ValueError, match="must be positive"):
        resample(np.ones(10, np.float32), 0, 16000)
