import io
import json
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable
from email.utils import formatdate
from pathlib import Path

import datasets
import fsspec.config
import pyarrow as pa
import pyarrow.dataset
import pytest
from datasets import Dataset, IterableDataset, concatenate_datasets, interleave_datasets, load_dataset
from fsspec.implementations.http import HTTPFileSystem

from hfaudio.data import reading
from hfaudio.data.reading import Cursor, Retry, ShardReader, StreamError, may_pass, prepare_stream, retry_after
from hfaudio.data.stream import AudioStream

SOON = Retry(attempts=4, first=0.01, longest=0.05)
FILES = ("0.parquet", "1.parquet", "2.parquet")


def streamed(kind: str, files: list, **options: object) -> IterableDataset:
    return load_dataset(kind, data_files=[str(file) for file in files], split="train", streaming=True, **options)


def served(server, **options: object) -> IterableDataset:
    return streamed("parquet", [server.url(name) for name in FILES], **options)


def reader_of(dataset: IterableDataset, num_shards: int = 1, cursor: Cursor | None = None) -> ShardReader:
    shards = range(num_shards)
    return ShardReader(dataset, num_shards, shards, 0, cursor or Cursor(), SOON, threading.Event())


def number(row: dict) -> int:
    return row["json"]["id"] if "json" in row else row["id"]


def batches(dataset: IterableDataset) -> list[list[int]]:
    stream = AudioStream(dataset, max_seconds=2, shuffle_buffer=25, retry=SOON)
    return [[row["id"] for row in batch] for batch in stream]


# ---------------------------------------------------------------------------------------------------------------
# Faults of a server


@pytest.mark.parametrize("fault", ["busy", "overloaded", "broken", "reset", "cut", "cut_quietly", "slow"])
@pytest.mark.parametrize("opening", [False, True])
def test_faults_change_neither_rows_nor_order(server, faults, fault, opening):
    dataset = served(server)
    expected = batches(dataset)
    assert sorted(row for batch in expected for row in batch) == list(range(60))
    server.requests.clear()
    for name, skip in (("0", 2), ("2", 5)):  # after the first requests, which AudioStream makes to find row groups
        server.plan(faults[fault], name=name, command="HEAD GET" if opening else "GET", skip=skip, times=3)
    assert batches(dataset) == expected
    assert sum(request.failed for request in server.requests) == 6


@pytest.mark.parametrize("fault", ["cut", "cut_quietly"])
def test_whichever_request_fails_every_row_comes_once(server, faults, fault, monkeypatch):
    monkeypatch.setattr(reading, "ROWS_A_NOTE", 3)
    small_reads = pa.dataset.ParquetFragmentScanOptions(
        cache_options=pa.CacheOptions(hole_size_limit=0, range_size_limit=16_384, lazy=True)
    )
    dataset = served(server, fragment_scan_options=small_reads, storage_options={"http": {"block_size": 2048}})
    dataset = dataset.decode(False)
    server.requests.clear()
    assert [number(row) for row in reader_of(dataset)] == list(range(60))
    gets = sum(request.command == "GET" for request in server.requests)
    assert gets > 12
    for skip in range(0, gets, 3):
        server.planned.clear()
        server.requests.clear()
        server.plan(faults[fault], skip=skip)
        assert [number(row) for row in reader_of(dataset)] == list(range(60))
        assert sum(request.failed for request in server.requests) == 1


@pytest.mark.parametrize("fault", ["no_answer", "stall"])
def test_a_silent_connection_is_broken_off(server, faults, fault, monkeypatch):
    monkeypatch.setattr(reading, "SILENT_SECONDS", 0.3)
    HTTPFileSystem.clear_instance_cache()  # of clients with the usual limit
    dataset = served(server)
    server.plan(faults[fault], name="2", skip=1)
    begin = time.monotonic()
    assert [number(row) for row in reader_of(dataset.decode(False))] == list(range(60))
    assert 0.3 < time.monotonic() - begin < 3
    HTTPFileSystem.clear_instance_cache()


@pytest.mark.parametrize(
    ("status", "opening", "asked"), [(429, False, "seconds"), (504, True, "seconds"), (504, False, "date")]
)
def test_retry_after_is_honoured(server, faults, status, opening, asked):
    dataset = served(server)
    value = "0.4" if asked == "seconds" else formatdate(time.time() + 1.5, usegmt=True)  # whole seconds
    fault = faults["answer"](status, value)
    server.plan(fault, name="2", command="HEAD GET" if opening else "GET", times=2 if opening else 1)
    server.requests.clear()
    assert [number(row) for row in reader_of(dataset.decode(False))] == list(range(60))
    failed = max(place for place, request in enumerate(server.requests) if request.failed)
    waited = server.requests[failed + 1].time - server.requests[failed].time
    assert (0.4 <= waited < 2) if asked == "seconds" else (0.3 < waited < 2)


def write_tar(file: Path, numbers: range, flac: bytes) -> None:
    with tarfile.open(file, "w") as tar:
        for n in numbers:
            for name, content in ((f"{n:03}.flac", flac), (f"{n:03}.json", json.dumps({"id": n}).encode())):
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))


def test_a_tar_cut_on_the_way_is_read_to_its_end(server, faults):
    file = server.folder / "nine.tar"
    write_tar(file, range(9), b"no audio")  # 2,048 bytes a row
    assert file.stat().st_size == 2 * 5 * 2048  # so that half of it ends behind a row, and looks like a whole tar
    dataset = streamed("webdataset", [server.url("nine.tar")]).decode(False)
    server.plan(faults["cut_quietly"])
    assert [number(row) for row in dataset] == list(range(5))  # datasets alone
    server.plan(faults["cut_quietly"])
    assert [number(row) for row in reader_of(dataset)] == list(range(9))


def test_gives_up_after_all_attempts(server, faults, caplog):
    dataset, num_shards = prepare_stream(served(server))
    server.plan(faults["broken"], name="2", skip=1, times=1e9)  # footer yes, rows no
    server.requests.clear()
    with pytest.raises(StreamError) as error:
        list(reader_of(dataset, num_shards))
    assert "shard 4 of 9" in str(error.value)
    assert server.url("2.parquet") in str(error.value)
    assert "in 4 attempts" in str(error.value)
    assert "500" in str(error.value.__cause__.__cause__)
    assert "checkpoint" in str(error.value)
    assert sum(request.failed for request in server.requests) == SOON.attempts
    assert "attempt 4 of 4" in caplog.text


@pytest.mark.parametrize("status", [401, 403, 404])
@pytest.mark.parametrize("opening", [False, True])
def test_what_is_absent_or_denied_fails_at_once(server, faults, status, opening):
    dataset, num_shards = prepare_stream(served(server))
    server.requests.clear()
    server.plan(faults["answer"](status), name="1", command="HEAD GET" if opening else "GET", times=1e9)
    with pytest.raises(StreamError, match=r"shard 3 of 9 \(.*1\.parquet\) cannot be read: .*open to you"):
        list(reader_of(dataset, num_shards))
    assert sum(request.failed for request in server.requests) == (2 if opening else 1)


def test_an_error_in_a_step_of_the_dataset_is_not_retried(clips):
    def fail(row: dict) -> dict:
        raise ZeroDivisionError

    dataset = streamed("parquet", [clips / "0.parquet"]).decode(False).map(fail)
    with pytest.raises(ZeroDivisionError):
        list(reader_of(dataset))


def test_retries_of_datasets_rest_while_a_reader_is_open(clips):
    before = datasets.config.STREAMING_READ_MAX_RETRIES, datasets.config.SLEEP_TIME_ON_THREADS_SHUTDOWN
    dataset = streamed("parquet", [clips / "0.parquet"]).decode(False)
    first, second = reader_of(dataset), reader_of(dataset)
    next(first), next(second)
    first.close()
    assert datasets.config.STREAMING_READ_MAX_RETRIES == 1
    assert datasets.config.SLEEP_TIME_ON_THREADS_SHUTDOWN == 0
    assert fsspec.config.conf["https"]["get_client"] is reading._impatient_client
    second.close()
    assert (datasets.config.STREAMING_READ_MAX_RETRIES, datasets.config.SLEEP_TIME_ON_THREADS_SHUTDOWN) == before
    assert "get_client" not in fsspec.config.conf.get("https", {})


def test_stopping_ends_a_wait(server, faults):
    dataset = served(server).decode(False)
    server.plan(faults["answer"](503, "500"), times=1e9)
    stopped = threading.Event()
    reader = ShardReader(dataset, 1, [0], 0, Cursor(), SOON, stopped)
    threading.Timer(0.3, stopped.set).start()
    begin = time.monotonic()
    assert list(reader) == []
    assert time.monotonic() - begin < 3


# ---------------------------------------------------------------------------------------------------------------
# Errors


def test_a_file_cut_short_is_named_at_once(clips, tmp_path):
    whole = (clips / "1.parquet").read_bytes()
    short = tmp_path / "short.parquet"
    short.write_bytes(whole)
    dataset = streamed("parquet", [clips / "0.parquet", short])
    short.write_bytes(whole[: len(whole) // 2])
    reader = reader_of(dataset.decode(False), 2)
    begin = time.monotonic()
    assert [number(next(reader)) for _ in range(20)] == list(range(20))
    with pytest.raises(StreamError, match=r"shard 1 of 2 \(.*short\.parquet\) cannot be read"):
        next(reader)
    assert time.monotonic() - begin < 2


def test_which_errors_may_pass():
    def caused(error: Exception, cause: Exception) -> Exception:
        error.__cause__ = cause
        return error

    assert may_pass(TimeoutError())
    assert may_pass(ConnectionResetError())
    assert may_pass(caused(FileNotFoundError("http://..."), ConnectionResetError()))
    assert may_pass(pa.ArrowInvalid("magic bytes"))
    assert not may_pass(pa.ArrowInvalid("magic bytes"), remote=False)
    assert may_pass(OSError(5, "Input/output error"), remote=False)
    assert not may_pass(FileNotFoundError("0.parquet"))
    assert not may_pass(PermissionError("0.parquet"))
    assert not may_pass(KeyError("audio"))


def test_waits_grow_and_are_never_the_same():
    retry = Retry(first=1, longest=60)
    waits = [[retry.wait(failures, OSError()) for _ in range(20)] for failures in (1, 2, 5, 30)]
    for wait, longest in zip(waits, (1, 2, 16, 60), strict=True):
        assert longest / 2 <= min(wait) < max(wait) <= longest
    assert retry_after(OSError()) is None


# ---------------------------------------------------------------------------------------------------------------
# Places


def test_only_streams_are_taken(clips):
    with pytest.raises(TypeError, match=r"got Dataset.*streaming=True"):
        prepare_stream(Dataset.from_dict({"id": [0]}))


def test_a_shuffled_stream_is_refused(clips):
    dataset = streamed("parquet", [clips / "0.parquet"])
    for shuffled in (dataset.shuffle(buffer_size=4), dataset.shuffle(buffer_size=4).map(lambda row: row)):
        with pytest.raises(ValueError, match="shuffle_buffer"):
            prepare_stream(shuffled)


def test_parquet_is_cut_by_row_groups(clips):
    dataset = streamed("parquet", [clips / name for name in FILES])
    assert prepare_stream(dataset)[1] == 3 + 1 + 5
    assert prepare_stream(dataset.take(30))[1] == 1
    assert prepare_stream(dataset.skip(5).map(lambda row: row))[1] == 1
    assert [number(row) for row in reader_of(*prepare_stream(dataset.skip(5).take(30)))] == list(range(5, 35))


def test_audio_is_left_encoded(clips):
    dataset, _ = prepare_stream(streamed("parquet", [clips / "1.parquet"]))
    assert set(next(iter(dataset))["audio"]) == {"bytes", "path"}


def test_one_shard_begins_anew_after_a_resume(clips):
    dataset, num_shards = prepare_stream(streamed("parquet", [clips / "0.parquet"]).take(9))
    reader = reader_of(dataset, num_shards)
    next(reader)
    assert len(list(reader_of(dataset, num_shards, reader.cursor()))) == 8
    assert len(list(reader_of(dataset, num_shards))) == 9


@pytest.fixture(scope="module")
def formats(clips, tmp_path_factory) -> dict[str, IterableDataset]:
    """The same kind of rows in every format that counts."""
    folder = tmp_path_factory.mktemp("formats")
    (folder / "audio").mkdir()
    lines = ["file_name,id"]
    flac = pa.parquet.read_table(clips / "1.parquet")["audio"][0]["bytes"].as_py()
    for shard in range(3):
        numbers = range(shard * 6, shard * 6 + 4 + shard)
        (folder / f"{shard}.jsonl").write_text("".join(json.dumps({"id": n}) + "\n" for n in numbers))
        table = pa.table({"id": list(numbers)})
        pa.parquet.write_table(table, folder / f"{shard}.parquet", row_group_size=3)
        (folder / f"{shard}.csv").write_text("id\n" + "".join(f"{n}\n" for n in numbers))
        write_tar(folder / f"{shard}.tar", numbers, flac)
        for n in numbers:
            (folder / "audio" / f"{n}.flac").write_bytes(flac)
            lines.append(f"{n}.flac,{n}")
    (folder / "audio" / "metadata.csv").write_text("\n".join(lines))

    def generate(shards: list[int]):
        for shard in shards:
            yield from ({"id": 6 * shard + n} for n in range(4 + shard))

    audio = load_dataset("audiofolder", data_dir=str(folder / "audio"), split="train", streaming=True)
    rows = [{"id": n} for n in range(15)]
    return {
        "parquet": streamed("parquet", sorted(folder.glob("*.parquet"))),
        "arrow": Dataset.from_list(rows).to_iterable_dataset(num_shards=4),
        "generator": IterableDataset.from_generator(generate, gen_kwargs={"shards": [0, 1, 2]}),
        "webdataset": streamed("webdataset", sorted(folder.glob("*.tar"))),
        "audiofolder": audio,
        "json": streamed("json", sorted(folder.glob("*.jsonl"))),
        "csv": streamed("csv", sorted(folder.glob("*.csv"))),
    }


def resumed_everywhere(dataset: IterableDataset) -> list[int]:
    """The rows of a dataset, after resuming at each of them has given the rest of them."""
    dataset, num_shards = prepare_stream(dataset)
    reader = reader_of(dataset, num_shards)
    rows, places = [], [reader.cursor()]
    for row in reader:
        rows.append(number(row))
        places.append(reader.cursor())
    for done, place in enumerate(places):
        state = None if place.state is None else json.loads(json.dumps(place.state))
        rest = reader_of(dataset, num_shards, Cursor(place.shard, state, place.rows))
        assert [number(row) for row in rest] == rows[done:], f"resumed behind row {done}"
    return rows


STEPS: dict[str, Callable[[IterableDataset], IterableDataset]] = {
    "plain": lambda dataset: dataset,
    "mapped": lambda dataset: dataset.map(lambda row: {"more": number(row)}),
    "filtered": lambda dataset: dataset.filter(lambda row: number(row) % 3 != 0),
    "both": lambda dataset: dataset.map(lambda row: {"more": 1}).filter(lambda row: number(row) % 3 != 0),
    "taken": lambda dataset: dataset.skip(2).take(7),
}


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("name", ["parquet", "arrow", "generator", "webdataset", "audiofolder", "json", "csv"])
def test_resumes_at_every_row(formats, name, steps):
    dataset = formats[name].decode(False) if formats[name].features else formats[name]
    rows = resumed_everywhere(STEPS[steps](dataset))
    assert sorted(rows) == sorted(number(row) for row in STEPS[steps](dataset))


@pytest.mark.parametrize("probabilities", [None, [0.7, 0.3]])
@pytest.mark.parametrize("strategy", ["first_exhausted", "all_exhausted", "all_exhausted_without_replacement"])
@pytest.mark.parametrize(
    ("names", "steps"), [(("parquet", "csv"), "plain"), (("generator", "arrow"), "both")], ids=["tables", "kinds"]
)
def test_resumes_at_every_row_of_mixed_sources(formats, names, steps, strategy, probabilities):
    sources = [formats[name].select_columns(["id"]) for name in names]
    mixed = interleave_datasets(sources, probabilities, seed=1, stopping_strategy=strategy)
    assert len(resumed_everywhere(STEPS[steps](mixed))) > 5


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("names", [("parquet", "csv"), ("generator", "arrow"), ("parquet", "generator")])
def test_resumes_at_every_row_of_joined_sources(formats, names, steps):
    joined = concatenate_datasets([formats[name].select_columns(["id"]) for name in names])
    rows = resumed_everywhere(STEPS[steps](joined))
    assert sorted(rows) == sorted(number(row) for row in STEPS[steps](joined))


def test_a_half_read_stream_lets_the_process_end(server):
    program = """
import sys, threading
from datasets import load_dataset
from hfaudio.data.stream import AudioStream
dataset = load_dataset("parquet", data_files=sys.argv[1:], split="train", streaming=True)
batches = iter(AudioStream(dataset, max_seconds=1, shuffle_buffer=4))
next(batches)
batches.close()
"""
    command = [sys.executable, "-c", program, *map(server.url, FILES)]
    ended = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=120)
    assert (ended.returncode, ended.stderr) == (0, "")
