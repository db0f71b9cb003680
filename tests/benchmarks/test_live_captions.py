"""The benchmark of live captions run for real, on a few seconds and not in real time."""

import json
from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest

from hfaudio.data.bundled import path
from hfaudio.inference.transcribe import Transcriber


@pytest.fixture(scope="module")
def script(open_page: Callable[[str], ModuleType]) -> ModuleType:
    return open_page("benchmarks/live_captions.py")


def test_nothing_that_was_sent_is_lost(script: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    script.main(["--seconds", "8", "--fast", "--parts", "live"])
    figures = json.loads(capsys.readouterr().out)
    live = figures["live"]
    assert live["received_samples"] == live["sent_samples"] == round(48_000 * figures["sound_seconds"])
    assert live["decoded_seconds"] == pytest.approx(figures["sound_seconds"], abs=1e-3)
    assert 0 < live["latency_median_seconds"] <= live["latency_95_percent_seconds"]
    assert live["changed_after_settled"] == 0
    assert live["wer"] <= live["file_wer"] + 0.1


def test_a_slowed_reader_sleeps_for_the_sound_it_is_given_and_reads_the_same(script: ModuleType) -> None:
    transcriber = Transcriber(path("asr"), language_model=False, progress=False)
    clip = np.random.default_rng(0).normal(0, 0.1, 1600).astype(np.float32)
    slow = script.slowed(transcriber, 3.0).recognizer
    before = script.time.perf_counter()
    found = slow.forward([clip])
    assert script.time.perf_counter() - before >= 3.0 * 0.1
    np.testing.assert_array_equal(found, transcriber.recognizer.forward([clip]))


def test_half_a_settled_word_is_a_change(script: ModuleType) -> None:
    assert script.begins_with("a gentle tune", ["a", "gentle"])
    assert script.begins_with("a gentle tune", [])
    assert not script.begins_with("a gentle tune", ["a", "gent"])
    assert not script.begins_with("a gentle", ["a", "gentle", "tune"])
