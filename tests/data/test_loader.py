import json
from typing import Any

import pytest
import torch
from datasets import IterableDataset

from hfaudio.data.datasets import SkipRow
from hfaudio.data.loader import BatchLoader
from hfaudio.data.sampler import BucketSampler
from hfaudio.data.stream import AudioStream, StreamError

SECONDS = [1.0 + 0.1 * (row % 30) for row in range(90)]


class Numbers(torch.utils.data.Dataset):
    """Examples that say their row and epoch; rows in `broken` cannot be decoded."""

    def __init__(self, broken: frozenset[int] = frozenset()) -> None:
        self.broken = broken
        self.epoch = -1

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __getitem__(self, item: Any) -> dict[str, int] | SkipRow:
        number = item if isinstance(item, int) else int(item["id"])
        return SkipRow("corrupt") if number in self.broken else {"id": number, "epoch": self.epoch}


def collate(examples: list[dict[str, int]]) -> dict[str, torch.Tensor]:
    return {name: torch.tensor([example[name] for example in examples]) for name in ("id", "epoch")}


def stream_rows() -> IterableDataset:
    def rows(shards: list[int]):
        for shard in shards:
            yield from ({"id": str(row), "seconds": SECONDS[row]} for row in range(shard * 30, shard * 30 + 30))

    return IterableDataset.from_generator(rows, gen_kwargs={"shards": [0, 1, 2]})


def loader(kind: str, workers: int = 0, broken: frozenset[int] = frozenset(), **options: Any) -> BatchLoader:
    settings = {"max_seconds": 15.0, "max_examples": None} | options
    if kind == "stream":
        batches: Any = AudioStream(stream_rows(), shuffle_buffer=20, **settings)
    else:
        batches = BucketSampler(SECONDS, **settings)
    return BatchLoader(batches, Numbers(broken), collate, num_workers=workers)


def ids(batches: Any) -> list[list[int]]:
    return [batch["id"].tolist() for batch in batches]


@pytest.mark.parametrize("kind", ["stream", "map"])
def test_workers_change_nothing(kind: str) -> None:
    here = ids(loader(kind))
    assert sorted(row for batch in here for row in batch) == list(range(90))
    assert ids(loader(kind, workers=2)) == here


@pytest.mark.parametrize("kind", ["stream", "map"])
@pytest.mark.parametrize("workers", [0, 2])
def test_the_state_is_that_of_the_delivered_batch_not_of_those_prepared(kind: str, workers: int) -> None:
    expected = ids(loader(kind))
    first = loader(kind, workers)
    given = []
    for batch in first:
        given.append(batch["id"].tolist())
        if len(given) == 3:
            break
    resumed = loader(kind, 2 - workers)
    resumed.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert given + ids(resumed) == expected
    assert given + ids(first) == expected  # the same loader goes on, too


@pytest.mark.parametrize("kind", ["stream", "map"])
def test_epochs_are_told_to_the_examples_and_counted(kind: str) -> None:
    batches = loader(kind, workers=1)
    seen = [{int(epoch) for batch in batches for epoch in batch["epoch"]} for _ in range(2)]
    assert seen == [{0}, {1}] and batches.epoch == 2
    for _ in batches:
        if batches.is_last_step:
            assert batches.epochs == 3.0
    assert batches.progress()["audio_hours"] == pytest.approx(3 * sum(SECONDS) / 3600, abs=1e-4)
    assert 0 < batches.progress()["padding_share"] < 0.5


def test_rows_that_cannot_be_decoded_are_left_out_and_counted_once() -> None:
    broken = frozenset(range(0, 90, 9))
    batches = loader("map", workers=2, broken=broken)
    assert sorted(row for batch in ids(batches) for row in batch) == sorted(set(range(90)) - broken)
    assert batches.skipped == {"corrupt": 10} and batches.progress()["skipped_rows"] == 10
    resumed = loader("map", broken=broken)
    resumed.load_state_dict(batches.state_dict())
    assert resumed.skipped == {"corrupt": 10}


def test_a_batch_without_any_usable_row() -> None:
    """One process goes on with the next; of several the one that lost its batch takes the one before again."""
    given = ids(loader("map"))
    lost = frozenset(given[2])
    assert ids(loader("map", broken=lost)) == given[:2] + given[3:]
    given = ids(loader("map", num_replicas=2))
    two = loader("map", num_replicas=2, broken=frozenset(given[2]))
    assert ids(two) == [*given[:2], given[1], *given[3:]] and two.repeated == 1
    with pytest.raises(RuntimeError, match="no row of the first batch could be decoded"):
        ids(loader("map", num_replicas=2, broken=frozenset(range(90))))


def test_a_stream_of_which_too_much_cannot_be_decoded_stops() -> None:
    with pytest.raises(StreamError, match=r"21 of \d+ rows hold no usable audio \(corrupt 21\)"):
        ids(loader("stream", broken=frozenset(range(0, 90, 2))))
    assert len(ids(loader("stream", broken=frozenset(range(0, 90, 9))))) > 5  # ten rows are few


def test_taking_batches_leaves_the_generator_of_dropout_alone() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    ids(loader("map", workers=1))
    assert torch.equal(torch.get_rng_state(), before)
