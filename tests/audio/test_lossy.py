"""hfaudio.audio.lossy: what comes back is in time with what went in, at the bit rate that the packets have."""

import itertools
import sys

import numpy as np
import pytest

from hfaudio.audio.lossy import DECODERS, MPEG_KBITS, Lossy, round_trip
from hfaudio.audio.resample import resample

CODECS = ("opus", "mp3", "aac")


def music(seconds: float, rate: int, channels: int | None = None) -> np.ndarray:
    """Noise with the falling spectrum of music, from 50 Hz to 0.4 of the rate and 7 kHz at most."""
    size = round(seconds * rate)
    spectrum = np.fft.rfft(np.random.default_rng(0).standard_normal((channels or 1, size)))
    frequency = np.fft.rfftfreq(size, 1 / rate)
    spectrum *= (frequency > 50) * (frequency < min(7000, 0.4 * rate)) / (1 + frequency / 300)
    samples = np.fft.irfft(spectrum, size)
    samples *= 0.1 / samples.std()
    return (samples if channels else samples[0]).astype(np.float32)


def chirp(seconds: float, rate: int) -> np.ndarray:
    """A sine that rises from 100 Hz to 3.5 kHz."""
    time = np.arange(round(seconds * rate)) / rate
    return (0.3 * np.sin(2 * np.pi * (100 + 1700 * time / seconds) * time)).astype(np.float32)


def lag(reference: np.ndarray, other: np.ndarray) -> int:
    """Samples by which `other` is late: the peak of the cross-correlation over all shifts."""
    size = 2 * len(reference)
    product = np.fft.rfft(other, size) * np.conj(np.fft.rfft(reference, size))
    peak = int(np.fft.irfft(product, size).argmax())
    return peak if peak < len(reference) else peak - size


def snr(reference: np.ndarray, other: np.ndarray) -> float:
    """Decibels, without any gain or shift to help."""
    return 10 * np.log10(np.square(reference).sum() / np.square(reference - other).sum())


@pytest.mark.parametrize(
    ("name", "rate", "bit_rate"),
    [
        ("opus", 16_000, 6000),
        ("opus", 48_000, 6000),  # narrow-band speech mode
        ("opus", 48_000, 12_000),  # wide-band speech mode
        ("opus", 48_000, 24_000),  # hybrid mode
        ("opus", 44_100, 64_000),
        ("mp3", 16_000, 16_000),
        ("mp3", 44_100, 64_000),
        ("mp3", 8000, 16_000),
        ("aac", 16_000, 16_000),
        ("aac", 44_100, 64_000),
    ],
)
def test_what_comes_back_is_in_time(name: str, rate: int, bit_rate: int) -> None:
    for samples in (music(3.0, rate), chirp(3.0, rate)):
        coded = round_trip(samples, rate, Lossy(name, bit_rate))
        assert coded.samples.shape == samples.shape
        assert coded.samples.dtype == np.float32
        assert lag(samples, coded.samples) == 0


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize(("rate", "low", "high"), [(16_000, 16_000, 64_000), (44_100, 32_000, 128_000)])
def test_more_bits_are_measured_and_come_closer(name: str, rate: int, low: int, high: int) -> None:
    samples = music(5.0, rate)
    coarse, fine = (round_trip(samples, rate, Lossy(name, bit_rate)) for bit_rate in (low, high))
    tolerance = 0.12 if name == "aac" else 0.001  # of the three, only aac is steered by an average
    assert coarse.bits_per_second == pytest.approx(low, rel=tolerance)
    assert fine.bits_per_second == pytest.approx(high, rel=tolerance)
    assert coarse.codec == Lossy(name, low)
    assert snr(samples, fine.samples) > snr(samples, coarse.samples) + 6
    assert snr(samples, fine.samples) > 17


def test_opus_keeps_its_rate_to_the_byte() -> None:
    """A packet of 20 ms at 6 kbit/s is 15 bytes."""
    assert round_trip(music(1.0, 16_000), 16_000, Lossy("opus", 6000)).bits_per_second == 6000


@pytest.mark.parametrize("name", CODECS)
def test_channels_stay_apart(name: str) -> None:
    samples = music(2.0, 44_100, channels=2)
    coded = round_trip(samples, 44_100, Lossy(name, 160_000)).samples
    assert coded.shape == samples.shape
    for mine, other in ((0, 1), (1, 0)):
        assert lag(samples[mine], coded[mine]) == 0
        assert snr(samples[mine], coded[mine]) > 10
        assert snr(samples[other], coded[mine]) < 0


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_clips_of_any_length(name: str, rate: int) -> None:
    whole = music(0.3, rate)
    for size in (rate // 10, rate // 10 + 1, rate // 100, 1):
        coded = round_trip(whole[:size], rate, Lossy(name, 64_000))
        assert coded.samples.shape == (size,)
    clip = whole[: rate // 10]
    coded = round_trip(clip, rate, Lossy(name, 64_000))
    assert lag(clip, coded.samples) == 0
    assert coded.bits_per_second == pytest.approx(64_000, rel=0.4 if name == "aac" else 0.002)


@pytest.mark.parametrize("name", CODECS)
def test_silence_stays_silent(name: str) -> None:
    coded = round_trip(np.zeros(16_000, np.float32), 16_000, Lossy(name, 16_000))
    assert np.abs(coded.samples).max() < 1e-4
    assert 0 < coded.bits_per_second <= 16_500


def test_opus_takes_every_sample_rate_and_the_others_name_theirs() -> None:
    samples = music(0.5, 12_345)
    assert lag(samples, round_trip(samples, 12_345, Lossy("opus", 32_000)).samples) == 0
    for name in ("mp3", "aac"):
        with pytest.raises(ValueError, match=rf"{name} has no sample rate of 12345 Hz; resample to one of .*16000, "):
            round_trip(samples, 12_345, Lossy(name, 32_000))


@pytest.mark.parametrize("highest_rate", MPEG_KBITS)
def test_mp3_has_the_bit_rates_of_its_standard_and_none_between(highest_rate: int) -> None:
    samples = music(0.1, highest_rate)
    kbits = MPEG_KBITS[highest_rate]
    for kbit in kbits:
        coded = round_trip(samples, highest_rate, Lossy("mp3", 1000 * kbit))
        assert coded.bits_per_second == pytest.approx(1000 * kbit, rel=0.002)
    between = [500 * (lower + upper) for lower, upper in itertools.pairwise(kbits)]
    for bit_rate in [*between, 1250 * kbits[-1]]:
        with pytest.raises(ValueError, match=f"ask for 1000 times one of {kbits[0]}, {kbits[1]}"):
            round_trip(samples, highest_rate, Lossy("mp3", bit_rate))


def test_bit_rates_that_the_encoder_does_not_keep_are_refused() -> None:
    samples = music(1.5, 44_100)
    with pytest.raises(
        ValueError, match=r"opus refuses 256001 bit/s for 1 channel at 48000 Hz; ask for 6000 to 256000"
    ):
        round_trip(samples, 44_100, Lossy("opus", 256_001))
    with pytest.raises(
        ValueError, match=r"mp3 made 320\d\d of 16000 bit/s for 1 channel at 44100 Hz; ask for 1000 ti"
    ):
        round_trip(samples, 44_100, Lossy("mp3", 16_000))
    with pytest.raises(ValueError, match=r"aac made \d+ of 264601 bit/s for 1 channel at 44100 Hz; it goes to 264600"):
        round_trip(samples, 44_100, Lossy("aac", 264_601))
    with pytest.raises(ValueError, match=r"aac made 1\d{4} of 8000 bit/s .* change the sample rate"):
        round_trip(samples, 44_100, Lossy("aac", 8000))
    at_16_khz = resample(samples, 44_100, 16_000)
    assert round_trip(at_16_khz, 16_000, Lossy("aac", 8000)).bits_per_second < 10_000


def test_mistakes_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="unknown codec 'vorbis'; choose one of opus, mp3, aac"):
        Lossy("vorbis", 64_000)
    with pytest.raises(ValueError, match="at least 6000 bits a second, got 24"):
        Lossy("opus", 24)
    for shape in ((3, 100), (0,), (2, 0), (1, 2, 100)):
        with pytest.raises(ValueError, match=r"expected samples \(N,\) or \(2, N\)"):
            round_trip(np.zeros(shape, np.float32), 16_000, Lossy("mp3", 16_000))
    with pytest.raises(ValueError, match="NaN or infinity"):
        round_trip(np.array([0.0, np.nan]), 16_000, Lossy("mp3", 16_000))
    monkeypatch.setitem(sys.modules, "av", None)  # what an absent package looks like to import
    for name in DECODERS:
        with pytest.raises(ValueError, match=r"pip install 'hfaudio\[video\]'"):
            round_trip(music(0.1, 16_000), 16_000, Lossy(name, 16_000))
