"""Every layout gives the same undecoded rows; every bad row is counted by its reason."""

import csv
import io
import json
import tarfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import datasets
import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from transformers import HfArgumentParser

import hfaudio.data.datasets
from hfaudio.data.datasets import (
    REASONS,
    DataArguments,
    RowCheck,
    SkipCounts,
    SkipRow,
    check_rows,
    known_rows,
    load_split,
    load_splits,
    split_of_file,
    training_texts,
)

RATE = 16_000
WORDS = {"train": ["one", "007", "null"], "validation": ["four"]}  # texts that a csv reader may take for numbers


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    return 0.1 * np.random.default_rng(seed).standard_normal(round(seconds * RATE)).astype(np.float32)


def encoded(samples: np.ndarray, kind: str = "WAV", subtype: str | None = None) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, RATE, format=kind, subtype=subtype)
    return file.getvalue()


CLIPS = {text: encoded(noise(0.2, seed)) for seed, text in enumerate([*WORDS["train"], *WORDS["validation"]])}


def write_parquet(file: Path, rows: list[dict[str, Any]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), file)


def stored_row(text: str) -> dict[str, Any]:
    return {"audio": {"bytes": CLIPS[text], "path": f"{text}.wav"}, "text": text, "speaker": 7, "unused": 1.5}


def parquet_folder(folder: Path) -> dict[str, str]:
    write_parquet(folder / "data" / "train-00000-of-00002.parquet", [stored_row(t) for t in WORDS["train"][:2]])
    write_parquet(folder / "data" / "train-00001-of-00002.parquet", [stored_row(t) for t in WORDS["train"][2:]])
    write_parquet(folder / "data" / "validation-00000-of-00001.parquet", [stored_row("four")])
    return {}


def audio_folder(folder: Path) -> dict[str, str]:
    for split, texts in WORDS.items():
        (folder / split / "clips").mkdir(parents=True)
        for text in texts:
            (folder / split / "clips" / f"{text}.wav").write_bytes(CLIPS[text])
        lines = [json.dumps({"file_name": f"clips/{text}.wav", "text": text, "speaker": 7}) for text in texts]
        (folder / split / "metadata.jsonl").write_text("\n".join(lines))
    return {}


def manifest_folder(folder: Path, write: Callable[[str, list[dict[str, Any]]], None]) -> dict[str, str]:
    (folder / "clips").mkdir(parents=True)
    for split, texts in WORDS.items():
        for text in texts:
            (folder / "clips" / f"{text}.wav").write_bytes(CLIPS[text])
        write(split, [{"file": f"clips/{text}.wav", "said": text, "speaker": 7} for text in texts])
    return {"audio_column": "file", "text_column": "said"}


def csv_manifests(folder: Path) -> dict[str, str]:
    def write(split: str, rows: list[dict[str, Any]]) -> None:
        with open(folder / f"{split}.csv", "w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)

    return manifest_folder(folder, write)


def jsonl_manifests(folder: Path) -> dict[str, str]:
    def write(split: str, rows: list[dict[str, Any]]) -> None:
        (folder / f"{split}.jsonl").write_text("\n".join(json.dumps(row) for row in rows))

    return manifest_folder(folder, write)


def webdataset_folder(folder: Path) -> dict[str, str]:
    folder.mkdir(parents=True)
    for split, texts in WORDS.items():
        with tarfile.open(folder / f"{split}-0.tar", "w") as tar:
            for text in texts:
                for ending, content in (("wav", CLIPS[text]), ("txt", text.encode()), ("spk", b"7")):
                    member = tarfile.TarInfo(f"{text}.{ending}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    return {"audio_column": "wav", "text_column": "txt", "id_column": "__key__"}


LAYOUTS = [parquet_folder, audio_folder, csv_manifests, jsonl_manifests, webdataset_folder]


def content(row: dict[str, Any]) -> bytes:
    audio = row["audio"]
    assert set(audio) == {"bytes", "path"}
    return audio["bytes"] if audio["bytes"] is not None else Path(audio["path"]).read_bytes()


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_undecoded_rows(layout: Callable, streaming: bool, tmp_path: Path) -> None:
    columns = layout(tmp_path / "data set")
    arguments = DataArguments(dataset=str(tmp_path / "data set"), streaming=streaming, **columns)
    for split, texts in WORDS.items():
        rows = load_split(arguments, split)
        assert isinstance(rows, datasets.IterableDataset if streaming else datasets.Dataset)
        found = list(rows)
        assert [row["text"] for row in found] == texts
        assert [content(row) for row in found] == [CLIPS[text] for text in texts]
        assert len({row["id"] for row in found}) == len(texts)
        if layout is not webdataset_folder:  # .spk is no text for the reader of tar files
            assert [row["speaker"] for row in found] == ["7"] * len(texts)
            assert set(found[0]) == {"audio", "text", "speaker", "id"}


@pytest.mark.parametrize("streaming", [False, True])
def test_load_splits_streams_only_the_training_split(streaming: bool, tmp_path: Path) -> None:
    parquet_folder(tmp_path / "set")
    splits = load_splits(DataArguments(dataset=str(tmp_path / "set"), streaming=streaming))
    assert list(splits) == ["train", "validation"]  # no split "test", and none was named
    assert isinstance(splits["train"], datasets.IterableDataset) == streaming
    assert isinstance(splits["validation"], datasets.Dataset)
    assert splits["validation"].features["audio"] == datasets.Audio(decode=False)
    assert splits["validation"][0]["audio"] == {"bytes": CLIPS["four"], "path": "four.wav"}
    assert [row["text"] for row in splits["train"]] == WORDS["train"]


@pytest.mark.parametrize("streaming", [False, True])
def test_test_split_is_used_if_there_and_required_if_named(streaming: bool, tmp_path: Path) -> None:
    parquet_folder(tmp_path / "set")
    with pytest.raises(ValueError, match="no split 'test', it has: train, validation"):
        load_splits(DataArguments(dataset=str(tmp_path / "set"), streaming=streaming, test_split="test"))
    write_parquet(tmp_path / "set" / "test.parquet", [stored_row("one")])
    splits = load_splits(DataArguments(dataset=str(tmp_path / "set"), streaming=streaming))
    assert [row["text"] for row in splits["test"]] == ["one"]


@pytest.mark.parametrize("streaming", [False, True])
def test_max_examples_are_the_first_ones(streaming: bool, tmp_path: Path) -> None:
    parquet_folder(tmp_path / "set")
    arguments = DataArguments(
        dataset=str(tmp_path / "set"),
        eval_split="train",
        streaming=streaming,
        max_train_examples=1,
        max_eval_examples=2,
    )
    splits = load_splits(arguments)
    assert [row["text"] for row in splits["train"]] == ["one"]
    assert splits["validation"]["text"][:] == ["one", "007"]


def test_parts_of_splits(tmp_path: Path) -> None:
    parquet_folder(tmp_path / "set")
    arguments = DataArguments(dataset=str(tmp_path / "set"), train_split="train[:67%]", eval_split="train[67%:]")
    splits = load_splits(arguments)
    assert (splits["train"]["text"][:], splits["validation"]["text"][:]) == (["one", "007"], ["null"])
    both = load_split(arguments, "train[1:]+validation")
    assert both["text"][:] == ["007", "null", "four"]
    assert both["id"][:] == ["0", "1", "2"]
    streamed = DataArguments(dataset=str(tmp_path / "set"), streaming=True)
    with pytest.raises(ValueError, match=r"a stream cannot be cut, got 'train\[:1\]'.*leave out --streaming"):
        load_split(streamed, "train[:1]")


def test_one_row_is_enough(tmp_path: Path) -> None:
    write_parquet(tmp_path / "one.parquet", [stored_row("one")])
    rows, counts = check_rows(load_split(DataArguments(dataset=str(tmp_path / "one.parquet")), "train"), RowCheck())
    assert (len(rows), counts.total, counts.skipped) == (1, 1, 0)


def test_single_manifests_of_each_ending(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(CLIPS["one"])
    (tmp_path / "list.csv").write_text("audio,text,id\na.wav,None,01\n")
    (tmp_path / "list.tsv").write_text("audio\ttext\tid\na.wav\tNone\t01\n")
    (tmp_path / "list.jsonl").write_text('{"audio": "a.wav", "text": "None", "id": "01"}\n')
    (tmp_path / "list.json").write_text('[{"audio": "a.wav", "text": "None", "id": "01"}]\n')
    for ending in ("csv", "tsv", "jsonl", "json"):
        (row,) = load_split(DataArguments(dataset=str(tmp_path / f"list.{ending}")), "train")
        audio = {"bytes": None, "path": str(tmp_path / "a.wav")}
        assert row == {"audio": audio, "text": "None", "id": "01"}


def test_columns_can_swap_names(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", [{"audio": "one", "text": {"bytes": CLIPS["one"], "path": None}}])
    for streaming in (False, True):
        arguments = DataArguments(dataset=str(tmp_path), audio_column="text", text_column="audio", streaming=streaming)
        (row,) = load_split(arguments, "train")
        assert (content(row), row["text"]) == (CLIPS["one"], "one")


def test_configurations_of_a_dataset_card(tmp_path: Path) -> None:
    for language in ("en", "de"):
        write_parquet(tmp_path / language / "a.parquet", [stored_row("one") | {"text": language}])
    configs = "".join(
        f"- config_name: {name}\n  data_files:\n  - split: train\n    path: {name}/*\n" for name in ("en", "de")
    )
    (tmp_path / "README.md").write_text(f"---\nconfigs:\n{configs}---\n# Two languages\n")
    (row,) = load_split(DataArguments(dataset=str(tmp_path), dataset_config="de"), "train")
    assert row["text"] == "de"
    with pytest.raises(ValueError, match=r"configuration None, set by --dataset_config(.|\n)*\['en', 'de'\]"):
        load_split(DataArguments(dataset=str(tmp_path)), "train")


def test_folders_of_one_name_do_not_share_a_cache(tmp_path: Path) -> None:
    """datasets 5.2 alone gives the rows of the first folder for the second, and for a folder that has changed."""
    card = "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: train.parquet\n---\n"
    found = []
    for place, texts in (("first", ["one"]), ("second", ["two"]), ("second", ["three", "four"])):
        folder = tmp_path / place / "tunes"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "README.md").write_text(card)
        rows = [{"audio": {"bytes": b"", "path": None}, "text": text} for text in texts]
        pq.write_table(pa.Table.from_pylist(rows), folder / "train.parquet")
        found.append(list(load_split(DataArguments(dataset=str(folder)), "train")["text"]))
    assert found == [["one"], ["two"], ["three", "four"]]


@pytest.mark.parametrize(
    ("file", "split"),
    [
        ("data/train-00000-of-00010.parquet", "train"),
        ("data/train.clean.100-00000-of-00010.parquet", "train.clean.100"),
        ("dev/shard-3.tar", "validation"),
        ("my_val.csv", "validation"),
        ("train/dev.csv", "validation"),
        ("testing-0.tar", "test"),
        ("contest.csv", "train"),
        ("recordings.jsonl", "train"),
    ],
)
def test_split_of_file(file: str, split: str) -> None:
    assert split_of_file(Path(file)) == split


def test_the_default_dataset_is_the_bundled_speech(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parquet_folder(tmp_path / "speech")
    monkeypatch.setattr(hfaudio.data.datasets, "bundled_path", lambda name: tmp_path / name)
    assert len(load_splits(DataArguments())["train"]) == 3


# What only the Hub shows, with `load_dataset` replaced.


def stream_from_hub(monkeypatch: pytest.MonkeyPatch, stream: datasets.IterableDataset) -> DataArguments:
    monkeypatch.setattr(hfaudio.data.datasets, "load_dataset", lambda *_, **__: {"train": stream})
    return DataArguments(dataset="somebody/something", streaming=True)


def test_decoding_that_datasets_adds_to_streamed_folders_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    audio_folder(tmp_path / "set")
    stream = datasets.load_dataset("audiofolder", data_dir=str(tmp_path / "set"), split="train", streaming=True)
    arguments = stream_from_hub(monkeypatch, stream.decode(num_threads=2))  # as load_dataset does for hf:// folders
    assert [content(row) for row in load_split(arguments, "train")] == [CLIPS[text] for text in WORDS["train"]]


def test_remote_files_of_a_stream_become_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    fsspec.filesystem("memory").pipe("/clips/one.wav", CLIPS["one"])
    url = "memory://clips/one.wav"
    arguments = stream_from_hub(
        monkeypatch, datasets.IterableDataset.from_generator(lambda: iter([{"audio": url, "text": "one"}]))
    )
    (row,) = load_split(arguments, "train")
    assert row["audio"] == {"bytes": CLIPS["one"], "path": url}


def test_bytes_win_over_a_file_of_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parquet_folder(tmp_path / "set")
    for text in CLIPS:
        (tmp_path / f"{text}.wav").write_bytes(b"another file")
    monkeypatch.chdir(tmp_path)
    splits = load_splits(DataArguments(dataset=str(tmp_path / "set"), streaming=True))
    assert [row["audio"]["bytes"] for row in splits["train"]] == [CLIPS[text] for text in WORDS["train"]]
    assert splits["validation"][0]["audio"]["bytes"] == CLIPS["four"]


def test_ids_of_a_stream_do_not_depend_on_order_or_workers(tmp_path: Path) -> None:
    parquet_folder(tmp_path / "set")
    rows = load_split(DataArguments(dataset=str(tmp_path / "set"), streaming=True), "train")
    alone = {row["text"]: row["id"] for row in rows}
    assert {row["text"]: row["id"] for row in rows.shuffle(seed=1, buffer_size=3, max_buffer_input_shards=1)} == alone
    loader = torch.utils.data.DataLoader(rows, batch_size=None, num_workers=2)
    assert {row["text"]: row["id"] for row in loader} == alone
    assert len(set(alone.values())) == 3


# Errors


def test_missing_column_names_the_columns_and_the_option(tmp_path: Path) -> None:
    parquet_folder(tmp_path)
    for streaming in (False, True):
        for role in ("audio", "text", "speaker", "id"):
            arguments = DataArguments(dataset=str(tmp_path), streaming=streaming, **{f"{role}_column": "sentence"})
            expected = f"no column 'sentence', it has: audio, text, speaker, unused; set --{role}_column"
            with pytest.raises(ValueError, match=expected):
                load_split(arguments, "train")


def test_missing_validation_split_says_how_to_hold_out_a_part(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", [stored_row("one")])
    for streaming in (False, True):
        arguments = DataArguments(dataset=str(tmp_path), streaming=streaming)
        expected = r"no split 'validation', it has: train; .*--train_split 'train\[:90%\]' --eval_split"
        with pytest.raises(ValueError, match=expected):
            load_splits(arguments)


def test_empty_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_parquet(tmp_path / "train.parquet", [stored_row("one")])
    with pytest.raises(ValueError, match=r"split 'train\[1:\]' of the dataset .* is empty"):
        load_split(DataArguments(dataset=str(tmp_path)), "train[1:]")
    stream = datasets.load_dataset("parquet", data_dir=str(tmp_path), split="train", streaming=True)
    with pytest.raises(ValueError, match=r"split 'train' of the dataset .* is empty"):
        load_split(stream_from_hub(monkeypatch, stream.take(0)), "train")


@pytest.mark.parametrize("streaming", [False, True])
def test_files_without_rows_and_damaged_files(streaming: bool, tmp_path: Path) -> None:
    (tmp_path / "header.csv").write_text("audio,text\n")
    (tmp_path / "nothing.csv").write_text("")
    (tmp_path / "nothing.jsonl").write_text("")
    (tmp_path / "half.jsonl").write_text('{"audio": "a.wav", "text": "a"}\n{"audio": "b.w')
    (tmp_path / "half.parquet").write_bytes(b"PAR1")
    pq.write_table(pa.Table.from_pylist([stored_row("one")]).slice(0, 0), tmp_path / "nothing.parquet")
    for name in ("header.csv", "nothing.csv", "nothing.jsonl", "half.jsonl", "half.parquet", "nothing.parquet"):
        with pytest.raises(ValueError, match=f"cannot read the dataset .*{name}.*one of its files empty or damaged"):
            load_split(DataArguments(dataset=str(tmp_path / name), streaming=streaming), "train")


def test_columns_of_wrong_type(tmp_path: Path) -> None:
    parquet_folder(tmp_path)
    for streaming in (False, True):
        with pytest.raises(ValueError, match=r"'unused' of split 'train' .* holds Value\('float64'\), not audio"):
            load_split(DataArguments(dataset=str(tmp_path), audio_column="unused", streaming=streaming), "train")
        with pytest.raises(ValueError, match=r"'unused' of split 'train' .* not strings; set --text_column"):
            load_split(DataArguments(dataset=str(tmp_path), text_column="unused", streaming=streaming), "train")


def test_folder_without_a_dataset_says_what_was_looked_for(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(CLIPS["one"])
    with pytest.raises(ValueError, match=r"looked for a README.md .*metadata.jsonl.*\*.parquet.*\*.tar.*\*.csv"):
        load_split(DataArguments(dataset=str(tmp_path)), "train")
    with pytest.raises(ValueError, match=r"cannot read .*a.wav as a dataset; expected a file ending in .parquet"):
        load_split(DataArguments(dataset=str(tmp_path / "a.wav")), "train")


def test_manifests_of_two_kinds_are_refused(tmp_path: Path) -> None:
    csv_manifests(tmp_path / "set")
    (tmp_path / "set" / "train.jsonl").write_text("{}")
    with pytest.raises(ValueError, match=r"several kinds \(.csv, .jsonl\); give one file or one kind"):
        load_split(DataArguments(dataset=str(tmp_path / "set")), "train")


def test_configuration_of_a_folder_without_any(tmp_path: Path) -> None:
    parquet_folder(tmp_path)
    with pytest.raises(ValueError, match=r"has no configurations .* leave out --dataset_config en"):
        load_split(DataArguments(dataset=str(tmp_path), dataset_config="en"), "train")


def test_unknown_dataset_names_the_options(monkeypatch: pytest.MonkeyPatch) -> None:
    def not_found(*_: Any, **__: Any) -> None:
        raise datasets.exceptions.DatasetNotFoundError("Dataset 'no/where' doesn't exist on the Hub")

    monkeypatch.setattr(hfaudio.data.datasets, "load_dataset", not_found)
    with pytest.raises(ValueError, match=r"no local folder or file 'no/where' .*Hub.*--dataset_config.*doesn't exist"):
        load_split(DataArguments(dataset="no/where"), "train")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"normalizer": "basics"}, "--normalizer must be one of none, basic, english; got 'basics'"),
        ({"min_seconds": 2.0, "max_seconds": 1.0}, "below --max_seconds; got 2 and 1"),
        ({"min_seconds": -1.0}, "--min_seconds must be at least 0"),
        ({"max_train_examples": 0}, "--max_train_examples must be at least 1; got 0"),
        ({"num_proc": 0}, "--num_proc must be at least 1"),
        ({"audio_column": "a", "text_column": "a"}, "each column can have one role; got a, a"),
    ],
)
def test_wrong_arguments(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DataArguments(**wrong)


def test_arguments_are_read_from_flags() -> None:
    (arguments,) = HfArgumentParser(DataArguments).parse_args_into_dataclasses(
        ["--dataset", "a/b", "--streaming", "--test_split", "test.clean", "--max_seconds", "5", "--num_proc", "2"]
    )
    expected = DataArguments(dataset="a/b", streaming=True, test_split="test.clean", max_seconds=5.0, num_proc=2)
    assert arguments == expected


# Rows that cannot be used

GOOD = encoded(noise(1.0))
WITH_NAN = noise(1.0)
WITH_NAN[5] = np.nan
BAD_ROWS: list[tuple[bytes | None, str | None, str | None]] = [  # file, transcript, reason to skip it
    (GOOD, "Hello, World!", None),
    (encoded(np.zeros(RATE, np.float32)), "silence", None),
    (b"", "no bytes", "empty"),
    (encoded(np.zeros(0, np.float32)), "a wav without samples", "empty"),
    (encoded(np.zeros(1, np.float32)), "one sample", "too short"),
    (encoded(noise(1.0), "FLAC")[:9000], "a truncated flac", "corrupt"),
    (b"this is a text named .wav", "text", "corrupt"),
    (encoded(WITH_NAN, subtype="FLOAT"), "a nan", "not finite"),
    (None, "no audio", "missing"),
    (GOOD, "", "empty transcript"),
    (GOOD, None, "empty transcript"),
    (GOOD, " ?! ", "empty transcript"),
    (encoded(noise(2.5)), "two and a half seconds", "too long"),
    (GOOD, "aaaaaaaaaaaaaaa", "label longer than its frames"),
    (encoded(noise(1.0), "FLAC"), "a flac", None),
]


def characters_and_repeats(text: str) -> int:
    return len(text) + sum(a == b for a, b in pairwise(text))


def frames(num_samples: int) -> int:
    return num_samples // 640  # 25 frames a second


CHECK = RowCheck(max_seconds=2.0, min_frames=characters_and_repeats, num_frames=frames)


@pytest.fixture
def bad_rows(tmp_path: Path) -> DataArguments:
    rows = [
        {"audio": {"bytes": file, "path": f"{i}.wav"} if file is not None else None, "text": text}
        for i, (file, text, _) in enumerate(BAD_ROWS)
    ]
    write_parquet(tmp_path / "bad" / "train.parquet", rows)
    return DataArguments(dataset=str(tmp_path / "bad"))


def expected_counts() -> dict[str, int]:
    reasons = [reason for _, _, reason in BAD_ROWS]
    return {reason: reasons.count(reason) for reason in REASONS if reason in reasons}


def test_check_rows_keeps_the_good_and_counts_the_bad(bad_rows: DataArguments) -> None:
    rows, counts = check_rows(load_split(bad_rows, "train"), CHECK)
    assert rows["text"][:] == ["hello world", "silence", "a flac"]
    assert rows["seconds"][:] == [1.0, 1.0, 1.0]
    assert rows["id"][:] == ["0", "1", "14"]
    assert rows[0]["audio"] == {"bytes": GOOD, "path": "0.wav"}
    assert counts.by_reason == expected_counts()
    assert (counts.skipped, counts.total) == (12, 15)
    assert str(counts).startswith("skipped 12 of 15 rows: empty transcript 3, corrupt 2, empty 2, ")


def test_check_rows_in_two_processes_counts_the_same(bad_rows: DataArguments) -> None:
    rows, counts = check_rows(load_split(bad_rows, "train"), CHECK, num_proc=2)
    assert rows["id"][:] == ["0", "1", "14"]
    assert counts.by_reason == expected_counts()


@pytest.mark.parametrize("streaming", [False, True])
def test_row_by_row_gives_the_same_reasons(bad_rows: DataArguments, streaming: bool) -> None:
    bad_rows.streaming = streaming
    for row, (_, _, reason) in zip(load_split(bad_rows, "train"), BAD_ROWS, strict=True):
        checked = CHECK(row)
        assert checked.reason == reason
        if reason is None:
            samples, text = CHECK.decode(row)
            assert (len(samples) / RATE, text) == (checked.seconds, checked.text) and samples.dtype == np.float32
        else:
            with pytest.raises(SkipRow) as skip:
                CHECK.decode(row)
            assert skip.value.reason == reason


def test_missing_file_of_a_manifest(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(GOOD)
    (tmp_path / "train.csv").write_text("audio,text\na.wav,here\nb.wav,gone\n")
    rows, counts = check_rows(load_split(DataArguments(dataset=str(tmp_path)), "train"), RowCheck())
    assert (rows["text"][:], counts.by_reason) == (["here"], {"missing": 1})


def test_limits_are_inclusive() -> None:
    row = {"audio": {"bytes": GOOD, "path": None}, "text": "a"}
    assert RowCheck(min_seconds=1.0, max_seconds=1.5)(row).reason is None
    assert RowCheck(min_seconds=0.5, max_seconds=1.0)(row).reason is None
    assert RowCheck(min_seconds=1.0001)(row).reason == "too short"
    assert RowCheck(max_seconds=0.9999)(row).reason == "too long"
    exact = RowCheck(min_frames=len, num_frames=lambda samples: 1)
    assert exact(row).reason is None
    assert exact(row | {"text": "ab"}).reason == "label longer than its frames"


def refuse_to_decode(*_: Any, **__: Any) -> None:
    raise AssertionError("decoded again")


def test_second_check_decodes_nothing_whatever_the_limits(
    bad_rows: DataArguments, monkeypatch: pytest.MonkeyPatch
) -> None:
    readable = load_split(bad_rows, "train[:2]")
    check_rows(readable, RowCheck())
    monkeypatch.setattr(hfaudio.data.datasets, "stream_audio", refuse_to_decode)
    rows, _ = check_rows(load_split(bad_rows, "train[:2]"), RowCheck(normalizer="none", max_seconds=1.5))
    assert rows["text"][0] == "Hello, World!"
    with pytest.raises(ValueError, match="no row can be used"):
        check_rows(load_split(bad_rows, "train[:2]"), RowCheck(max_seconds=0.5))
    with pytest.raises(AssertionError, match="decoded again"):
        check_rows(load_split(bad_rows, "train[:2]"), RowCheck(sample_rate=8_000))


def test_repaired_file_is_used_in_the_next_run(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("audio,text\na.wav,first\nb.wav,second\n")
    (tmp_path / "a.wav").write_bytes(GOOD)
    (tmp_path / "b.wav").write_bytes(b"half copied")
    arguments = DataArguments(dataset=str(tmp_path))
    assert len(check_rows(load_split(arguments, "train"), RowCheck())[0]) == 1
    (tmp_path / "b.wav").write_bytes(GOOD)
    assert len(check_rows(load_split(arguments, "train"), RowCheck())[0]) == 2


def test_a_check_writes_no_audio(bad_rows: DataArguments, tmp_path: Path) -> None:
    dataset = load_split(bad_rows, "train")
    before = set(tmp_path.rglob("*.arrow"))
    rows, _ = check_rows(dataset, CHECK)
    assert len(rows[:]["audio"]) == 3
    written = set(tmp_path.rglob("*.arrow")) - before
    assert sum(file.stat().st_size for file in written) < len(GOOD) / 4


@pytest.mark.parametrize(
    ("check", "files", "texts", "remedy"),
    [
        (RowCheck(max_seconds=0.5), [GOOD, GOOD], ["a", "b"], r"too long 2; raise --max_seconds \(now 0.5\)"),
        (RowCheck(min_seconds=3.0), [GOOD], ["a"], r"too short 1; lower --min_seconds \(now 3\)"),
        (RowCheck(), [GOOD, b"x", GOOD], ["", "a", "?"], "empty transcript 2, corrupt 1; check --text_column"),
        (RowCheck(), [b"x"], ["a"], "corrupt 1; check --audio_column"),
        (
            RowCheck(min_frames=len, num_frames=lambda samples: 0),
            [GOOD],
            ["a"],
            "label longer than its frames 1; check that tr",
        ),
    ],
)
def test_nothing_left_says_the_counts_and_the_remedy(
    check: RowCheck, files: list[bytes], texts: list[str], remedy: str
) -> None:
    rows = {"audio": [{"bytes": file, "path": None} for file in files], "text": texts}
    dataset = datasets.Dataset.from_dict(rows).cast_column("audio", datasets.Audio(decode=False))
    with pytest.raises(ValueError, match=f"no row can be used: skipped .* rows: {remedy}"):
        check_rows(dataset, check)


# Counts


def test_counts_say_the_commonest_reason_first() -> None:
    counts = SkipCounts()
    for reason in (None, "corrupt", "too long", "too long", *[None] * 996):
        counts.add(reason)
    assert counts.by_reason == {"corrupt": 1, "too long": 2} and counts.skipped == 3
    assert str(counts) == "skipped 3 of 1,000 rows: too long 2, corrupt 1"
    assert str(SkipCounts()) == "skipped 0 of 0 rows"


@pytest.mark.parametrize("streaming", [False, True])
def test_training_texts_are_those_of_the_rows(streaming: bool, songs: Path) -> None:
    arguments = DataArguments(dataset=str(songs), streaming=streaming, max_train_examples=40)
    rows = load_splits(arguments)["train"]
    expected = [row["text"] for row in rows]
    assert training_texts(arguments, rows, 1_000) == expected and len(expected) == 40
    assert training_texts(arguments, rows, 7) == (expected[:7] if streaming else expected)


def test_texts_of_a_parquet_stream_are_read_without_its_audio(songs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = DataArguments(dataset=str(songs), streaming=True)
    rows = load_splits(arguments)["train"]
    monkeypatch.setattr("hfaudio.data.datasets._StreamedRow.__call__", lambda self, row: pytest.fail("audio was read"))
    assert len(training_texts(arguments, rows, 100)) == 96


def test_the_number_of_rows_of_a_stream_is_known_where_something_tells(songs: Path) -> None:
    stream = load_splits(DataArguments(dataset=str(songs), streaming=True))["train"]
    assert known_rows(stream) == 96
    assert (
        known_rows(load_splits(DataArguments(dataset=str(songs), streaming=True, max_train_examples=9))["train"]) == 9
    )
    stream.info.splits = None
    assert known_rows(stream) is None


def test_lengths_of_a_stream_come_from_a_column_if_named(tmp_path: Path) -> None:
    rows = {"audio": [{"bytes": GOOD, "path": "a.wav"}] * 3, "text": ["a", "b", "c"], "length": [2.0, None, 0.0]}
    pq.write_table(pa.table(rows), tmp_path / "train.parquet")
    pq.write_table(pa.table(rows), tmp_path / "validation.parquet")
    arguments = DataArguments(dataset=str(tmp_path), streaming=True, duration_column="length")
    first, second, third = load_splits(arguments)["train"]
    assert (RowCheck().measure(first), RowCheck().measure(second)) == (2.0, 1.0)
    with pytest.raises(SkipRow, match="empty"):
        RowCheck().measure(third)
    rows |= {"length": ["two", "", "0"]}
    for split in ("train", "validation"):
        pq.write_table(pa.table(rows), tmp_path / f"{split}.parquet")
    with pytest.raises(ValueError, match=r"'length' .* holds .*, not numbers of seconds"):
        load_splits(arguments)


def test_only_what_is_not_here_has_an_id_of_the_hub(tmp_path: Path) -> None:
    assert DataArguments().dataset_id is None
    assert DataArguments(dataset=str(tmp_path)).dataset_id is None
    assert DataArguments(dataset="user/recordings").dataset_id == "user/recordings"
