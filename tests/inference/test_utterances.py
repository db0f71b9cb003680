"""Utterances are cut at pauses, whatever the blocks, the level and the noise."""

import itertools
import time

import numpy as np
import pytest

from hfaudio.inference.utterances import CUT_SECONDS, MARGIN_SECONDS, PauseCutter, utterances

RATE = 16_000


def speech(*pattern: tuple[float, float], level: float = 0.1, noise: float = 0.0, seed: int = 0) -> np.ndarray:
    """Seconds of sound and of silence behind it, in turn; the sound swells like syllables."""
    rng = np.random.default_rng(seed)
    parts = []
    for loud, quiet in pattern:
        time = np.arange(round(loud * RATE)) / RATE
        parts += [
            level * (0.6 + 0.4 * np.sin(25 * time)) * rng.normal(0, 0.5, len(time)),
            np.zeros(round(quiet * RATE)),
        ]
    signal = np.concatenate(parts)
    return (signal + rng.normal(0, noise, len(signal)) if noise else signal).astype(np.float32)


def cut(signal: np.ndarray, size: int, **settings: float) -> list[tuple[float, float]]:
    blocks = (signal[first : first + size] for first in range(0, len(signal), size))
    found = list(utterances(blocks, RATE, **settings))
    for utterance in found:
        assert np.array_equal(utterance.samples, signal[utterance.start :][: len(utterance.samples)])
    return [(u.start / RATE, (u.start + len(u.samples)) / RATE) for u in found]


@pytest.mark.parametrize("size", [100, 8_000, 10**6])
@pytest.mark.parametrize(("level", "noise"), [(0.1, 0.0), (0.1, 1e-3), (0.01, 1e-4)])
def test_a_pause_parts_and_a_shorter_one_does_not(size: int, level: float, noise: float) -> None:
    signal = speech((0.01, 1.0), (2.0, 0.3), (1.0, 0.8), (1.5, 1.0), level=level, noise=noise)
    spans = cut(signal, size)
    expected = [(1.01, 4.31), (5.11, 6.61)]
    assert len(spans) == 2
    for span, (start, end) in zip(spans, expected, strict=True):
        assert span[0] == pytest.approx(start - MARGIN_SECONDS, abs=0.06)
        assert span[1] == pytest.approx(end + MARGIN_SECONDS, abs=0.06)


@pytest.mark.parametrize("noise", [0.0, 1e-5, 1e-3, 0.1])
def test_noise_alone_is_no_speech(noise: float) -> None:
    signal = np.random.default_rng(0).normal(0, noise, 30 * RATE).astype(np.float32)
    assert cut(signal, 4_000) == []


def test_speech_without_a_pause_is_cut_and_nothing_is_lost_between_the_parts() -> None:
    signal = speech((25.0, 1.0))
    signal[round(9.3 * RATE) : round(9.4 * RATE)] *= 0.05
    spans = cut(signal, 8_000, max_seconds=10)
    assert spans[0][1] == pytest.approx(9.35, abs=0.07)  # in the quiet 0.1 s
    assert all(end <= start + 10 + 0.02 for start, end in spans)
    assert all(a[1] == pytest.approx(b[0], abs=MARGIN_SECONDS + 0.05) for a, b in itertools.pairwise(spans))
    assert spans[-1][1] == pytest.approx(25.0 + MARGIN_SECONDS, abs=0.05)


def test_the_open_utterance_is_there_before_it_ends() -> None:
    cutter = PauseCutter(RATE)
    assert cutter.open is None
    assert cutter.push(speech((1.0, 0.2))) == []
    assert cutter.open is not None and len(cutter.open.samples) == pytest.approx(1.2 * RATE, abs=500)
    assert len(cutter.push(np.zeros(RATE, np.float32))) == 1
    assert cutter.open is None and cutter.finish() == []


def test_silence_is_let_go() -> None:
    cutter = PauseCutter(RATE)
    for _ in range(100):
        cutter.push(np.zeros(RATE, np.float32))
    assert len(cutter._held) < RATE


def test_settings_that_make_no_sense_are_told() -> None:
    with pytest.raises(ValueError, match="pause_seconds must be above 0"):
        PauseCutter(RATE, pause_seconds=0)
    with pytest.raises(ValueError, match=f"max_seconds above {2 * CUT_SECONDS:g}"):
        PauseCutter(RATE, max_seconds=3)


def test_a_noise_that_begins_or_rises_is_no_speech() -> None:
    rng = np.random.default_rng(0)
    quiet, louder = (rng.normal(0, level, 10 * RATE).astype(np.float32) for level in (1e-3, 1e-2))
    zeros = np.zeros(3 * RATE, np.float32)
    for signal in (np.concatenate([zeros, louder]), np.concatenate([zeros[:4800], louder]), np.append(quiet, louder)):
        cutter = PauseCutter(RATE)
        for first in range(0, len(signal), 1600):
            assert cutter.push(signal[first : first + 1600]) == []
            assert cutter.open is None


def test_what_was_open_ends_as_an_utterance() -> None:
    """Also where a steady noise follows, beside which the levels of the speech no longer count."""
    noise = np.random.default_rng(0).normal(0, 0.02, 12 * RATE).astype(np.float32)
    signal = np.concatenate([np.zeros(RATE, np.float32), speech((0.5, 0.0)), noise, np.zeros(RATE, np.float32)])
    cutter, opened, ended = PauseCutter(RATE), 0, 0
    was_open = False
    for first in range(0, len(signal), 1600):
        ended += len(cutter.push(signal[first : first + 1600]))
        opened += cutter.open is not None and not was_open
        was_open = cutter.open is not None
    assert opened == ended >= 1


def test_clicks_are_no_speech() -> None:
    signal = np.random.default_rng(0).normal(0, 1e-3, 20 * RATE).astype(np.float32)
    for first in range(RATE, len(signal), 5000):
        signal[first : first + 480] *= 30
    assert cut(signal, 8_000) == []


def test_speech_ten_decibels_above_the_noise_is_heard() -> None:
    spans = cut(speech((0.01, 2.0), (2.0, 1.0), (2.0, 1.0), level=0.1, noise=0.015), 8_000)
    assert len(spans) == 2


def test_pauses_shorter_than_the_margin_keep_the_times_right() -> None:
    spans = cut(speech((0.01, 1.0), *[(1.0, 0.3)] * 10), 777, pause_seconds=0.1)
    assert spans[-1][1] == pytest.approx(1.01 + 10 * 1.3 - 0.3 + 0.1, abs=0.2)


def test_a_long_block_takes_as_long_as_short_ones() -> None:
    """Ten minutes took 44 s when each frame of silence moved all that was behind it."""
    start = time.perf_counter()
    assert PauseCutter(RATE).push(np.zeros(600 * RATE, np.float32)) == []
    assert time.perf_counter() - start < 10
