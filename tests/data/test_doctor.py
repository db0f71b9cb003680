"""The report on a dataset with planted faults: read as files or as a stream, on one thread or several."""

import io
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

import hfaudio.data.doctor
from hfaudio.data.datasets import DataArguments
from hfaudio.data.doctor import CHECKS, READ_AHEAD, examine, histogram, measured_rows, quantiles

RATE = 16_000
ROWS = {"train": 40, "validation": 12}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def stored(samples: np.ndarray, rate: int = RATE, kind: str = "FLAC") -> dict[str, Any]:
    file = io.BytesIO()
    soundfile.write(file, np.round(32767 * samples).astype(np.int16), rate, format=kind)
    return {"bytes": file.getvalue(), "path": None}


def voice(seed: int, seconds: float) -> np.ndarray:
    """Bursts of noise, other ones for each seed."""
    rng = np.random.default_rng(seed)
    loudness = np.repeat(rng.uniform(0.05, 1, 20), round(seconds * RATE / 20))
    return (0.2 * loudness * rng.uniform(-1, 1, len(loudness))).astype(np.float32)


def clean_rows(split: str) -> list[dict[str, Any]]:
    rng = np.random.default_rng(len(split))
    rows = []
    for number in range(ROWS[split]):
        text = " ".join(rng.permutation(["abba", "cold", "dale", "bold", "call"])[:4]) + " " + "abcdelo"[number % 7]
        audio = stored(voice(100 * len(split) + number, len(text) / 12))
        row = {"audio": audio, "text": text, "speaker": f"{split} {number % 3}", "id": f"{split}-{number}"}
        rows.append(row)
    return rows


def planted() -> dict[str, list[dict[str, Any]]]:
    splits = {split: clean_rows(split) for split in ROWS}
    train, validation = splits["train"], splits["validation"]
    train[1]["audio"] = {"bytes": b"this is no audio", "path": None}
    train[2]["audio"] = None
    train[3]["audio"] = stored(np.zeros(RATE))
    train[4]["audio"] = stored(np.clip(30 * voice(4, 2.0), -1, 1))
    train[5]["audio"] = stored(voice(5, 0.2))  # too short for its text
    train[6]["text"] = ""
    train[7]["audio"] = stored(voice(7, 2.0), 8000)
    validation[0] |= {"audio": stored(voice(508, 2.0), kind="WAV"), "speaker": "train 0"}
    train[8]["audio"] = stored(voice(508, 2.0))
    return splits


def write(folder: Path, splits: dict[str, list[dict[str, Any]]]) -> str:
    audio = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    texts = {name: pa.string() for name in ("text", "speaker", "id")}
    folder.mkdir(exist_ok=True)
    for split, rows in splits.items():
        pq.write_table(pa.Table.from_pylist(rows, pa.schema({"audio": audio, **texts})), folder / f"{split}.parquet")
    return str(folder)


@pytest.fixture
def faulty(tmp_path: Path) -> str:
    return write(tmp_path / "faulty", planted())


def test_faults_of_recordings_are_found_in_files(faulty: str) -> None:
    report = examine(DataArguments(dataset=faulty))
    found = {finding.name: finding for finding in report.findings}
    rows = {name: {example.id for example in finding.examples} for name, finding in found.items()}
    assert rows["unreadable"] == {"train-1", "train-2"}
    assert rows["silent_clips"] == {"train-3"}
    assert rows["clipping"] == {"train-4"}
    assert rows["labels_fit"] == {"train-5"}
    assert rows["empty_transcripts"] == {"train-6"}
    assert rows["copies_across"] == {"validation-0"}
    assert [example.detail for example in found["copies_across"].examples] == ["= train train-8"]
    assert rows["shared_speakers"] == {"speaker train 0"}
    assert found["sample_rates"].severity == "look"
    assert {name for name, finding in found.items() if finding.severity == "fix"} == {
        "unreadable",
        "copies_across",
        "shared_speakers",
        "labels_fit",
        "silent_clips",
    }
    train = report.splits["train"]
    assert train["rows"] == 40
    assert train["usable_rows"] == 36
    assert train["skipped"] == {
        "corrupt": 1,
        "missing": 1,
        "empty transcript": 1,
        "label longer than its frames": 1,
    }
    assert train["sample_rates"] == {"8000": 1, "16000": 37}
    assert report.verdict == "fix"


def test_clean_data_has_no_finding(tmp_path: Path) -> None:
    folder = write(tmp_path / "clean", {split: clean_rows(split) for split in ROWS})
    report = examine(DataArguments(dataset=folder), accept=("shared_transcripts",))
    assert {finding.name: finding.value for finding in report.findings if finding.severity != "fine"} == {}
    assert report.verdict == "fine"


def test_a_stream_gives_the_same_report_and_so_does_any_number_of_threads(faulty: str) -> None:
    report = examine(DataArguments(dataset=faulty), threads=3).as_dict()
    assert examine(DataArguments(dataset=faulty, streaming=True), threads=1).as_dict() == report


@pytest.mark.parametrize("streaming", [False, True])
def test_only_the_rows_asked_for_are_read(faulty: str, streaming: bool) -> None:
    report = examine(DataArguments(dataset=faulty, streaming=streaming), splits=["train"], max_rows=3)
    assert {name: facts["rows"] for name, facts in report.splits.items()} == {"train": 3}


def test_rows_come_in_order_while_few_are_in_memory() -> None:
    read = 0

    def rows() -> Any:
        nonlocal read
        for number in range(50):
            read += 1
            yield {"id": str(number), "audio": None}

    for number, (row, reason) in enumerate(measured_rows(rows(), "train", None, threads=2)):
        assert (row["id"], reason) == (str(number), "missing")
        assert read - number <= 2 * READ_AHEAD


def test_each_clip_is_decoded_once(faulty: str, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = []
    original = hfaudio.data.doctor_audio.stream_audio
    monkeypatch.setattr(
        hfaudio.data.doctor_audio, "stream_audio", lambda *a, **k: decoded.append(1) or original(*a, **k)
    )
    examine(DataArguments(dataset=faulty))
    assert len(decoded) == sum(ROWS.values()) - 2  # of two rows not even the header can be read


def test_accepted_findings_do_not_count(faulty: str) -> None:
    report = examine(DataArguments(dataset=faulty), accept=tuple(CHECKS))
    assert report.verdict == "fine"
    assert all(finding.accepted for finding in report.findings)


def test_more_frames_a_second_let_labels_fit(faulty: str) -> None:
    report = examine(DataArguments(dataset=faulty), frames_per_second=500)
    assert "label longer than its frames" not in report.splits["train"]["skipped"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_rows": 0}, "--max_rows must be at least 1; got 0"),
        ({"threads": 0}, "--threads must be at least 1; got 0"),
        ({"frames_per_second": 0.0}, "--frames_per_second must be above 0; got 0"),
        ({"accept": ("duplicate",)}, "--accept takes names of findings .*; got duplicate"),
        ({"splits": ["dev"]}, "has no split 'dev', it has: train, validation"),
    ],
)
def test_wrong_options_are_refused(faulty: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        examine(DataArguments(dataset=faulty), **options)


def test_quantiles_and_histograms_of_something_and_of_nothing() -> None:
    values = np.arange(101.0)
    assert quantiles(values) == {"min": 0, "5%": 5, "50%": 50, "95%": 95, "max": 100}
    assert sum(histogram(values)["counts"]) == 101
    assert quantiles(values[:0]) is None
    assert sum(histogram(values[:0])["counts"]) == 0
