import numpy as np
import pytest

from hfaudio.inference.vad import RATE, check_installed, quiet_windows, quietest, speech_spans, speech_windows


def test_windows_of_speech_join_spans_up_to_their_size():
    assert speech_windows([(0, 10), (12, 20), (25, 40)], 30) == [(0, 20), (25, 40)]
    assert speech_windows([(0, 10), (12, 20), (25, 30)], 30) == [(0, 30)]
    assert speech_windows([], 30) == []


def test_a_long_span_is_cut_into_equal_parts():
    windows = speech_windows([(5, 75)], 30)
    assert windows == [(5, 28), (28, 51), (51, 75)]
    assert max(end - start for start, end in windows) <= 30


def test_without_vad_windows_cover_everything_and_end_in_pauses():
    rng = np.random.default_rng(0)
    samples = 0.1 * rng.standard_normal(65 * RATE).astype("f4")
    for second in (26, 27, 53):
        samples[second * RATE : second * RATE + 4000] = 0
    windows = quiet_windows(samples, 30 * RATE)
    assert [start for start, _ in windows][1:] == [end for _, end in windows][:-1]
    assert windows[0][0] == 0 and windows[-1][1] == len(samples)
    assert all(end - start <= 30 * RATE for start, end in windows)
    cuts = [end / RATE for _, end in windows[:-1]]
    assert 26 <= cuts[0] <= 26.25 or 27 <= cuts[0] <= 27.25
    assert 53 <= cuts[1] <= 53.25


@pytest.mark.parametrize("samples", [1, 2, 50, 30 * RATE, 30 * RATE + 1])
def test_windows_of_short_recordings(samples):
    windows = quiet_windows(np.zeros(samples, "f4"), 30 * RATE)
    assert windows[0][0] == 0 and windows[-1][1] == samples
    assert all(0 < end - start <= 30 * RATE for start, end in windows)
    assert 0 < quietest(np.ones(max(2, samples), "f4")) <= max(2, samples)


def test_silero_hears_nothing_in_silence_and_noise():
    pytest.importorskip("silero_vad")
    rng = np.random.default_rng(0)
    assert speech_spans(np.zeros(3 * RATE, "f4")) == []
    assert speech_spans(1e-3 * rng.standard_normal(3 * RATE).astype("f4")) == []
    assert speech_spans(np.zeros(0, "f4")) == []


def test_without_silero_the_remedy_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install \"hfaudio\[vad\]\""):
        check_installed()
