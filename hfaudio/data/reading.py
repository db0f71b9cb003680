"""Rows of a streamed dataset in shard after shard, from any place on, through failing networks.

A failed read closes the generators of `datasets` for good. Here the shard is opened again, and reading goes on
behind the last row that was delivered. What `datasets` 5.2 with fsspec 2026.9 does by itself over HTTP:

    any bad status, reset, end     reads again up to 20 times, 5 s apart, whatever Retry-After says; 403 and 404 too
    the same when a file opens     FileNotFoundError at once, whatever failed: fsspec keeps the cause below it
    no byte comes                  breaks off after 300 s, 20 times: 100 minutes
    body cut, its length adjusted  parquet: an error at once, no row lost; csv, json: goes on; tar: loses the rest

So while a reader is open it switches these retries off, for the whole process, and does all of them itself: waits
as the server asks, gives up at once on what will not pass, breaks off silent connections and refuses short answers.
The Hub (`hf://`) has another client, with a time-out of its own (10 s) and five retries before an error comes here.
A tar that is short where it lies still ends without an error in `datasets`, at its last whole file.
"""

import logging
import random
import re
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

import datasets.config
import fsspec.config
import numpy as np
import pyarrow as pa
from datasets import IterableDataset

logger = logging.getLogger(__name__)

Row = dict[str, Any]

# Rows after which the place in a shard is noted, so that a failure does not read the shard from its beginning.
ROWS_A_NOTE = 100

# Datasets of fewer shards are cut further where the format allows it.
ENOUGH_SHARDS = 64


# A connection over which nothing has come for so long is broken off. A large file may take as long as it needs.
SILENT_SECONDS = 60.0

# Among the answers 400 to 499 these may be others later: request time-out, too early, too many requests.
PASSING_STATUS = (408, 425, 429)


class StreamError(RuntimeError):
    """The stream cannot go on."""


@dataclass(frozen=True)
class Retry:
    """How long to wait after the n-th failure in a row, and when to give up (all in seconds, but `attempts`)."""

    attempts: int = 11  # with the waits below about four minutes
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


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and all that it came from, the outermost first."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def http_status(error: BaseException) -> int | None:
    """The status that a server has answered with, wherever the error carries it."""
    for cause in causes(error):
        response = getattr(cause, "response", None)  # requests, httpx and huggingface_hub; aiohttp has it on itself
        status = getattr(cause, "status", None) if response is None else response.status_code
        if isinstance(status, int):
            return status
    return None


def retry_after(error: BaseException) -> float | None:
    """Seconds a server asks to wait in the Retry-After header (a number or a date), wherever the error carries it."""
    for cause in causes(error):
        response = getattr(cause, "response", None)
        headers = getattr(cause if response is None else response, "headers", None)
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
    return None


def comes_from_reading(error: Exception) -> bool:
    """Whether the network or a file has failed, not the code of a dataset's steps."""
    kinds: tuple[type[BaseException], ...] = (OSError, EOFError, HTTPException, pa.ArrowInvalid, zlib.error)
    kinds += (tarfile.ReadError,)
    for module, name in (("aiohttp", "ClientError"), ("httpx", "TransportError"), ("httpx2", "TransportError")):
        if module in sys.modules:  # slow to import, and nothing has raised what was never imported
            kinds += (getattr(sys.modules[module], name),)
    return isinstance(error, kinds)


def may_pass(error: Exception, *, remote: bool = True) -> bool:
    """Whether reading again may help: not with what is absent or denied, nor with a broken file on this machine."""
    status = http_status(error)
    if status is not None:
        return status >= 500 or status in PASSING_STATUS
    if isinstance(error, FileNotFoundError) and isinstance(error.__cause__, Exception):
        return may_pass(error.__cause__)  # fsspec takes a file for absent when its server fails
    if isinstance(error, (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)):
        return False
    if not remote:
        return isinstance(error, OSError) and error.errno is not None  # the disk failed, not the file's content
    return comes_from_reading(error)


async def _impatient_client(**options: Any) -> Any:
    """The client of fsspec, but for a time-out (its own is 300 s for a whole answer) and no faith in short answers."""
    import aiohttp

    async def refuse_short(session: Any, context: Any, answer: Any) -> None:
        # fsspec takes a short answer for the end of the file, where a tar ends without an error.
        told = re.match(r"bytes (\d+)-(\d+)/", answer.response.headers.get("Content-Range", ""))
        length = answer.response.content_length
        if answer.method == "GET" and told and length not in (None, int(told[2]) - int(told[1]) + 1):
            answer.response.close()
            raise aiohttp.ClientPayloadError(f"{answer.url}: {length} bytes for {told[0]}")

    trace = aiohttp.TraceConfig()
    trace.on_request_end.append(refuse_short)
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=SILENT_SECONDS, sock_read=SILENT_SECONDS)
    defaults: dict[str, Any] = {"timeout": timeout, "trace_configs": [trace]}
    return aiohttp.ClientSession(**defaults | options)


class _OneLayerOfRetries:
    """Holds back the retries of `datasets` while any reader is open; `with` in any number of threads.

    A failure then comes to the reader at once. `datasets` also sleeps for 5 s behind each interleaved parquet
    shard, for pyarrow's threads to end; a reader's files are closed in order, so that there is nothing to wait for.
    """

    settings: Mapping[str, float] = {
        "STREAMING_READ_MAX_RETRIES": 1,
        "STREAMING_READ_RETRY_INTERVAL": 0,
        "STREAMING_READ_SERVER_UNAVAILABLE_RETRY_INTERVAL": 0,
        "STREAMING_READ_RATE_LIMIT_RETRY_INTERVAL": 0,
        "STREAMING_OPEN_MAX_RETRIES": 1,
        "STREAMING_OPEN_RETRY_INTERVAL": 0,
        "SLEEP_TIME_ON_THREADS_SHUTDOWN": 0,
    }

    def __init__(self) -> None:
        # Kept here, as names of modules are gone when a half-read stream is collected at the end of the process.
        self.config, self.http = datasets.config, fsspec.config.conf
        self.lock = threading.RLock()  # a reader that nobody closed may be collected, and so end, in `__enter__`
        self.readers = 0
        self.before: dict[str, float] = {}
        self.clients: dict[str, dict[str, Any]] = {}

    def __enter__(self) -> None:
        with self.lock:
            if self.readers == 0:
                self.before = {name: getattr(self.config, name) for name in self.settings}
                self._set(self.settings)
                self.clients = {protocol: self.http.get(protocol, {}) for protocol in ("http", "https")}
                for protocol, options in self.clients.items():
                    self.http[protocol] = {"get_client": _impatient_client} | options
            self.readers += 1

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.readers -= 1
            if self.readers == 0:
                self._set(self.before)
                self.http.update(self.clients)

    def _set(self, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            setattr(self.config, name, value)


_one_layer_of_retries = _OneLayerOfRetries()


@dataclass(frozen=True)
class Cursor:
    """A place in a sequence of shards: in the `shard`-th, `rows` behind where `datasets` says (None: its start)."""

    shard: int = 0
    state: dict[str, Any] | None = field(default=None, compare=False)
    rows: int = 0


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
        self._has_exact_state = not _mixes_kinds(dataset._ex_iterable)
        self._position = cursor.shard
        self._note = cursor  # a place in the shard, from where `_behind` rows have been read
        self._behind = cursor.rows
        self._shard: IterableDataset | None = None
        self._rows = self._read()

    def __iter__(self) -> Iterator[Row]:
        return self

    def __next__(self) -> Row:
        return next(self._rows)

    def cursor(self) -> Cursor:
        """The place behind the row that came last."""
        if self._shard is None or not self._has_exact_state:
            return Cursor(self._position, self._note.state, self._behind)
        return Cursor(self._position, self._shard.state_dict())

    def close(self) -> None:
        """Close files and connections; pyarrow's threads otherwise end a process with an abort."""
        self._rows.close()

    def _read(self) -> Generator[Row, None, None]:
        with _one_layer_of_retries:
            while self._position < len(self.shards) and not self.stopped.is_set():
                yield from self._read_shard()
                self._position += 1
                self._shard, self._note, self._behind = None, Cursor(), 0

    def _read_shard(self) -> Iterator[Row]:
        failures = 0
        while not self.stopped.is_set():
            shard = self._open(self._note.state)
            rows = iter(shard)
            try:
                for _ in range(self._behind):
                    next(rows)
                self._shard = shard
                for row in rows:
                    if self.stopped.is_set():
                        return
                    failures = 0
                    self._behind += 1
                    if self._behind >= ROWS_A_NOTE and self._has_exact_state:
                        self._note, self._behind = Cursor(self._position, shard.state_dict()), 0
                    yield row
                return
            except Exception as error:
                if not comes_from_reading(error):
                    raise
                failures += 1
                self._wait(failures, error, _files(shard._ex_iterable))
            finally:
                rows.close()  # type: ignore[attr-defined]  # a generator

    def _open(self, state: dict[str, Any] | None) -> IterableDataset:
        # Also of a single shard this is a copy: `load_state_dict` would stay with the dataset in the next epoch.
        shard = self.dataset.shard(num_shards=self.num_shards, index=self.shards[self._position])
        shard.set_epoch(self.epoch)
        if state is not None:
            shard.load_state_dict(state)
        return shard

    def _wait(self, failures: int, error: Exception, files: list[str]) -> None:
        """Wait before the next attempt; StreamError if there is none."""
        place = f"shard {self.shards[self._position]} of {self.num_shards}"
        if files:
            place += f" ({files[0]})" if len(files) == 1 else f" ({files[0]} and {len(files) - 1:,} more)"
        if not may_pass(error, remote=not files or any("://" in file for file in files)):
            raise StreamError(
                f"{place} cannot be read: {error!r}; see that the file is there, whole and open to you, then resume "
                "from the last checkpoint: no row is lost"
            ) from error
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


def _before(step: Any) -> list[Any]:
    """The steps whose rows go into a step of a streamed dataset; `datasets` has no public way to ask for them."""
    return [*getattr(step, "ex_iterables", []), *([step.ex_iterable] if hasattr(step, "ex_iterable") else [])]


def _steps(step: Any) -> set[str]:
    """Names of a step and all before it."""
    return {type(step).__name__}.union(*map(_steps, _before(step)))


def _mixes_kinds(step: Any) -> bool:
    """Whether sources that give tables are concatenated with others that give rows.

    A map or filter over them reads tables in the first kind of shard and counts them as one row: resumed, it left
    out 4 of 5 rows (`datasets` 5.2). In such a dataset the rows are counted here.
    """
    if type(step).__name__ == "VerticallyConcatenatedMultiSourcesExamplesIterable":
        if len({source.iter_arrow is None for source in step.ex_iterables}) > 1:
            return True
    return any(map(_mixes_kinds, _before(step)))


def _files(step: Any) -> list[str]:
    """Paths and addresses of the files that a step's rows come from."""
    values = [value for value in getattr(step, "kwargs", {}).values() if isinstance(value, (list, tuple))]
    files = [file for value in values for file in value if isinstance(file, str)]
    return list(dict.fromkeys(files + [file for source in _before(step) for file in _files(source)]))


def shard_order(num_shards: int, seed: int, epoch: int) -> list[int]:
    """The numbers of the shards as an epoch reads them."""
    return [int(shard) for shard in np.random.default_rng([seed, epoch]).permutation(num_shards)]
