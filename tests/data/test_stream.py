"""Every row once, ranks in step, and a run that was killed anywhere goes on as if it had not been."""

import io
import json
import os
import subprocess
import sys
import tarfile
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import soundfile
import torch.distributed as dist
from datasets import Dataset, IterableDataset, concatenate_datasets, interleave_datasets, load_dataset
from scipy.stats import spearmanr

from hfaudio.data.buckets import bucket_of
from hfaudio.data.datasets import SkipRow, header_seconds
from hfaudio.data.reading import StreamError
from hfaudio.data.stream import AudioStream

RATE = 8000
Batch = list[int]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def durations(count: int, seed: int = 0) -> list[float]:
    """Seconds between 0.5 and 10, most of them short."""
    return np.round(0.5 + 9.5 * np.random.default_rng(seed).beta(1.0, 3.0, count), 3).tolist()


DURATIONS = durations(1000)


def table(seconds: Sequence[float], shards: int = 1, first: int = 0) -> IterableDataset:
    """A stream of rows that name their length and hold no audio."""
    rows = {"id": list(range(first, first + len(seconds))), "duration": list(seconds)}
    return Dataset.from_dict(rows).to_iterable_dataset(num_shards=shards)


def uneven(sizes: Sequence[int]) -> IterableDataset:
    """A stream of shards with so many rows each."""

    def rows(shards: list[tuple[int, int]]) -> Iterable[dict[str, Any]]:
        for first, size in shards:
            for number in range(first, first + size):
                yield {"id": number, "duration": DURATIONS[number]}

    firsts = np.cumsum([0, *sizes[:-1]]).tolist()
    return IterableDataset.from_generator(rows, gen_kwargs={"shards": list(zip(firsts, sizes, strict=True))})


def duration(row: Mapping[str, Any]) -> float:
    return row["duration"]


def stream_of(dataset: IterableDataset, num_replicas: int = 1, rank: int = 0, **settings: Any) -> AudioStream:
    settings = {"max_seconds": 20.0, "shuffle_buffer": 16, "measure": duration} | settings
    return AudioStream(dataset, num_replicas=num_replicas, rank=rank, **settings)


def ranks_of(dataset: IterableDataset, num_replicas: int, **settings: Any) -> list[AudioStream]:
    """One stream for each rank."""
    return [stream_of(dataset, num_replicas, rank, **settings) for rank in range(num_replicas)]


def ids(batches: Iterable[list[dict[str, Any]]]) -> list[Batch]:
    return [[row["id"] for row in batch] for batch in batches]


def epoch(streams: list[AudioStream]) -> list[list[Batch]]:
    """Batches of an epoch, or of what is left of it: [rank][step]."""
    return [ids(stream) for stream in streams]


def rows_of(batches: list[list[Batch]]) -> list[int]:
    return sorted(row for rank in batches for batch in rank for row in batch)


def some(stream: AudioStream, steps: int) -> list[Batch]:
    """The next batches; then the stream is left as a killed process leaves it."""
    with closing(iter(stream)) as batches:
        return ids(islice(batches, steps))


def saved(stream: AudioStream) -> dict[str, Any]:
    """The state as a checkpoint gives it back."""
    return json.loads(json.dumps(stream.state_dict()))


# --------------------------------------------------------------------------------------------------------------------
# Every row once


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("shards", [1, 2, 3, 5, 7])
def test_every_row_once_and_all_ranks_in_step(ranks: int, shards: int) -> None:
    dataset, edges = table(DURATIONS[:100], shards), np.array([2.0, 4.0])
    streams = ranks_of(dataset, ranks, edges=edges, shuffle_buffer=10)
    steps = []
    for step in zip(*streams, strict=True):  # all ranks end at the same step
        for batch in step:
            assert len(batch) * max(row["seconds"] for row in batch) <= 20.0 + 1e-4
            assert all(row["seconds"] == DURATIONS[row["id"]] for row in batch)
        steps.append((streams[0].window, step))
    last_window = steps[-1][0]
    assert last_window > 0
    for window, step in steps:
        sizes = {len(batch) for batch in step}
        if window < last_window:
            buckets = bucket_of(np.array([row["seconds"] for batch in step for row in batch]), edges)
            assert len(set(buckets)) == len(sizes) == 1
        else:
            assert max(sizes) - min(sizes) <= 1
    counts = streams[0].counts
    assert all(stream.counts == counts for stream in streams)
    given = [row["id"] for _, step in steps for batch in step for row in batch]
    assert len(set(given)) == len(given) == 100 - counts.dropped
    assert counts.dropped < ranks
    assert (counts.steps, counts.rows, counts.seen, counts.skipped) == (len(steps), len(given), 100, {})
    padded = [len(batch) * max(row["seconds"] for row in batch) for _, step in steps for batch in step]
    assert counts.seconds == pytest.approx(sum(DURATIONS[row] for row in given))
    assert counts.padded_seconds == pytest.approx(sum(padded))
    assert counts.padding_share == pytest.approx(1 - counts.seconds / sum(padded))


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
@pytest.mark.parametrize("buffer", [1, 7, 1000])
def test_uneven_shards(ranks: int, buffer: int) -> None:
    streams = ranks_of(uneven([50, 10, 5]), ranks, shuffle_buffer=buffer)
    batches = epoch(streams)
    assert len({len(rank) for rank in batches}) == 1
    given = rows_of(batches)
    assert len(set(given)) == len(given) == 65 - streams[0].counts.dropped
    assert streams[0].counts.dropped < ranks


def test_rows_that_are_fewer_than_ranks_are_dropped_and_counted() -> None:
    streams = ranks_of(table([1.0, 2.0]), 3)
    for passed in (1, 2):
        assert epoch(streams) == [[], [], []]
        assert [stream.counts.dropped for stream in streams] == [2 * passed] * 3


def test_one_row() -> None:
    stream = stream_of(table([1.0]))
    assert [ids(stream), ids(stream)] == [[[0]], [[0]]]
    assert (stream.counts.rows, stream.counts.dropped, stream.epoch) == (2, 0, 2)


@pytest.mark.parametrize("dataset", [uneven([0]), uneven([0, 0])], ids=["one shard", "two shards"])
def test_an_empty_stream_says_so(dataset: IterableDataset) -> None:
    with pytest.raises(StreamError, match="no row can be used: the stream is empty"):
        next(iter(stream_of(dataset)))


def test_a_limit_of_rows() -> None:
    batches = ids(stream_of(table(DURATIONS[:30]), max_seconds=None, max_examples=4))
    assert sorted(len(batch) for batch in batches) == [2, *[4] * 7]
    assert sorted(row for batch in batches for row in batch) == list(range(30))


@pytest.mark.parametrize("settings", [{"num_replicas": 2, "rank": 2}, {"rank": -1}, {"shuffle_buffer": 0}])
def test_settings_that_make_no_stream_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"must be at least"):
        stream_of(table([1.0]), **settings)


# --------------------------------------------------------------------------------------------------------------------
# Order


def test_epochs_have_the_same_rows_in_unrelated_orders() -> None:
    stream = stream_of(table(DURATIONS, shards=250), shuffle_buffer=100)
    orders = [[row for batch in ids(stream) for row in batch] for _ in range(3)]
    places = [np.argsort(order) for order in orders]
    assert all(sorted(order) == list(range(1000)) for order in orders)
    three_deviations = 3 / np.sqrt(250)  # of the correlation of two random orders of the shards
    for one, other in ((0, 1), (1, 2), (0, 2)):
        assert abs(spearmanr(places[one], places[other]).statistic) < three_deviations
    for place in places:  # nor do they follow the dataset
        assert abs(spearmanr(place, np.arange(1000)).statistic) < three_deviations


def test_one_shard_is_shuffled_anew_in_each_epoch() -> None:
    stream = stream_of(table([1.0] * 400), shuffle_buffer=400)
    one, other = ([row for batch in ids(stream) for row in batch] for _ in range(2))
    assert abs(spearmanr(np.argsort(one), np.argsort(other)).statistic) < 3 / np.sqrt(400)


def test_the_seed_alone_decides_the_order() -> None:
    dataset = table(DURATIONS[:100], shards=5)
    one, same, other = (ids(stream_of(dataset, seed=seed)) for seed in (1, 1, 2))
    assert one == same
    assert one != other


def test_a_buffer_of_one_row_does_not_shuffle() -> None:
    stream = stream_of(table([1.0] * 20), shuffle_buffer=1, max_seconds=1.0)
    assert ids(stream) == ids(stream) == [[row] for row in range(20)]


def test_the_longest_row_of_the_first_window_comes_first() -> None:
    for seed in range(5):
        (first,) = some(stream_of(table(DURATIONS[:50]), shuffle_buffer=50, seed=seed), 1)
        assert int(np.argmax(DURATIONS[:50])) in first


# --------------------------------------------------------------------------------------------------------------------
# Kill and resume


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("shards", [1, 5])
def test_killed_after_every_step(ranks: int, shards: int) -> None:
    dataset, edges = table(DURATIONS[:120], shards), np.array([2.0, 4.0])
    windows_waited = 0
    for rank in range(ranks):
        stream = stream_of(dataset, ranks, rank, edges=edges)
        killed_state = saved(stream)
        for _ in range(2):  # epochs
            for batch in stream:
                killed = stream_of(dataset, ranks, rank, edges=edges)
                killed.load_state_dict(killed_state)
                with closing(iter(killed)) as batches:
                    assert next(batches) == batch
                    killed_state = saved(killed)
                assert killed_state == saved(stream)
                windows_waited = max(windows_waited, len(stream.waiting))
    assert windows_waited > 1  # rows of several windows have been read again


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_killed_twice_in_each_epoch(ranks: int) -> None:
    dataset = uneven([50, 10, 5, 30])
    for rank in range(ranks):
        whole = stream_of(dataset, ranks, rank, seed=3)
        expected = [ids(whole) for _ in range(3)]
        state = saved(stream_of(dataset, ranks, rank, seed=3))
        for batches in expected:
            got: list[Batch] = []
            for steps in (len(batches) // 3, len(batches) // 3, len(batches)):
                stream = stream_of(dataset, ranks, rank, seed=3)
                stream.load_state_dict(state)
                got += some(stream, steps)
                state = saved(stream)
            assert got == batches
        assert stream.counts == whole.counts


@pytest.mark.parametrize("shards", [1, 4])
def test_a_stream_goes_back_to_a_saved_place_and_to_the_beginning(shards: int) -> None:
    stream = stream_of(table(DURATIONS[:120], shards))
    beginning = saved(stream)
    first = some(stream, 12)
    middle = saved(stream)
    assert middle["window"] > 0
    rest = ids(stream)
    ids(stream)
    for state, batches in ((middle, rest), (beginning, first + rest)):
        stream.load_state_dict(state)
        assert saved(stream) == state
        assert ids(stream) == batches


def test_a_loop_that_was_left_goes_on() -> None:
    whole = stream_of(table(DURATIONS[:120], 4))
    stream = stream_of(table(DURATIONS[:120], 4))
    expected = ids(whole)
    assert some(stream, 3) + some(stream, 4) + ids(stream) == expected
    assert stream.counts == whole.counts


def test_the_state_does_not_change_with_the_stream() -> None:
    stream = stream_of(table(DURATIONS[:120], 4))
    some(stream, 5)
    state = stream.state_dict()
    text = json.dumps(state)
    ids(stream)
    stream.load_state_dict(state)
    ids(stream)
    assert json.dumps(state) == text


def test_the_state_does_not_grow_with_the_epoch() -> None:
    stream = stream_of(table(DURATIONS, 20), shuffle_buffer=50)
    sizes = [len(json.dumps(stream.state_dict())) for _ in stream]
    assert max(sizes[-50:]) < 1.5 * max(sizes[50:100])
    assert max(sizes) < 4000


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("shards", {"dataset": table(DURATIONS[:60], 4)}),
        ("seed", {"seed": 5}),
        ("shuffle_buffer", {"shuffle_buffer": 17}),
        ("max_seconds", {"max_seconds": 30.0}),
        ("max_examples", {"max_examples": 3}),
    ],
)
def test_a_state_of_other_settings_is_refused(name: str, other: dict[str, Any]) -> None:
    settings = {"dataset": table(DURATIONS[:60], 3)}
    state = saved(stream_of(**settings))
    with pytest.raises(ValueError, match=f"cannot be resumed with another {name}: it was "):
        stream_of(**settings | other).load_state_dict(state)
    with pytest.raises(ValueError, match="version 0"):
        stream_of(**settings).load_state_dict(state | {"version": 0})


# --------------------------------------------------------------------------------------------------------------------
# Another number of ranks


@pytest.mark.parametrize(
    "runs",
    [
        [(2, 0), (3, 2), (1, None)],
        [(2, 1), (3, 1), (1, None)],
        [(2, 3), (3, 1), (1, 1), (2, 1), (4, None)],  # all in the first window
        [(2, 7), (3, 2), (1, 8), (5, 1), (2, None)],
        [(1, 11), (3, 3), (3, 2), (2, None)],
        [(3, 4), (1, 2), (3, None)],
        [(1, 40), (4, None)],  # in the last window
    ],
    ids=lambda runs: "-".join(f"{ranks}x{steps or 'end'}" for ranks, steps in runs),
)
@pytest.mark.parametrize("dataset", [table(DURATIONS[:200], 5), uneven([80, 40, 10, 30])], ids=["even", "uneven"])
def test_another_number_of_ranks(dataset: IterableDataset, runs: list[tuple[int, int | None]]) -> None:
    state = None
    given: list[int] = []
    for ranks, steps in runs:
        streams = ranks_of(dataset, ranks, shuffle_buffer=30)
        for stream in streams:
            if state is not None:
                stream.load_state_dict(state)
        batches = epoch(streams) if steps is None else [some(stream, steps) for stream in streams]
        assert len({len(rank) for rank in batches}) == 1
        given += rows_of(batches)
        states = [saved(stream) for stream in streams]
        assert all(other == states[0] for other in states)
        state = states[0]
    counts = streams[0].counts
    total = 200 if dataset.num_shards == 5 else 160
    assert len(set(given)) == len(given) == counts.rows == total - counts.dropped
    assert counts.dropped < runs[-1][0]
    assert counts.seen == total
    following = epoch(streams)  # the next epoch is one of the new number of ranks from its beginning
    assert len(rows_of(following)) >= total - runs[-1][0] + 1
    fresh = ranks_of(dataset, runs[-1][0], shuffle_buffer=30, edges=streams[0].edges)
    for stream in fresh:
        stream.begin_epoch(1)
    assert epoch(fresh) == following


def test_resumed_with_another_number_of_ranks_and_killed_after_every_step() -> None:
    dataset = table(DURATIONS[:150], 5)
    stream = stream_of(dataset, 3, 0, shuffle_buffer=30)
    some(stream, 2)
    state = saved(stream)
    whole, killed_state = stream_of(dataset, 2, 1, shuffle_buffer=30), state
    whole.load_state_dict(state)
    for batch in whole:
        killed = stream_of(dataset, 2, 1, shuffle_buffer=30)
        killed.load_state_dict(killed_state)
        assert some(killed, 1) == ids([batch])
        killed_state = saved(killed)
        assert killed_state == saved(whole)


# --------------------------------------------------------------------------------------------------------------------
# Steps for gradient accumulation


@pytest.mark.parametrize("multiple", [2, 3, 8])
@pytest.mark.parametrize("ranks", [1, 2])
def test_the_steps_of_an_epoch_are_a_multiple(ranks: int, multiple: int) -> None:
    streams = ranks_of(table(DURATIONS[:150], 5), ranks, shuffle_buffer=50, step_multiple=multiple)
    batches = epoch(streams)
    assert {len(rank) % multiple for rank in batches} == {0}
    assert len(rows_of(batches)) == 150 - streams[0].counts.dropped


def test_another_step_multiple_loses_no_row() -> None:
    dataset = table(DURATIONS[:60])
    for step in range(1, 10):
        stream = stream_of(dataset, shuffle_buffer=100, step_multiple=7)
        given = some(stream, step)
        state = saved(stream)
        stream = stream_of(dataset, shuffle_buffer=100, step_multiple=2)
        stream.load_state_dict(state)
        given += ids(stream)
        assert rows_of([given]) == list(range(60))
        assert len(given) % 2 == 0


# --------------------------------------------------------------------------------------------------------------------
# Rows that cannot be used


def encoded(seconds: float, kind: str = "FLAC") -> bytes:
    file = io.BytesIO()
    tone = 0.1 * np.sin(2 * np.pi * 440 * np.arange(round(seconds * RATE)) / RATE)
    soundfile.write(file, tone, RATE, format=kind)
    return file.getvalue()


def audio_table(audio: Sequence[Any], shards: int = 1) -> IterableDataset:
    rows = {"id": list(range(len(audio))), "audio": audio}
    return Dataset.from_dict(rows).to_iterable_dataset(num_shards=shards)


def clip(seconds: float) -> dict[str, Any]:
    return {"bytes": encoded(seconds), "path": None}


def test_rows_that_cannot_be_used_are_counted_by_reason() -> None:
    cut = {"bytes": encoded(1.0)[:30], "path": None}
    audio = [clip(0.5), cut, None, {"bytes": None, "path": None}, clip(0), clip(5.0), clip(1.5)]
    stream = stream_of(audio_table(audio), measure=header_seconds, max_seconds=3.0)
    for passed in (1, 2):
        (batch,) = stream
        assert {row["id"]: row["seconds"] for row in batch} == {0: 0.5, 6: 1.5}
        assert all(row["audio"] == audio[row["id"]] for row in batch)  # still encoded
        reasons = {"corrupt": 1, "missing": 2, "empty": 1, "too long": 1}
        assert stream.counts.skipped == {reason: passed * count for reason, count in reasons.items()}
        assert stream.counts.seen == passed * 7


def test_unusable_rows_behind_the_last_usable_one_are_counted_once() -> None:
    def measure(row: Mapping[str, Any]) -> float:
        if row["id"] % 10 >= 5:
            raise SkipRow("corrupt")
        return 1.0

    for shards in (1, 2):
        for ranks in (1, 2, 3):
            stream = stream_of(table([1.0] * 20, shards), ranks, shuffle_buffer=5, measure=measure, max_seconds=3.0)
            for passed in (1, 2):  # a window is full, and what follows cannot be used
                ids(stream)
                assert (stream.counts.seen, stream.counts.skipped) == (passed * 20, {"corrupt": passed * 10})


def test_unusable_rows_at_the_end_of_one_rank_are_counted_once_after_kills() -> None:
    def measure(row: Mapping[str, Any]) -> float:
        if row["id"] in range(5, 10):  # the last rows of the first shard
            raise SkipRow("corrupt")
        return 1.0

    settings = {"shuffle_buffer": 5, "measure": measure, "max_seconds": 3.0}
    stream, state = stream_of(uneven([10, 30]), 2, **settings), None
    for _ in stream:
        killed = stream_of(uneven([10, 30]), 2, **settings)
        if state is not None:
            killed.load_state_dict(state)
        some(killed, 1)
        state = saved(killed)
        assert killed.counts == stream.counts
    assert (stream.counts.seen, stream.counts.skipped) == (40, {"corrupt": 5})


def broken_above(number: int, reason: str) -> Callable[[Mapping[str, Any]], float]:
    def measure(row: Mapping[str, Any]) -> float:
        if row["id"] >= number:
            raise SkipRow(reason)
        return row["duration"]

    return measure


def test_too_many_broken_rows_stop_the_stream() -> None:
    dataset = table([1.0] * 1000)
    with pytest.raises(StreamError, match=r"21 of 121 rows hold no usable audio \(corrupt 21\), more than the 5.0%"):
        ids(stream_of(dataset.take(121), measure=broken_above(100, "corrupt"), shuffle_buffer=50))
    for settings in (
        {"dataset": dataset.take(120), "measure": broken_above(100, "corrupt")},  # 20 rows are too few to tell
        {"dataset": dataset.take(121), "measure": broken_above(100, "too long")},  # not broken
        {"dataset": dataset.take(121), "measure": broken_above(100, "corrupt"), "max_broken_share": 0.2},
        {"dataset": dataset, "measure": broken_above(960, "missing")},
    ):
        assert sum(len(batch) for batch in stream_of(**settings)) in (100, 960)


def test_a_stream_of_broken_rows_only_says_why() -> None:
    with pytest.raises(StreamError, match=r"no row can be used: \{'empty': 5\}"):
        ids(stream_of(table([1.0] * 5), measure=broken_above(0, "empty")))


def test_an_error_of_the_dataset_is_raised_as_it_is() -> None:
    def fail(row: dict[str, Any]) -> dict[str, Any]:
        raise LookupError("no such word")

    with pytest.raises(LookupError, match="no such word"):
        next(iter(stream_of(table([1.0] * 5).map(fail))))


# --------------------------------------------------------------------------------------------------------------------
# Memory


class Recording:
    """What a weak reference can watch."""


@pytest.mark.parametrize(("buffer", "ranks"), [(1000, 1), (1000, 2), (20, 1), (20, 2)])
def test_rows_given_out_are_freed(buffer: int, ranks: int) -> None:
    recordings: list[weakref.ref[Recording]] = []

    def rows() -> Iterable[dict[str, Any]]:
        for number in range(200):
            recording = Recording()
            recordings.append(weakref.ref(recording))
            yield {"id": number, "duration": DURATIONS[number], "audio": recording}
            del recording

    stream = stream_of(IterableDataset.from_generator(rows), ranks, shuffle_buffer=buffer)
    given = 0
    for batch in stream:
        given += len(batch)
        del batch
        alive = sum(recording() is not None for recording in recordings)
        if buffer == 1000:  # one window
            assert alive <= 200 // ranks + 1 - given
        else:  # the window, the next one, a row ahead and the one being read, and rows that wait: less than two steps
            assert alive <= 2 * buffer + 2 + 2 * 20 * ranks
    assert not any(recording() for recording in recordings)


# --------------------------------------------------------------------------------------------------------------------
# Kinds of datasets


SECONDS = [round(0.2 + 0.05 * number, 2) for number in range(24)]


def web_dataset(folder: Path) -> IterableDataset:
    for shard in range(2):
        with tarfile.open(folder / f"{shard}.tar", "w") as tar:
            for number, seconds in enumerate(SECONDS[12 * shard : 12 * shard + 12]):
                for suffix, content in (("flac", encoded(seconds)), ("json", b"{}")):
                    member = tarfile.TarInfo(f"{shard}-{number}.{suffix}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    files = sorted(str(file) for file in folder.glob("*.tar"))
    return load_dataset("webdataset", data_files=files, streaming=True, split="train").rename_column("flac", "audio")


def audio_folder(folder: Path) -> IterableDataset:
    for number, seconds in enumerate(SECONDS):
        (folder / f"{number}.flac").write_bytes(encoded(seconds))
    return load_dataset("audiofolder", data_dir=str(folder), streaming=True, split="train")


def parquet(folder: Path) -> IterableDataset:
    for shard in range(2):
        rows = {"audio": [clip(seconds) for seconds in SECONDS[12 * shard : 12 * shard + 12]]}
        Dataset.from_dict(rows).to_parquet(folder / f"{shard}.parquet", batch_size=3)
    return load_dataset("parquet", data_dir=str(folder), streaming=True, split="train")


@pytest.mark.parametrize("kind", [web_dataset, audio_folder, parquet])
def test_files(kind: Callable[[Path], IterableDataset], tmp_path: Path) -> None:
    """Each row once, and a run that is killed after every step goes on."""
    dataset = kind(tmp_path)
    settings = {"measure": header_seconds, "max_seconds": 4.0, "shuffle_buffer": 5}
    given = []
    for rank in range(2):
        stream, state = stream_of(dataset, 2, rank, **settings), None
        for batch in stream:
            killed = stream_of(dataset, 2, rank, **settings)
            if state is not None:
                killed.load_state_dict(state)
            with closing(iter(killed)) as batches:
                assert next(batches) == batch
                state = saved(killed)
            assert state == saved(stream)
            given += [row["seconds"] for row in batch]
    assert stream.counts.dropped == 0
    assert sorted(given) == SECONDS


def short(row: Mapping[str, Any]) -> bool:
    return row["duration"] < 4


MIXED = {
    "take": table(DURATIONS[:100], 4).take(50),
    "skip": table(DURATIONS[:100], 4).skip(50),
    "take of a filter": table(DURATIONS[:100], 4).filter(short).take(30),
    "filter": table(DURATIONS[:100], 4).filter(short),
    "map": table(DURATIONS[:100], 4).map(lambda row: {"text": str(row["id"])}),
    "one after the other": concatenate_datasets([table(DURATIONS[:40], 3), table(DURATIONS[:30], first=40)]),
    "in turn": interleave_datasets([table(DURATIONS[:40]), table(DURATIONS[:30], first=40)]),
    "by chance": interleave_datasets(
        [table(DURATIONS[:40]), table(DURATIONS[:30], first=40)], probabilities=[0.7, 0.3], seed=1
    ),
}


@pytest.mark.parametrize("name", MIXED)
@pytest.mark.parametrize("ranks", [1, 2])
def test_mixed_datasets_give_the_rows_that_they_give_alone(name: str, ranks: int) -> None:
    dataset = MIXED[name]
    streams = ranks_of(dataset, ranks, shuffle_buffer=7)
    total = 0
    for number in range(2):
        dataset.set_epoch(number)  # which mixes sources by chance in another way
        expected = Counter(row["id"] for row in dataset)
        total += expected.total()
        missing = expected - Counter(rows_of(epoch(streams)))
        assert missing.total() < ranks
        assert streams[0].counts.rows + streams[0].counts.dropped == total


@pytest.mark.parametrize("name", MIXED)
def test_mixed_datasets_resume(name: str) -> None:
    stream, state = stream_of(MIXED[name], shuffle_buffer=7), None
    for batch in stream:
        killed = stream_of(MIXED[name], shuffle_buffer=7)
        if state is not None:
            killed.load_state_dict(state)
        assert some(killed, 1) == ids([batch])
        state = saved(killed)  # in which datasets may tell one place in two ways
        assert killed.counts == stream.counts


def test_shards_mixed_by_chance() -> None:
    sources = [table(DURATIONS[:80], 4), table(DURATIONS[:60], 4, first=80)]
    streams = ranks_of(interleave_datasets(sources, probabilities=[0.5, 0.5], seed=2), 3, shuffle_buffer=7)
    given = rows_of(epoch(streams))
    assert len(set(given)) == len(given) == streams[0].counts.seen - streams[0].counts.dropped
    assert min(given) < 80 <= max(given)


# --------------------------------------------------------------------------------------------------------------------
# Real processes: this file is run as a script by each rank


UNEVEN = [50, 10, 5, 30]
EDGES = np.array([2.0, 4.0])  # so many buckets that rows wait


def run_rank(rank: int, num_replicas: int, folder: Path) -> dict[str, Any]:
    """What a rank of a process group sees."""
    dist.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=num_replicas)
    read: list[int] = []

    def note(row: dict[str, Any]) -> dict[str, Any]:
        read.append(row["id"])
        return row

    def stream(dataset: IterableDataset) -> AudioStream:
        return stream_of(dataset, num_replicas, rank, edges=EDGES, process_group=dist.group.WORLD)

    def fail(row: dict[str, Any]) -> dict[str, Any]:
        if rank == 0:
            raise LookupError("no such word")
        return row

    def failure(broken: AudioStream) -> str:
        try:
            ids(broken)
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        return "none"

    whole = stream(uneven(UNEVEN).map(note))
    seen: dict[str, Any] = {"epoch 0": ids(whole), "read": list(read), "counts 0": whole.state_dict()["counts"]}
    seen["epoch 1"] = ids(whole)

    seen["resumed"], seen["states"] = [], []
    state = saved(stream(uneven(UNEVEN)))
    for steps in (3, 1, 1000):
        killed = stream(uneven(UNEVEN))
        killed.load_state_dict(state)
        seen["resumed"] += some(killed, steps)
        state = saved(killed)
        seen["states"].append(state)

    other = stream(uneven(UNEVEN))
    other.load_state_dict(json.loads((folder / "other.json").read_text()))
    seen["of another number of ranks"] = ids(other)

    broken = stream(uneven(UNEVEN).map(fail))
    seen["error"] = failure(broken)
    broken.load_state_dict(seen["states"][0])
    seen["error of rows that wait"] = failure(broken)
    dist.destroy_process_group()
    return seen


def test_two_processes_that_read_their_own_shards_only(tmp_path: Path) -> None:
    ranks = 2
    before = ranks_of(uneven(UNEVEN), 3, edges=EDGES)
    given_before = rows_of([some(stream, 3) for stream in before])
    (tmp_path / "other.json").write_text(json.dumps(saved(before[0])))

    script = [sys.executable, __file__, str(ranks), str(tmp_path)]
    processes = [subprocess.Popen([*script, str(rank)], stderr=subprocess.PIPE, text=True) for rank in range(ranks)]
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    seen = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(ranks)]

    streams = ranks_of(uneven(UNEVEN), ranks, edges=EDGES)
    expected = epoch(streams)
    assert [rank["epoch 0"] for rank in seen] == [rank["resumed"] for rank in seen] == expected
    assert all(rank["counts 0"] == asdict(streams[0].counts) for rank in seen)
    assert [rank["epoch 1"] for rank in seen] == epoch(streams)

    read = [set(rank["read"]) for rank in seen]
    assert sorted(row for rank in seen for row in rank["read"]) == list(range(sum(UNEVEN)))  # once, by one rank
    given = [{row for batch in rank for row in batch} for rank in expected]
    assert any(given[rank] - read[rank] for rank in range(ranks))  # and handed over, as shards are uneven

    states = seen[0]["states"]
    assert all(rank["states"] == states for rank in seen)
    assert states[0]["window"] == states[1]["window"] == 1  # killed twice in one window
    assert {lane for waiting in states[0]["waiting"] for lane, _ in waiting["rows"]} == {0, 1}

    after = rows_of([rank["of another number of ranks"] for rank in seen])
    assert len(set(given_before + after)) == len(given_before + after) > sum(UNEVEN) - ranks

    for error in ("error", "error of rows that wait"):
        assert seen[0][error] == "LookupError: no such word"
        others = {rank[error] for rank in seen[1:]}
        assert others == {"StreamError: reading failed on rank 0: LookupError: no such word"}


if __name__ == "__main__":
    count, folder, rank = int(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    (folder / f"{rank}.json").write_text(json.dumps(run_rank(rank, count, folder)))
    # Once in some 60 runs, with a loaded machine, the C++ threads of torch or pyarrow aborted here, all being done.
    os._exit(0)


def test_a_process_that_leaves_a_stream_half_read_ends_in_peace(tmp_path: Path) -> None:
    rows = {"audio": [{"bytes": None, "path": str(row)} for row in range(300)], "seconds": [1.0] * 300}
    Dataset.from_dict(rows).to_parquet(tmp_path / "rows.parquet", batch_size=50)
    file = str(tmp_path / "rows.parquet")
    code = (
        "from datasets import load_dataset; from hfaudio.data.stream import AudioStream; "
        f"rows = load_dataset('parquet', data_files={file!r}, split='train', streaming=True); "
        "batches = iter(AudioStream(rows, shuffle_buffer=60)); next(batches)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")
