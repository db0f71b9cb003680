"""Loudness against the standard's tables and reference level, and against FFmpeg's meter."""

import math
from typing import Any

import av
import numpy as np
import pytest

from hfaudio.audio.export import k_weighting, loudness, normalise_loudness, true_peak
from hfaudio.audio.resample import resample


def tone(frequency: float, rate: int, seconds: float = 3.0, level: float = 1.0) -> np.ndarray:
    return level * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)[None]


def measured_by_ffmpeg(samples: np.ndarray, rate: int) -> dict[str, float]:
    """`I` (LUFS) and `true_peak` (linear) of the ebur128 filter, which reads 10 steps a second."""
    graph = av.filter.Graph()
    source = graph.add_abuffer(sample_rate=rate, format="fltp", layout="mono" if len(samples) == 1 else "stereo")
    graph.link_nodes(source, graph.add("ebur128", "metadata=1:peak=true"), graph.add("abuffersink")).configure()
    frame = av.AudioFrame.from_ndarray(np.float32(samples), format="fltp", layout=("mono", "stereo")[len(samples) - 1])
    frame.sample_rate, frame.pts = rate, 0
    graph.push(frame)
    graph.push(None)
    found: dict[str, Any] = {}
    while True:
        try:
            found |= graph.pull().metadata
        except (av.EOFError, av.BlockingIOError):
            return {name: float(found[f"lavfi.r128.{name}"]) for name in ("I", "true_peak")}


def music(rate: int, channels: int) -> np.ndarray:
    """6 s of notes of unequal level over faint noise, with two seconds that only the gates leave out."""
    rng = np.random.default_rng(0)
    notes = [
        level * tone(f, rate, 0.5)
        for f, level in zip((110, 262, 880, 2093) * 3, rng.uniform(0.1, 0.9, 12), strict=True)
    ]
    samples = np.concatenate(notes, axis=1) + 0.01 * rng.standard_normal((channels, 6 * rate))
    samples[:, 2 * rate : 4 * rate] *= 0.01
    return samples.astype(np.float32)


def test_filters_at_48_khz_are_those_of_the_standard() -> None:
    """BS.1770-4, tables 1 and 2."""
    (shelf, shelf_poles), (high_pass, high_pass_poles) = k_weighting(48_000)
    np.testing.assert_allclose(shelf, [1.53512485958697, -2.69169618940638, 1.19839281085285], atol=1e-12)
    np.testing.assert_allclose(shelf_poles, [1, -1.69065929318241, 0.73248077421585], atol=1e-12)
    np.testing.assert_allclose(high_pass, [1, -2, 1])
    np.testing.assert_allclose(high_pass_poles, [1, -1.99004745483398, 0.99007225036621], atol=1e-12)


def test_the_reference_tone_has_the_reference_level() -> None:
    """997 Hz at full scale in one channel is -3.01 LKFS; in both channels the powers add."""
    reference = tone(997, 48_000)
    assert loudness(reference, 48_000) == pytest.approx(-3.01, abs=0.01)
    assert loudness(0.1 * reference, 48_000) == pytest.approx(-23.01, abs=0.01)
    assert loudness(np.repeat(reference, 2, axis=0), 48_000) == pytest.approx(0, abs=0.01)
    assert loudness(tone(997, 16_000), 16_000) == pytest.approx(-3.01, abs=0.05)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("rate", [16_000, 44_100, 48_000])
def test_loudness_is_that_of_ffmpeg(rate: int, channels: int) -> None:
    """The gates are at work here: without them these notes measure 1.8 LU less."""
    samples = music(rate, channels)
    reference = measured_by_ffmpeg(samples, rate)
    assert loudness(samples, rate) == pytest.approx(reference["I"], abs=0.05)
    assert 20 * math.log10(true_peak(samples) / reference["true_peak"]) == pytest.approx(0, abs=0.15)


def test_a_true_peak_lies_between_samples() -> None:
    """A quarter of the rate, sampled at 45 degrees: samples reach 0.707 of a peak of 1."""
    samples = np.sin(np.pi / 2 * np.arange(16_000) + np.pi / 4)[None] * np.hanning(16_000)
    assert np.abs(samples).max() == pytest.approx(math.sqrt(0.5), abs=1e-3)
    assert true_peak(samples) == pytest.approx(1, abs=0.01)


def test_the_target_is_reached() -> None:
    for lufs in (-23.0, -16.0):
        normalised = normalise_loudness(music(16_000, 2), 16_000, lufs)
        assert normalised.dtype == np.float32 and normalised.shape == (2, 6 * 16_000)
        assert loudness(normalised, 16_000) == pytest.approx(lufs, abs=1e-3)


def test_a_peak_holds_the_gain_back() -> None:
    samples = 0.01 * music(16_000, 1)
    samples[0, 1000] = 0.5
    normalised = normalise_loudness(samples, 16_000, -16.0, peak_db=-3.0)
    assert 20 * math.log10(true_peak(normalised)) == pytest.approx(-3, abs=1e-3)
    assert 20 * math.log10(np.abs(resample(normalised, 1, 8)).max()) < -2.3
    assert loudness(normalised, 16_000) < -30
    np.testing.assert_allclose(normalised / samples, normalised[0, 1000] / samples[0, 1000], rtol=1e-5)  # one gain


@pytest.mark.parametrize("samples", [np.zeros((2, 16_000)), tone(440, 16_000, 0.399), tone(440, 16_000, 1, 1e-4)])
def test_what_has_no_loudness_stays_as_it_is(samples: np.ndarray) -> None:
    assert loudness(samples, 16_000) == -math.inf
    np.testing.assert_array_equal(normalise_loudness(samples, 16_000), samples.astype(np.float32))


def test_0_4_seconds_have_a_loudness() -> None:
    assert loudness(normalise_loudness(tone(440, 16_000, 0.4), 16_000), 16_000) == pytest.approx(-16, abs=1e-3)


def test_mistakes_are_named() -> None:
    clip = tone(440, 16_000)
    with pytest.raises(ValueError, match=r"one or two channels.*\(48000,\)"):
        normalise_loudness(clip[0], 16_000)
    with pytest.raises(ValueError, match="NaN"):
        normalise_loudness(np.full((1, 16_000), np.nan), 16_000)
    with pytest.raises(ValueError, match=r"at most 0 .* got 3"):
        normalise_loudness(clip, 16_000, peak_db=3)
    with pytest.raises(ValueError, match="such as -16, got nan"):
        normalise_loudness(clip, 16_000, math.nan)
