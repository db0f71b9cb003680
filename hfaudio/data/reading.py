"""Rows of a streamed dataset in shard after shard, from any place on, through failing networks.

`datasets` retries single reads (20 times, 5 s apart) and gives up for good; what then reaches us closes the
generator. Here a shard is opened again behind the last row that was delivered.
"""

import logging
import random
import sys
import tarfile
import threading
import time
import zlib
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import IterableDataset

logger = logging.getLogger(__name__)

Row = dict[str, Any]

# Rows after which the place in a shard is noted, so that a failure does not read the shard from its beginning.
ROWS_A_NOTE = 100

# Datasets of fewer shards are cut further where the format allows it.
ENOUGH_SHARDS = 64


class StreamError(RuntimeError):
    """The stream cannot go on."""


@dataclass(frozen=True)
class Retry:
    """How long to wait after the n-th failure in a row, and when to give up (all in seconds, but `attempts`)."""

    attempts: int = 8  # with the waits below about four minutes
    first: float = 1.0
    longest: float = 60.0
    longest_asked: float = 600.0  # of a server's Retry-After

    def wait(self, failures: int, error: BaseException) -> float:
        """Seconds to wait: what the server asks for, else twice as long as before, shortened by up to a half.

        The random part keeps many ranks from coming back at once. It leaves the global generators alone.
        """
        asked = retry_after(error)
        if asked is not None:
            return min(asked, self.longest_asked)
        return min(self.longest, self.first * 2 ** (failures - 1)) * random.SystemRandom().uniform(0.5, 1.0)


def retry_after(error: BaseException | None) -> float | None:
    """Seconds a server asks to wait in the Retry-After header (a number or a date), wherever the error carries it."""
    while error is not None:
        response = getattr(error, "response", None)  # requests, httpx and huggingface_hub; aiohttp has it on itself
        headers = getattr(response if response is not None else error, "headers", None)
        value = headers.get("Retry-After") if isinstance(headers, Mapping) else None
        if value is not None:
            try:
                return max(0.0, float(value))
            except ValueError:
                pass
            try:
                return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
            except ValueError:
                return None
        error = error.__cause__ or error.__context__
    return None


def may_pass(error: Exception) -> bool:
    """Whether reading again may help: all of the network and of files cut short, but not what is absent or denied."""
    if isinstance(error, (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)):
        return False
    kinds: tuple[type[BaseException], ...] = (OSError, EOFError, HTTPException, pa.ArrowInvalid, zlib.error)
    kinds += (tarfile.ReadError,)
    for module, name in (("aiohttp", "ClientError"), ("httpx", "TransportError"), ("httpx2", "TransportError")):
        if module in sys.modules:  # slow to import, and nothing has raised what was never imported
            kinds += (getattr(sys.modules[module], name),)
    return isinstance(error, kinds)


@dataclass(frozen=True)
class Cursor:
    """A place in a sequence of shards: in the `shard`-th of them, where `datasets` says it is (None: its start)."""

    shard: int = 0
    state: dict[str, Any] | None = field(default=None, compare=False)


class ShardReader:
    """Iterator over the rows of some shards of a dataset, one after the other.

    Args:
        dataset: as `prepare_stream` returns it, with the number of its shards.
        shards: numbers of the shards to read, in this order.
        epoch: told to the dataset, whose sources may be mixed differently in another epoch.
        cursor: where to start.
        stopped: set by whoever wants no more rows, from any thread.
    """

    def __init__(
        self,
        dataset: IterableDataset,
        num_shards: int,
        shards: Sequence[int],
        epoch: int,
        cursor: Cursor,
        retry: Retry,
        stopped: threading.Event,
    ) -> None:
        self.dataset = dataset
        self.num_shards = num_shards
        self.shards = shards
        self.epoch = epoch
        self.retry = retry
        self.stopped = stopped
        self._position = cursor.shard
        self._start = cursor.state
        self._shard: IterableDataset | None = None
        self._rows = self._read()

    def __iter__(self) -> Iterator[Row]:
        return self

    def __next__(self) -> Row:
        return next(self._rows)

    def cursor(self) -> Cursor:
        """The place behind the row that came last."""
        return Cursor(self._position, self._start if self._shard is None else self._shard.state_dict())

    def close(self) -> None:
        """Close files and connections; pyarrow's threads otherwise end a process with an abort."""
        self._rows.close()

    def _read(self) -> Generator[Row, None, None]:
        while self._position < len(self.shards) and not self.stopped.is_set():
            yield from self._read_shard()
            self._shard, self._start = None, None
            self._position += 1

    def _read_shard(self) -> Iterator[Row]:
        note, since_note, failures = self._start, 0, 0
        while not self.stopped.is_set():
            self._shard = shard = self._open(note)
            rows = iter(shard)
            try:
                for _ in range(since_note):
                    next(rows)
                for row in rows:
                    if self.stopped.is_set():
                        return
                    failures, since_note = 0, since_note + 1
                    if since_note == ROWS_A_NOTE:
                        note, since_note = shard.state_dict(), 0
                    yield row
                return
            except Exception as error:
                if not may_pass(error):
                    raise
                failures += 1
                self._wait(failures, error)
            finally:
                rows.close()  # type: ignore[attr-defined]  # a generator

    def _open(self, state: dict[str, Any] | None) -> IterableDataset:
        shard = self.dataset
        if self.num_shards > 1:
            shard = shard.shard(num_shards=self.num_shards, index=self.shards[self._position])
        shard.set_epoch(self.epoch)
        if state is not None:
            shard.load_state_dict(state)
        return shard

    def _wait(self, failures: int, error: Exception) -> None:
        place = f"shard {self.shards[self._position]} of {self.num_shards}"
        if failures >= self.retry.attempts:
            raise StreamError(
                f"{place} could not be read in {failures} attempts, the last one failed by {error!r}; check the "
                "connection or the file, then resume from the last checkpoint: no row is lost"
            ) from error
        seconds = self.retry.wait(failures, error)
        logger.warning("%s: %r; attempt %d of %d in %.1f s", place, error, failures + 1, self.retry.attempts, seconds)
        self.stopped.wait(seconds)


def prepare_stream(dataset: IterableDataset) -> tuple[IterableDataset, int]:
    """The dataset with encoded audio, cut as finely as its format allows, and the number of its shards.

    Parquet with few files is read by row groups: they mix better, divide over more ranks, and a resumed run skips
    at most one. `take` and `skip` count rows across shards, so that such a stream is one shard.

    Raises:
        TypeError: for anything but an IterableDataset.
        ValueError: for a dataset with a shuffle buffer, whose place `datasets` 5.2 cannot find again: resuming one
            lost 9 of 80 rows and repeated one.
    """
    if not isinstance(dataset, IterableDataset):
        raise TypeError(
            f"expected a datasets.IterableDataset, got {type(dataset).__name__}; load_dataset(..., streaming=True), "
            "or dataset.to_iterable_dataset(num_shards=64)"
        )
    steps = _steps(dataset._ex_iterable)
    if "BufferShuffledExamplesIterable" in steps:
        raise ValueError(
            "the dataset is shuffled with a buffer (dataset.shuffle), and its place cannot be saved; give it "
            "unshuffled: AudioStream(dataset, shuffle_buffer=...) shuffles"
        )
    if dataset.features is not None:
        dataset = dataset.decode(False)
    if steps & {"TakeExamplesIterable", "SkipExamplesIterable"}:
        return dataset, 1
    if dataset.num_shards < ENOUGH_SHARDS:  # to look into every file of a large dataset would take minutes
        dataset = dataset.reshard()
    return dataset, dataset.num_shards


def _steps(step: Any) -> set[str]:
    """Names of all steps of a streamed dataset's pipeline; `datasets` has no public way to ask for them."""
    before = [*getattr(step, "ex_iterables", []), getattr(step, "ex_iterable", None)]
    return {type(step).__name__}.union(*(_steps(other) for other in before if other is not None))


def shard_order(num_shards: int, seed: int, epoch: int) -> list[int]:
    """The numbers of the shards as an epoch reads them."""
    return [int(shard) for shard in np.random.default_rng([seed, epoch]).permutation(num_shards)]
