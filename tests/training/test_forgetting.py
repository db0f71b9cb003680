from pathlib import Path

import numpy as np
import pytest
from transformers import AutoModelForSpeechSeq2Seq, AutoProcessor

from hfaudio.data.datasets import DataArguments, RowCheck, check_rows, load_splits
from hfaudio.metrics.error_rate import paired_bootstrap
from hfaudio.training.adapters import AdapterArguments, add_adapter, plain_model
from hfaudio.training.forgetting import (
    RATE,
    Answer,
    ForgettingArguments,
    ForgettingReport,
    Probe,
    ask,
    is_well_timed,
    joined,
    named_set,
    open_probes,
    silence,
)

CHECK = RowCheck()


@pytest.fixture(scope="module")
def rows(songs: Path):
    return check_rows(load_splits(DataArguments(dataset=str(songs)))["validation"], CHECK)[0]


def opened(folder: Path):
    return AutoModelForSpeechSeq2Seq.from_pretrained(folder), AutoProcessor.from_pretrained(folder)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("read=user/speech", ("read", "user/speech", "test")),
        ("read=user/speech:validation", ("read", "user/speech", "validation")),
        ("read=/data/a:b/c", ("read", "/data/a:b/c", "test")),
        ("read=/data/c:dev", ("read", "/data/c", "dev")),
    ],
)
def test_names_of_sets(given, expected):
    assert named_set(given) == expected


@pytest.mark.parametrize("given", ["user/speech", "=user/speech", "read="])
def test_sets_without_a_name_are_refused(given):
    with pytest.raises(ValueError, match="takes NAME=FOLDER_OR_ID"):
        ForgettingArguments(forgetting_sets=[given])


def test_probes_are_the_same_clips_before_and_after(rows, songs):
    args = ForgettingArguments(
        forgetting_sets=[f"other={songs}:test"], forgetting_examples=5, forgetting_long_seconds=3
    )
    first, second = (open_probes(args, rows, CHECK, has_times=True, seed=1) for _ in range(2))
    names = ["own data", "other", "own data, with times", "long form (3 s)", "silence"]
    assert [probe.name for probe in first] == names
    assert [probe.texts for probe in first] == [probe.texts for probe in second]
    assert len(first[0].clips) == len(first[1].clips) == 5
    without_times = open_probes(args, rows, CHECK, has_times=False, seed=1)
    assert [probe.name for probe in without_times] == ["own data", "other", "silence"]
    assert open_probes(ForgettingArguments(forgetting_examples=0), rows, CHECK, has_times=True, seed=1) == []


def test_joined_clips_keep_all_words_and_samples():
    clips = [np.full(RATE, value, "f4") for value in (0.1, 0.2, 0.3)]
    long = joined(Probe("x", clips, ["a b", "c", "d"]), seconds=2.5)
    assert long.texts == ["a b c", "d"] and long.timed
    assert [len(clip) / RATE for clip in long.clips] == [3.0, 1.5]  # half a second behind each
    assert sum(float(clip.sum()) for clip in long.clips) == pytest.approx(0.6 * RATE, rel=1e-4)


def test_silence_is_quiet_and_seeded():
    probe = silence(0)
    assert len(probe.clips) == 12 and not any(probe.texts)
    assert max(float(np.abs(clip).max()) for clip in probe.clips) < 0.01
    assert any(not clip.any() for clip in probe.clips)
    assert all(np.array_equal(a, b) for a, b in zip(probe.clips, silence(0).clips, strict=True))


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ([(0.0, 1.0), (1.0, 2.5)], True),
        ([(0.0, 3.5)], True),
        ([(0.0, 4.5)], False),
        ([(0.0, None)], False),
        ([(1.0, 2.0), (1.5, 2.5)], False),
        ([(2.0, 1.0)], False),
        ([], False),
    ],
)
def test_times_in_order(times, expected):
    assert is_well_timed([{"timestamp": pair} for pair in times], seconds=3.0) is expected


def test_the_report_compares_the_same_clips():
    references = ["one two three four", "five six seven eight"] * 5
    probe = Probe("set", [], references, [f"speaker {number % 4}" for number in range(10)])
    wrong = ["one two"] * 10
    before, after = Answer(probe, wrong, [True] * 10), Answer(probe, references, [True] * 10)
    quiet = Probe("silence", [], ["", "", "", ""])
    report = ForgettingReport(
        [before, Answer(quiet, ["", "", "", "thanks"], [False] * 4)],
        [after, Answer(quiet, ["", "", "", ""], [False] * 4)],
        normalizer="basic",
    )
    metrics = report.metrics()
    assert metrics["forgetting/set/wer/before"].value > 0.5
    assert metrics["forgetting/set/wer/after"].value == 0
    assert (metrics["forgetting/silence/text/before"].count, metrics["forgetting/silence/text/after"].count) == (1, 0)
    paired = paired_bootstrap(references, wrong, references, groups=probe.speakers, num_resamples=1000)
    line = next(line for line in report.table().splitlines() if line.startswith("| set | wer"))
    assert f"{100 * paired.value:+.1f}" in line and line.endswith("|") and "| 0.0 |" in line
    assert "| silence | text | 4 | 25.0 | 0.0 |" in report.table()


@pytest.mark.parametrize(("count", "speakers"), [(1, None), (1, ["a"]), (3, ["a", "a", "a"])])
def test_one_recording_or_speaker_has_no_interval(count, speakers):
    probe = Probe("long", [], ["one two three four"] * count, speakers)
    before, after = (Answer(probe, [text] * count, [True] * count) for text in ("one two three", "one"))
    report = ForgettingReport([before], [after], normalizer="basic")
    assert f"| long | wer | {count} | 25.0 | 75.0 | +50.0 |" in report.table()


def test_a_model_with_an_adapter_in_training_is_asked_as_it_is(small_whisper, rows):
    model, processor = opened(small_whisper)
    probes = open_probes(ForgettingArguments(forgetting_examples=2, forgetting_long_seconds=2), rows, CHECK,
                         has_times=True, seed=0)  # fmt: skip
    options = {"normalizer": "basic", "generate_kwargs": {"max_new_tokens": 8}}
    plain = ask(model, processor, probes, **options)
    adapted = add_adapter(opened(small_whisper)[0], AdapterArguments(adapter="lora")).train()
    same = ask(adapted, processor, probes, **options)
    assert [answer.texts for answer in plain] == [answer.texts for answer in same]  # LoRA starts as no change
    assert plain_model(adapted).training
    assert all(len(answer.texts) == len(answer.probe.clips) for answer in same)
