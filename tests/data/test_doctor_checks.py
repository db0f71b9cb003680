"""Each check is silent on clean data and speaks up for the fault that was planted, naming its row."""

import tracemalloc
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from hfaudio.data.datasets import RowCheck
from hfaudio.data.doctor import character_frames
from hfaudio.data.doctor_audio import SHAPE_SIZE, Clip
from hfaudio.data.doctor_checks import CHECKS, Finding
from hfaudio.data.doctor_measures import EXAMPLES, Names, SplitMeasures, short_name, snippet

Row = dict  # "clip" beside the columns of a row
WORDS = "zero one two three four five six seven eight nine".split()


def row_check(**limits: float) -> RowCheck:
    return RowCheck(min_frames=character_frames, num_frames=lambda samples: samples // 320, **limits)


def clean_rows(split: str, count: int, seed: int) -> list[Row]:
    """Rows whose transcripts, recordings and speakers are no other's, in the same letters."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        digits = f"{seed}{number:03d}"
        text = " ".join(WORDS[int(digit)] for digit in digits)
        seconds = len(text) / 12 * rng.uniform(0.9, 1.1)
        clip = Clip(
            encoding="flac",
            sample_rate=16_000,
            channels=1,
            seconds=seconds + 0.2,
            leading_silence=0.1,
            trailing_silence=0.1,
            loudest_db=-20.0,
            samples=round(16_000 * (seconds + 0.2)),
            full_scale_samples=0,
            fingerprint=int(rng.integers(1, 2**63)),
            spread=seconds / 4,
            shape=rng.integers(-127, 128, SHAPE_SIZE).astype(np.int8).tobytes(),
        )
        speaker = f"{split} {number % 4}"
        rows.append({"id": f"{split}-{number}", "text": text, "speaker": speaker, "clip": clip})
    return rows


def clean() -> dict[str, list[Row]]:
    return {"train": clean_rows("train", 200, 1), "validation": clean_rows("validation", 60, 2)}


def measured(splits: dict[str, list[Row]]) -> dict[str, SplitMeasures]:
    result = {}
    for name, rows in splits.items():
        result[name] = SplitMeasures(name, row_check())
        for row in rows:
            result[name].add(row, row["clip"])
    return result


def findings(splits: dict[str, list[Row]]) -> dict[str, Finding]:
    split_measures = measured(splits)
    return {name: check(split_measures) for name, check in CHECKS.items()}


def change(row: Row, **measures: float | str | bytes) -> None:
    row["clip"] = replace(row["clip"], **measures)


def test_clean_data_is_fine() -> None:
    found = findings(clean())
    assert {name: finding.value for name, finding in found.items() if finding.severity != "fine"} == {}
    assert all(finding.name == name for name, finding in found.items())


# Each fault is planted in the rows of clean(); the ids are rows that the finding must name.


def copy_clip(rows: list[Row], source: Row, place: int) -> None:
    """The same recording and transcript in another row."""
    rows[place] |= {"clip": source["clip"], "text": source["text"]}


def plant_unreadable(train: list[Row], validation: list[Row]) -> None:
    train[5]["clip"] = "corrupt"
    train[6]["clip"] = "missing"
    train[7]["clip"] = "not finite"


def plant_one_unreadable(train: list[Row], validation: list[Row]) -> None:
    train[5]["clip"] = "corrupt"


def plant_no_text(train: list[Row], validation: list[Row]) -> None:
    for row in validation:
        row["text"] = "..."


def plant_copy_across(train: list[Row], validation: list[Row]) -> None:
    copy_clip(validation, train[3], 9)


def plant_copy_within(train: list[Row], validation: list[Row]) -> None:
    copy_clip(train, train[3], 9)


def plant_coded_copy(train: list[Row], validation: list[Row]) -> None:
    source = train[3]["clip"]
    shape = np.frombuffer(source.shape, np.int8).astype(int) + np.resize([2, -3, 1], SHAPE_SIZE)
    shape = np.clip(shape, -127, 127).astype(np.int8).tobytes()
    copy_clip(validation, train[3], 9)
    change(validation[9], fingerprint=7, spread=1.01 * source.spread, shape=shape)


def plant_contradiction(train: list[Row], validation: list[Row]) -> None:
    train[9]["clip"] = replace(train[3]["clip"])


def plant_speaker(train: list[Row], validation: list[Row]) -> None:
    validation[9]["speaker"] = train[3]["speaker"]


def plant_long_label(train: list[Row], validation: list[Row]) -> None:
    change(train[5], seconds=0.3, leading_silence=0.0, trailing_silence=0.0, samples=4800)


def plant_few_empty(train: list[Row], validation: list[Row]) -> None:
    train[5]["text"] = None
    train[6]["text"] = " (noise) "


def plant_slow(train: list[Row], validation: list[Row]) -> None:
    change(train[5], seconds=19.0)


def plant_silent(train: list[Row], validation: list[Row]) -> None:
    for row in train[5:8]:
        change(row, loudest_db=-90.0, leading_silence=row["clip"].seconds, trailing_silence=0.0)


def plant_edges(train: list[Row], validation: list[Row]) -> None:
    for row in validation:
        change(row, seconds=3 * row["clip"].seconds, leading_silence=2 * row["clip"].seconds)


def plant_clipping(train: list[Row], validation: list[Row]) -> None:
    for row in train[5:10]:
        change(row, full_scale_samples=row["clip"].samples // 1000)


def plant_short(train: list[Row], validation: list[Row]) -> None:
    change(train[5], seconds=0.05, leading_silence=0.0, trailing_silence=0.0)


def plant_long(train: list[Row], validation: list[Row]) -> None:
    change(train[5], seconds=30.0, trailing_silence=30.0 - train[5]["clip"].seconds + 0.1)


def plant_rate(train: list[Row], validation: list[Row]) -> None:
    change(validation[5], sample_rate=8000)


def plant_stereo(train: list[Row], validation: list[Row]) -> None:
    change(validation[5], channels=2)


def plant_default_text(train: list[Row], validation: list[Row]) -> None:
    for row in train[:60]:
        row["text"] = train[0]["text"]
        change(row, seconds=train[0]["clip"].seconds)


def plant_known_texts(train: list[Row], validation: list[Row]) -> None:
    for number in range(15):
        validation[number]["text"] = train[number]["text"]


def plant_rare(train: list[Row], validation: list[Row]) -> None:
    train[5]["text"] += " ñ"


def plant_unknown(train: list[Row], validation: list[Row]) -> None:
    validation[5]["text"] += " ñ"


def plant_mixed(train: list[Row], validation: list[Row]) -> None:
    train[5]["text"] = train[5]["text"].replace("e", "\u0435", 1)


def plant_decomposed(train: list[Row], validation: list[Row]) -> None:
    train[5]["text"] += " cafe\u0301"


def plant_invisible(train: list[Row], validation: list[Row]) -> None:
    train[5]["text"] += "\u200b"


def plant_mojibake(train: list[Row], validation: list[Row]) -> None:
    train[5]["text"] += " caf\u00c3\u00a9"


FAULTS: list[tuple[str, str, Callable[[list[Row], list[Row]], None], str]] = [
    ("unreadable", "fix", plant_unreadable, "train-5 train-6 train-7"),
    ("unreadable", "look", plant_one_unreadable, "train-5"),
    ("usable", "fix", plant_no_text, ""),
    ("empty_transcripts", "fix", plant_no_text, "validation-0"),
    ("empty_transcripts", "look", plant_few_empty, "train-5 train-6"),
    ("copies_across", "fix", plant_copy_across, "validation-9"),
    ("copies_within", "look", plant_copy_within, "train-9"),
    ("similar_recordings", "look", plant_coded_copy, "validation-9"),
    ("contradictions", "look", plant_contradiction, "train-3 train-9"),
    ("shared_speakers", "fix", plant_speaker, ""),
    ("labels_fit", "fix", plant_long_label, "train-5"),
    ("speech_rate", "look", plant_slow, "train-5"),
    ("silent_clips", "fix", plant_silent, "train-5 train-6 train-7"),
    ("long_silences", "look", plant_edges, ""),
    ("clipping", "look", plant_clipping, "train-5 train-9"),
    ("too_short", "look", plant_short, "train-5"),
    ("too_long", "look", plant_long, "train-5"),
    ("sample_rates", "look", plant_rate, ""),
    ("channels", "look", plant_stereo, ""),
    ("repeated_transcripts", "look", plant_default_text, "train-0"),
    ("shared_transcripts", "look", plant_known_texts, ""),
    ("rare_characters", "look", plant_rare, "train-5"),
    ("unknown_characters", "look", plant_unknown, "validation-5"),
    ("mixed_scripts", "look", plant_mixed, "train-5"),
    ("unicode_forms", "look", plant_decomposed, "train-5"),
    ("invisible_characters", "look", plant_invisible, "train-5"),
    ("broken_encoding", "look", plant_mojibake, "train-5"),
]


@pytest.mark.parametrize(
    ("name", "severity", "plant", "ids"), FAULTS, ids=lambda value: getattr(value, "__name__", None)
)
def test_a_planted_fault_is_found(name: str, severity: str, plant: Callable, ids: str) -> None:
    splits = clean()
    plant(splits["train"], splits["validation"])
    found = findings(splits)[name]
    assert found.severity == severity, found
    assert set(ids.split()) <= {example.id for example in found.examples}


def test_every_check_has_a_planted_fault() -> None:
    assert {name for name, *_ in FAULTS} == set(CHECKS)


def test_what_only_evaluation_splits_share_needs_no_fix() -> None:
    splits = clean()
    splits["test"] = clean_rows("test", 60, 3)
    copy_clip(splits["test"], splits["validation"][3], 9)
    splits["test"][9]["speaker"] = splits["validation"][3]["speaker"]
    found = findings(splits)
    assert found["copies_across"].severity == found["shared_speakers"].severity == "look"
    assert found["copies_across"].value == "1 in both validation and test"


def test_parts_of_a_training_set_may_share_speakers() -> None:
    splits = {"train.clean": clean_rows("train", 60, 1), "train.other": clean_rows("train", 60, 4)}
    assert findings(splits)["shared_speakers"].severity == "fine"


def test_silence_is_no_copy_of_silence() -> None:
    splits = clean()
    for row in splits["train"][:2] + splits["validation"][:2]:
        change(row, fingerprint=5, loudest_db=-99.0, leading_silence=row["clip"].seconds, trailing_silence=0.0)
    found = findings(splits)
    assert found["copies_within"].severity == found["copies_across"].severity == "fine"


def test_speakers_that_are_not_named_are_not_said_to_differ() -> None:
    splits = clean()
    for row in splits["validation"]:
        del row["speaker"]
    assert findings(splits)["shared_speakers"].severity == "look"
    for row in splits["train"] + splits["validation"]:
        row["speaker"] = "unknown"  # what load_split writes for null
    assert "not all splits name their speakers" in findings(splits)["shared_speakers"].value


def test_a_label_of_exactly_its_frames_fits() -> None:
    assert character_frames("noon on") == 8
    split = SplitMeasures("train", row_check())
    clip = clean()["train"][0]["clip"]
    for number, samples in enumerate((8 * 320, 8 * 320 - 1)):
        short = replace(clip, seconds=samples / 16_000, samples=samples, leading_silence=0.0, trailing_silence=0.0)
        split.add({"id": str(number), "text": "noon on"}, short)
    assert split.skipped == {"label longer than its frames": 1}
    assert [example.id for example in split.examples("label longer than its frames")] == ["1"]


def test_long_names_stay_different_and_short() -> None:
    names = {short_name("x" * 200 + str(number)) for number in range(50)}
    assert len(names) == 50
    assert max(map(len, names)) == 40
    assert snippet("a\x07b\n" + "c" * 99).startswith("a\\u0007b ccc")


def test_names_come_back() -> None:
    names = Names()
    for name in ("", "first", "zwölf", ""):
        names.append(name)
    assert [names[i] for i in range(len(names))] == ["", "first", "zwölf", ""]


def test_memory_is_200_bytes_a_row_and_examples_are_few() -> None:
    """A shared text keeps the counters out of the measurement; arrays may have grown by an eighth ahead."""
    split = SplitMeasures("train", row_check())
    rows = clean_rows("train", 100, 1)
    tracemalloc.start()
    for number in range(6000):
        if number == 1000:
            before = tracemalloc.get_traced_memory()[0]
        row = rows[number % 100]
        clip = "corrupt" if number % 2 else replace(row["clip"], full_scale_samples=number)
        split.add(row | {"id": f"clip-{number:09d}"}, clip)
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert grown / 5000 < 200
    assert len(split) == 6000
    assert len(split.clipped) == len(split.examples("corrupt")) == EXAMPLES
