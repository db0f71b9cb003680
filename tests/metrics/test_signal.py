import warnings
from collections.abc import Callable
from functools import partial

import librosa
import numpy as np
import pytest
import torch
from scipy.signal import ShortTimeFFT, get_window

from hfaudio.metrics.signal import mean_distances, mel_distance, si_sdr, signal_distances, stft_distance

RATE = 16_000
MEL_BANDS = {32: 5, 64: 10, 128: 20, 256: 40, 512: 80, 1024: 160, 2048: 320}  # DAC, conf/final/44khz.yml
Distance = Callable[..., torch.Tensor]
SPECTRAL: list[Distance] = [partial(mel_distance, sample_rate=RATE), stft_distance]
ALL: list[Distance] = [si_sdr, *SPECTRAL]


def clip(seed: int, samples: int = 8000) -> np.ndarray:
    """A chord that decays, and a little noise: (N,) float64."""
    rng = np.random.default_rng(seed)
    time = np.arange(samples) / RATE
    chord = sum(0.2 * np.sin(2 * np.pi * pitch * time) for pitch in rng.uniform(100, 4000, 4))
    return chord * np.exp(-3 * time) + rng.normal(0, 1e-3, samples)


def coded(signal: np.ndarray, seed: int = 0) -> np.ndarray:
    return 0.8 * signal + np.random.default_rng(seed).normal(0, 0.01, signal.shape)


def magnitudes(signal: np.ndarray, n_fft: int) -> np.ndarray:
    """scipy's spectrogram of the mirrored clip: (lines, frames)."""
    window = get_window("hann", n_fft)
    half = n_fft // 2
    mirrored = np.pad(signal, half, mode="reflect")
    transform = ShortTimeFFT(window, n_fft // 4, fs=1, fft_mode="onesided")
    frames = 1 + len(signal) // (n_fft // 4)
    first = half // (n_fft // 4)  # scipy centres frame p at sample p * hop, of the mirrored clip here
    return np.abs(transform.stft(mirrored, p0=first, p1=first + frames))


def test_si_sdr_is_the_angle_between_the_signals() -> None:
    """Le Roux et al. 2019, section 2: the ratio is cot^2 of the angle, whatever the scales and the means."""
    reference = clip(0)
    estimate = coded(reference)
    correlation = np.corrcoef(reference, estimate)[0, 1]
    expected = 10 * np.log10(correlation**2 / (1 - correlation**2))
    assert si_sdr(reference, estimate).item() == pytest.approx(expected, abs=1e-6)
    assert si_sdr(3 * reference + 0.1, -0.5 * estimate - 0.2).item() == pytest.approx(expected, abs=1e-6)


def test_noise_ten_times_weaker_is_20_db() -> None:
    reference, noise = torch.sin(torch.arange(8000) * torch.pi / 8), torch.cos(torch.arange(8000) * torch.pi / 8)
    assert si_sdr(reference, reference + 0.1 * noise).item() == pytest.approx(20, abs=1e-4)


def test_si_sdr_has_values_at_its_ends_and_none_for_a_silent_reference() -> None:
    signal = torch.from_numpy(clip(0)).float()
    silent = torch.zeros_like(signal)
    references = torch.stack([signal, signal, silent, silent + 0.1, signal])
    estimates = torch.stack([signal, silent, signal, signal, 0.5 * signal])
    values = si_sdr(references, estimates)
    torch.testing.assert_close(values, torch.tensor([100, -100, torch.nan, torch.nan, 100]), equal_nan=True)


def test_mel_distance_equals_librosa() -> None:
    reference, estimate = clip(1), coded(clip(1))
    expected = 0.0
    for n_fft, n_mels in MEL_BANDS.items():
        bank = librosa.filters.mel(sr=RATE, n_fft=n_fft, n_mels=n_mels, dtype=np.float64)
        real, made = (
            np.log10(
                np.maximum(
                    1e-5, bank @ np.abs(librosa.stft(x, n_fft=n_fft, hop_length=n_fft // 4, pad_mode="reflect"))
                )
            )
            for x in (reference, estimate)
        )
        expected += np.abs(real - made).mean()
    # torchaudio's filters are float32.
    assert mel_distance(reference, estimate, RATE).item() == pytest.approx(expected, rel=1e-5)


def test_stft_distance_equals_scipy() -> None:
    reference, estimate = clip(2), coded(clip(2))
    expected = 0.0
    for n_fft in (2048, 512):
        real, made = magnitudes(reference, n_fft), magnitudes(estimate, n_fft)
        expected += np.abs(np.log10(np.maximum(real, 1e-5) ** 2) - np.log10(np.maximum(made, 1e-5) ** 2)).mean()
        expected += np.abs(real - made).mean()
    assert stft_distance(reference, estimate).item() == pytest.approx(expected, rel=1e-9)


def test_half_the_level_is_a_known_distance() -> None:
    """log10(2) in each of the seven resolutions, where no magnitude is below the floor."""
    noise = np.random.default_rng(0).normal(0, 0.2, RATE)
    assert mel_distance(noise, noise / 2, RATE).item() == pytest.approx(7 * np.log10(2), rel=1e-6)


@pytest.mark.parametrize("distance", SPECTRAL)
def test_a_clip_is_at_distance_zero_from_itself_and_farther_with_more_noise(distance: Distance) -> None:
    signal, noise = clip(3), np.random.default_rng(3).normal(0, 1, 8000)
    values = [distance(signal, signal + level * noise).item() for level in (0, 1e-4, 1e-3, 1e-2)]
    assert values[0] == 0
    assert values == sorted(set(values))
    assert distance(signal, signal + 0.01 * noise) == distance(signal + 0.01 * noise, signal)


@pytest.mark.parametrize("distance", ALL)
def test_every_clip_of_a_batch_gets_what_it_gets_alone(distance: Distance) -> None:
    references = np.stack([clip(seed) for seed in range(6)]).reshape(2, 3, -1)
    estimates = np.stack([coded(x, seed) for seed, x in enumerate(references.reshape(6, -1))]).reshape(2, 3, -1)
    values = distance(references, estimates)
    assert values.shape == (2, 3)
    assert distance(references[0, 0], estimates[0, 0]).shape == ()
    alone = [distance(x, y).item() for x, y in zip(references.reshape(6, -1), estimates.reshape(6, -1), strict=True)]
    assert values.flatten().tolist() == pytest.approx(alone, rel=1e-9)


@pytest.mark.parametrize("distance", ALL)
def test_gradients_are_those_of_differences(distance: Distance) -> None:
    reference = torch.from_numpy(clip(4, 2000))
    estimate = torch.from_numpy(coded(clip(4, 2000))).requires_grad_()
    direction = torch.from_numpy(np.random.default_rng(4).normal(size=2000))
    (gradient,) = torch.autograd.grad(distance(reference, estimate), estimate)
    with torch.no_grad():
        step = 1e-7 * direction
        difference = (distance(reference, estimate + step) - distance(reference, estimate - step)) / 2e-7
    assert (gradient @ direction).item() == pytest.approx(difference.item(), rel=1e-3)


@pytest.mark.parametrize("distance", ALL)
def test_gradients_are_finite_where_a_clip_is_silent_or_perfect(distance: Distance) -> None:
    signal = torch.from_numpy(clip(5)).float()
    silent = torch.zeros_like(signal)
    estimates = torch.stack([silent, signal, signal, silent, 0.9 * signal + 0.01 * signal.flip(0)]).requires_grad_()
    references = torch.stack([signal, silent, signal, silent, signal])
    distance(references, estimates).nanmean().backward()
    assert estimates.grad is not None
    assert estimates.grad.isfinite().all()
    assert estimates.grad[-1].abs().max() > 0


@pytest.mark.parametrize("distance", ALL)
def test_half_precision_is_computed_in_float32(distance: Distance) -> None:
    reference = torch.from_numpy(clip(6)).bfloat16()
    estimate = torch.from_numpy(coded(clip(6))).bfloat16()
    value = distance(reference, estimate)
    assert value.dtype == torch.float32
    assert value == distance(reference.float(), estimate.float())
    assert distance(reference.double(), estimate).dtype == torch.float64


@pytest.mark.parametrize("distance", ALL)
def test_what_is_refused(distance: Distance) -> None:
    with pytest.raises(ValueError, match=r"one shape, got \(1, 8000\) and \(1, 8001\); cut off"):
        distance(torch.zeros(1, 8000), torch.zeros(1, 8001))
    with pytest.raises(TypeError, match=r"int16; divide 16-bit integers by 32768"):
        distance(np.zeros(8000, np.int16), np.zeros(8000))
    with pytest.raises(ValueError, match="N >= "):
        distance(torch.zeros(2, 0), torch.zeros(2, 0))


@pytest.mark.parametrize("distance", SPECTRAL)
def test_the_shortest_clip(distance: Distance) -> None:
    assert distance(torch.zeros(1025), torch.ones(1025)).isfinite()
    with pytest.raises(ValueError, match="N >= 1025, got shape"):
        distance(torch.zeros(1024), torch.ones(1024))
    with pytest.raises(ValueError, match="must be positive, got 0 Hz"):
        mel_distance(torch.zeros(2000), torch.zeros(2000), 0)


@pytest.mark.parametrize(("rate", "missing"), [(8000, 0), (44_100, 0), (48_000, 2)])
def test_bands_without_a_line_are_left_out(rate: int, missing: int) -> None:
    """Half the level is then log10(2) away at every rate; empty bands would count as equal and lower it."""
    noise = np.random.default_rng(0).normal(0, 1000, 8000)  # above the floor in every band
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert mel_distance(noise, noise / 2, rate).item() == pytest.approx(7 * np.log10(2), rel=1e-6)
        warnings.simplefilter("ignore")  # librosa's, of empty filters
        banks = [librosa.filters.mel(sr=rate, n_fft=n_fft, n_mels=n_mels) for n_fft, n_mels in MEL_BANDS.items()]
    assert sum(int((~bank.any(1)).sum()) for bank in banks) == missing


def test_a_gradient_after_inference_mode() -> None:
    signal = clip(7)
    with torch.inference_mode():
        mel_distance(signal, signal, 11_025)
    estimate = torch.from_numpy(coded(signal)).requires_grad_()
    mel_distance(signal, estimate, 11_025).backward()
    assert estimate.grad is not None


def test_the_measures_of_a_clip_are_means_over_channels_and_short_clips_are_filled() -> None:
    generator = torch.Generator().manual_seed(0)
    real, made = torch.randn(2, 2, 4000, generator=generator)
    found = signal_distances(real, made, 16_000)
    assert found["si_sdr"] == pytest.approx(float(si_sdr(real, made).mean()))
    assert found["mel"] == pytest.approx(float(mel_distance(real, made, 16_000).mean()))
    assert found["stft"] == pytest.approx(float(stft_distance(real, made).mean()))
    short = signal_distances(real[:, :500], made[:, :500], 16_000)
    filled = [torch.nn.functional.pad(clip[:, :500], (0, 1548)) for clip in (real, made)]
    assert short["mel"] == pytest.approx(float(mel_distance(*filled, 16_000).mean()))


def test_silent_clips_have_distances_but_no_ratio() -> None:
    clip = torch.randn(1, 4000, generator=torch.Generator().manual_seed(0))
    heard, silent = (signal_distances(real, clip, 16_000) for real in (clip, torch.zeros_like(clip)))
    means = mean_distances([heard, silent])
    assert (means["si_sdr"].n, means["mel"].n) == (1, 2)
    assert means["si_sdr"].value == pytest.approx(100)
    assert set(mean_distances([silent])) == {"mel", "stft"}
