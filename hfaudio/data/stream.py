"""Batches of encoded rows from a stream: buckets by duration, all ranks in step, resumed where it was.

Rows are read in windows. In each window every lane (there is one for each rank) reads the next `shuffle_buffer`
usable rows of its shards, still encoded. All ranks learn the lengths of all rows, and `hfaudio.data.buckets` plans
the same steps everywhere: a pure function of lengths, seed, epoch and window. So the place in a stream is a few
cursors and numbers, and a resumed run reads again no more than the window it was in and the rows that had waited
for it, wherever in the epoch that is.

    dataset       o o o o o o o o o o o o o    shards, in another order in every epoch
    lanes         [ ....window n.... ][ ....window n + 1....   read in the background
    plan          rank 0  |bucket 3|bucket 0|...                one batch for each rank at a step
                  rank 1  |bucket 3|bucket 0|...  -> rows that wait for window n + 1

`datasets` 5.2 has none of this: its shuffled streams lose rows when resumed, and `transformers` groups lengths of
map-style data only. lhotse has it, but not on `datasets`.
"""

import atexit
import threading
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch.distributed as dist
from datasets import IterableDataset

from hfaudio.data.buckets import (
    Batches,
    BatchLimits,
    estimate_edges,
    longest_first,
    plan_last_steps,
    plan_steps,
    split_to_multiple,
)
from hfaudio.data.datasets import AUDIO_REASONS, SkipRow, header_seconds
from hfaudio.data.reading import Cursor, Retry, Row, ShardReader, StreamError, prepare_stream, shard_order

STATE_VERSION = 1

# A few broken rows must not stop a stream before their share means anything.
FEW_BROKEN_ROWS = 20

RowId = tuple[int, int, int]  # window, lane, number among the usable rows of that lane's window


@dataclass
class StreamCounts:
    """What a stream has given so far, on all ranks together and over all epochs."""

    steps: int = 0
    rows: int = 0
    seconds: float = 0.0
    padded_seconds: float = 0.0
    dropped: int = 0  # rows left over at the ends of epochs, fewer than one for each rank
    seen: int = 0  # rows read, usable or not
    skipped: dict[str, int] = field(default_factory=dict)  # by reason

    def add(self, seconds: Sequence[float] | np.ndarray) -> None:
        """Count a batch of rows of these lengths."""
        self.rows += len(seconds)
        self.seconds += float(sum(seconds))
        self.padded_seconds += len(seconds) * float(max(seconds))

    @property
    def padding_share(self) -> float:
        """Share of the batches' audio that is padding."""
        return 1 - self.seconds / self.padded_seconds if self.padded_seconds else 0.0


def stop_if_broken(skipped: Mapping[str, int], seen: int, max_share: float) -> None:
    """Raises StreamError if more than this share of the rows seen hold no usable audio, and not just a few."""
    broken = {reason: skipped[reason] for reason in AUDIO_REASONS if skipped.get(reason)}
    total = sum(broken.values())
    if total > FEW_BROKEN_ROWS and total > max_share * seen:
        reasons = ", ".join(f"{reason} {rows:,}" for reason, rows in broken.items())
        raise StreamError(
            f"{total:,} of {seen:,} rows hold no usable audio ({reasons}), more than the {max_share:.1%} allowed; "
            "check the audio column and some of its files, or allow more with max_broken_share (--max_broken_share)"
        )


@dataclass(frozen=True)
class Waiting:
    """Rows of one earlier window that have not been given out yet."""

    window: int
    cursors: list[Cursor]
    rows: list[tuple[int, int]]  # lane, number


@dataclass
class Found:
    """What one lane found in a window, as it is told to all ranks."""

    seconds: list[float]
    cursor: Cursor
    exhausted: bool
    skipped: dict[str, int]


class AudioStream:
    """Iterator over the batches of one rank: lists of rows with encoded audio and, added, their `seconds`.

    Each `iter()` is one epoch, or what a loaded state leaves of it. At every step all ranks get batches of the same
    bucket and the same number of rows (in the last window of an epoch buckets mix and numbers differ by one), and
    all ranks end at the same step. Every usable row is given out once in an epoch, but for fewer rows than there
    are ranks at its end, which `counts.dropped` tells.

    Use one stream in the main process of each rank and `hfaudio.data.loader.BatchLoader` to decode its batches in
    workers: their number changes neither the batches nor the state.

    Args:
        dataset: rows with `audio` `{"bytes", "path"}`; not shuffled.
        max_seconds: of a batch, padding included; longer rows are skipped and counted. None: no limit.
        max_examples: rows of a batch. None: no limit.
        num_replicas, rank: how many processes train together, and which of them this is.
        process_group: over the same ranks, on CPU (gloo), so that each rank reads its shards only and hands over
            what it has too much of. Without it every rank reads all rows and keeps its own: the same batches.
        seed: of the order; each epoch has another one.
        shuffle_buffer: rows in a window of each rank; up to twice as many are held, encoded.
        edges: inner bucket edges in seconds. None: estimated from the first window.
        measure: seconds of a row, or SkipRow with one of `hfaudio.data.datasets.REASONS`.
        num_rows: of an epoch, if known; only for `steps_an_epoch` and to tell how far an epoch has come.
        step_multiple: the number of steps of an epoch is a multiple of this, for gradient accumulation; as far as
            the batches of its last window have two rows to be split.
        max_broken_share: more unreadable rows than this stop the stream with an error.
        retry: what to do when reading fails.
    """

    def __init__(
        self,
        dataset: IterableDataset,
        max_seconds: float | None = 60.0,
        num_replicas: int = 1,
        rank: int = 0,
        seed: int = 0,
        shuffle_buffer: int = 1000,
        *,
        max_examples: int | None = None,
        process_group: dist.ProcessGroup | None = None,
        edges: np.ndarray | None = None,
        measure: Callable[[Mapping[str, Any]], float] = header_seconds,
        num_rows: int | None = None,
        step_multiple: int = 1,
        max_broken_share: float = 0.05,
        retry: Retry | None = None,
    ) -> None:
        if not 0 <= rank < num_replicas:
            raise ValueError(f"rank must be at least 0 and below num_replicas; got {rank} of {num_replicas}")
        if shuffle_buffer < 1:
            raise ValueError(f"shuffle_buffer must be at least 1 row (no shuffling); got {shuffle_buffer}")
        self.dataset, self.num_shards = prepare_stream(dataset)
        self.limits = BatchLimits(max_seconds, max_examples)
        self.num_replicas = num_replicas
        self.rank = rank
        self.process_group = process_group
        self.seed = seed
        self.shuffle_buffer = shuffle_buffer
        self.measure = measure
        self.num_rows = num_rows
        self.step_multiple = step_multiple
        self.max_broken_share = max_broken_share
        self.retry = retry or Retry()
        self.counts = StreamCounts()
        self.edges: np.ndarray | None = None if edges is None else np.unique(np.asarray(edges, dtype=np.float64))
        self._window_size = (0, 0)  # steps of the window's plan and the rows in them
        self.begin_epoch(0)

    # -----------------------------------------------------------------------------------------------------------
    # Place

    def begin_epoch(self, epoch: int) -> None:
        """Go to the beginning of an epoch."""
        self.epoch = epoch
        self.window = 0
        self.step = 0  # of the window's plan
        self.epoch_steps = 0
        self.epoch_rows = 0
        self.is_last_step = False  # whether the batch that came last ends the epoch
        self.planned_for = (self.num_replicas, self.step_multiple)
        self._set_window([Cursor() for _ in range(self.num_replicas)], [])
        self.done: set[RowId] = set()  # given out in this window under another plan
        # Rows seen and skipped before this window, which is read and counted again after a resume.
        self._counted_before: tuple[int, dict[str, int]] | None = None

    def state_dict(self) -> dict[str, Any]:
        """The place behind the batch that came last, the same on every rank; plain values that JSON can hold."""
        return {
            "version": STATE_VERSION,
            "settings": self._settings(),
            "planned_for": self.planned_for,
            "edges": None if self.edges is None else self.edges.tolist(),
            "epoch": self.epoch,
            "window": self.window,
            "step": self.step,
            "epoch_steps": self.epoch_steps,
            "epoch_rows": self.epoch_rows,
            "is_last_step": self.is_last_step,
            **self._window_place,
            "done": sorted(self.done),
            "counts": asdict(self.counts),
            "counted_before": self._counted_before,
        }

    def _set_window(self, cursors: list[Cursor], waiting: list[Waiting]) -> None:
        """The places where this window and the waiting rows are read from; in the state of each of its batches."""
        self.cursors = cursors  # of each lane, at the window's beginning
        self.waiting = waiting
        self._window_place = {
            "cursors": [asdict(cursor) for cursor in cursors],
            "waiting": [asdict(part) for part in waiting],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to a place that `state_dict` has told.

        With as many ranks as before the stream goes on exactly as it would have. With another number, or another
        `step_multiple`, it goes on with the rows that have not been given out, in other batches: none is lost or
        repeated, up to the rows that are `dropped` at the end of an epoch.

        Raises:
            ValueError: if the state belongs to other settings or other data.
        """
        if state["version"] != STATE_VERSION:
            raise ValueError(f"the stream's state has version {state['version']}, this hfaudio reads {STATE_VERSION}")
        for name, value in self._settings().items():
            if state["settings"][name] != value:
                raise ValueError(
                    f"the stream cannot be resumed with another {name}: it was {state['settings'][name]}, "
                    f"now it is {value}; set it as it was, or start anew"
                )
        self.edges = None if state["edges"] is None else np.asarray(state["edges"], dtype=np.float64)
        self.counts = StreamCounts(**state["counts"] | {"skipped": dict(state["counts"]["skipped"])})
        if state["is_last_step"]:
            self.begin_epoch(state["epoch"] + 1)
            return
        self.epoch, self.window, self.step = state["epoch"], state["window"], state["step"]
        self.epoch_steps, self.epoch_rows = state["epoch_steps"], state["epoch_rows"]
        self.is_last_step = False
        num_replicas, step_multiple = state["planned_for"]
        self.planned_for = (num_replicas, step_multiple)
        waiting = [
            Waiting(
                part["window"],
                [Cursor(**cursor) for cursor in part["cursors"]],
                [(lane, number) for lane, number in part["rows"]],
            )
            for part in state["waiting"]
        ]
        self._set_window([Cursor(**cursor) for cursor in state["cursors"]], waiting)
        self.done = {(window, lane, number) for window, lane, number in state["done"]}
        if state["counted_before"] is None:
            self._counted_before = None
        else:
            seen, skipped = state["counted_before"]
            self._counted_before = (seen, dict(skipped))

    def _settings(self) -> dict[str, Any]:
        return {
            "shards": self.num_shards,
            "seed": self.seed,
            "shuffle_buffer": self.shuffle_buffer,
            "max_seconds": self.limits.max_seconds,
            "max_examples": self.limits.max_examples,
        }

    def steps_an_epoch(self) -> int:
        """About how many steps an epoch has: the first window, which is read for this, times the number of rows.

        Raises:
            ValueError: if the number of rows is not known.
        """
        if self.num_rows is None:
            raise ValueError(
                "nothing tells how many rows the stream has, so epochs cannot be planned; set --max_steps"
            )
        place = self.state_dict()
        self.begin_epoch(0)
        self.counts = StreamCounts()
        batches = self._batches()
        next(batches, None)
        usable = self.counts.seen - sum(self.counts.skipped.values())
        share = usable / self.counts.seen
        steps, rows = self._window_size
        batches.close()
        self.load_state_dict(place)
        return max(1, round(self.num_rows * share * steps / max(1, rows)))

    # -----------------------------------------------------------------------------------------------------------
    # Batches

    def __iter__(self) -> Iterator[list[Row]]:
        return self._batches()

    def _batches(self) -> Generator[list[Row], None, None]:
        lanes = range(len(self.cursors))
        mine = [lane for lane in lanes if self.process_group is None or lane % self.num_replicas == self.rank]
        stopped = threading.Event()
        reading_lanes = {lane: self._open(lane, self.cursors, stopped) for lane in mine}

        def read_window() -> dict[int, tuple[Found, list[Row]]]:
            return {lane: reader.window(self.shuffle_buffer) for lane, reader in reading_lanes.items()}

        def close() -> None:
            stopped.set()
            background.shutdown(wait=True, cancel_futures=True)
            for reader in reading_lanes.values():
                reader.close()

        background = ThreadPoolExecutor(1, thread_name_prefix="audio-stream")
        atexit.register(close)  # what is still half-read then would be collected when modules are gone already
        rows: dict[RowId, Row] = {}  # encoded: of the lanes read here, and what other ranks have handed over
        try:
            lengths = self._read_waiting(mine, rows, stopped)
            reading = background.submit(read_window)
            last = False
            while not last:
                found = self._gather_window(reading, rows)
                last = all(part.exhausted for part in found.values())
                if not last:
                    reading = background.submit(read_window)
                waited = len(lengths)
                for lane in lanes:
                    for number, seconds in enumerate(found[lane].seconds):
                        lengths[self.window, lane, number] = seconds
                self._count_skipped(found)
                plan = self._plan(lengths, waited, last)
                yield from self._give_out(plan, lengths, rows, last)
                lengths = {row: lengths[row] for row in plan.left}
                if not last:
                    self._next_window([found[lane].cursor for lane in lanes], plan.left)
        finally:
            atexit.unregister(close)
            close()
        self.begin_epoch(self.epoch + 1)

    def _open(self, lane: int, cursors: list[Cursor], stopped: threading.Event) -> "_Lane":
        shards = shard_order(self.num_shards, self.seed, self.epoch)[lane :: len(cursors)]
        reader = ShardReader(self.dataset, self.num_shards, shards, self.epoch, cursors[lane], self.retry, stopped)
        return _Lane(reader, self._measured)

    def _measured(self, row: Row) -> float:
        seconds = self.measure(row)
        if self.limits.max_seconds is not None and seconds > self.limits.max_seconds:
            raise SkipRow("too long")
        return seconds

    def _read_waiting(self, mine: list[int], rows: dict[RowId, Row], stopped: threading.Event) -> dict[RowId, float]:
        """Lengths of the rows that wait, which were read in earlier windows; read again after a resume."""
        lengths: dict[RowId, float] = {}
        error = None
        try:
            for part in self.waiting:
                for lane in sorted({lane for lane, _ in part.rows}.intersection(mine)):
                    wanted = {number for waiting_lane, number in part.rows if waiting_lane == lane}
                    reader = self._open(lane, part.cursors, stopped)
                    found, window = reader.window(max(wanted) + 1, ahead=False)
                    reader.close()
                    for number in wanted:
                        rows[part.window, lane, number] = window[number]
                        lengths[part.window, lane, number] = found.seconds[number]
        except Exception as raised:
            error = raised
        if self.waiting:
            told = self._tell_all(lengths, error)
            lengths = {row: seconds for part in told for row, seconds in part.items()}
        return {
            (part.window, lane, number): lengths[part.window, lane, number]
            for part in self.waiting
            for lane, number in part.rows
        }

    def _gather_window(
        self, reading: "Future[dict[int, tuple[Found, list[Row]]]]", rows: dict[RowId, Row]
    ) -> dict[int, Found]:
        """What all lanes of all ranks have found; the rows read here are put to `rows`."""
        found: dict[int, Found] = {}
        error = None
        try:
            windows = reading.result()
            for lane, (part, window) in windows.items():
                found[lane] = part
                rows.update(((self.window, lane, number), row) for number, row in enumerate(window))
            windows.clear()  # the future of the last window would keep its rows until the epoch ends
        except Exception as raised:
            error = raised
        return {lane: part for told in self._tell_all(found, error) for lane, part in told.items()}

    def _tell_all(self, message: Any, error: Exception | None) -> list[Any]:
        """The messages of all ranks; an error of one of them is raised on all, as none could go on alone."""
        if self.process_group is None:
            if error is not None:
                raise error
            return [message]
        told: list[Any] = [None] * self.num_replicas
        failure = None if error is None else f"{type(error).__name__}: {error}"
        dist.all_gather_object(told, (message, failure), group=self.process_group)
        if error is not None:
            raise error
        for rank, (_, failure) in enumerate(told):
            if failure is not None:
                raise StreamError(f"reading failed on rank {rank}: {failure}")
        return [message for message, _ in told]

    def _count_skipped(self, found: dict[int, Found]) -> None:
        """Count the rows of a window that cannot be used, and stop if too many of all are broken."""
        if self._counted_before is None:  # else this window has been counted once
            self._counted_before = (self.counts.seen, self.counts.skipped)
        self.counts.seen, skipped_before = self._counted_before
        skipped = Counter(skipped_before)
        for part in found.values():
            skipped.update(part.skipped)
            self.counts.seen += len(part.seconds) + sum(part.skipped.values())
        self.counts.skipped = dict(skipped)
        stop_if_broken(skipped, self.counts.seen, self.max_broken_share)

    def _plan(self, lengths: dict[RowId, float], waited: int, last: bool) -> "_Plan":
        """The steps of this window for all ranks.

        If the window was begun with another number of ranks or another `step_multiple`, what has been given out is
        found by the plan for these, and the rest is planned anew.
        """
        if not lengths:
            raise StreamError(f"no row can be used: {self.counts.skipped or 'the stream is empty'}")
        if self.edges is None:
            self.edges = estimate_edges(np.array(list(lengths.values())), self.limits, self.num_replicas)
        plan = self._planned(lengths, waited, last)
        if self.planned_for != (self.num_replicas, self.step_multiple):
            self.done.update(plan.rows[i] for step in plan.steps[: self.step] for batch in step for i in batch)
            self.planned_for, self.step = (self.num_replicas, self.step_multiple), 0
            plan = self._planned(lengths, waited, last)
        return plan

    def _planned(self, lengths: dict[RowId, float], waited: int, last: bool) -> "_Plan":
        assert self.edges is not None
        num_replicas, step_multiple = self.planned_for
        waiting = [row for row in list(lengths)[:waited] if row not in self.done]
        rows = waiting + [row for row in list(lengths)[waited:] if row not in self.done]
        seconds = np.array([lengths[row] for row in rows])
        holders = np.array([lane % num_replicas for _, lane, _ in rows], dtype=np.int64)
        rng = np.random.default_rng([self.seed, self.epoch, self.window, len(self.done)])
        steps, left = plan_steps(seconds, holders, self.edges, self.limits, num_replicas, rng, waited=len(waiting))
        dropped = left[:0]
        if last:
            more, dropped = plan_last_steps(left, seconds, self.limits, num_replicas)
            left = left[:0]
            steps += more
            rng.shuffle(steps)  # type: ignore[arg-type]  # a list is shuffled in place
            steps = split_to_multiple(steps, self.epoch_steps - self.step, step_multiple)
        if self.window == 0:
            steps = longest_first(steps, seconds)
        return _Plan(rows, steps, [rows[i] for i in left], [rows[i] for i in dropped])

    def _give_out(
        self, plan: "_Plan", lengths: dict[RowId, float], rows: dict[RowId, Row], last: bool
    ) -> Iterator[list[Row]]:
        """This rank's batches from `self.step` on; nothing of what is given out stays in `rows`."""
        kept = {plan.rows[i] for step in plan.steps[self.step :] for i in step[self.rank]}
        if self.process_group is not None:
            self._hand_over(plan, rows)
        for row in set(rows).difference(kept, plan.left):
            del rows[row]
        self._window_size = (len(plan.steps), sum(len(batch) for step in plan.steps for batch in step))
        if last and not plan.steps:
            self.counts.dropped += len(plan.dropped)
        for number in range(self.step, len(plan.steps)):
            step = plan.steps[number]
            for batch in step:
                self.counts.add([lengths[plan.rows[i]] for i in batch])
            self.counts.steps += 1
            self.epoch_steps += 1
            self.epoch_rows += sum(len(batch) for batch in step)
            self.step = number + 1
            self.is_last_step = last and self.step == len(plan.steps)
            if self.is_last_step:
                self.counts.dropped += len(plan.dropped)
            ids = [plan.rows[i] for i in step[self.rank]]
            yield [rows.pop(row) | {"seconds": lengths[row]} for row in ids]

    def _hand_over(self, plan: "_Plan", rows: dict[RowId, Row]) -> None:
        """Give other ranks the rows that they train on and this one has read, and take theirs."""
        moved: dict[tuple[int, int], list[RowId]] = {}
        for step in plan.steps[self.step :]:
            for receiver, batch in enumerate(step):
                for row in (plan.rows[i] for i in batch):
                    holder = row[1] % self.num_replicas
                    if holder != receiver:
                        moved.setdefault((holder, receiver), []).append(row)
        for (holder, receiver), ids in sorted(moved.items()):  # in one order everywhere: nobody waits in a circle
            if self.rank == holder:
                dist.send_object_list([rows[row] for row in ids], group=self.process_group, group_dst=receiver)
            elif self.rank == receiver:
                received: list[Any] = [None] * len(ids)
                dist.recv_object_list(received, group=self.process_group, group_src=holder)
                rows.update(zip(ids, received, strict=True))

    def _next_window(self, cursors: list[Cursor], left: list[RowId]) -> None:
        read_from = {part.window: part.cursors for part in self.waiting} | {self.window: self.cursors}
        waiting = [
            Waiting(window, read_from[window], [(lane, number) for w, lane, number in left if w == window])
            for window in sorted({window for window, _, _ in left})
        ]
        self._set_window(cursors, waiting)
        self.window += 1
        self.step = 0
        self.done = set()
        self._counted_before = None


@dataclass(frozen=True)
class _Plan:
    """Steps of a window as indices of `rows`; `left` wait for the next window, `dropped` are too few for a step."""

    rows: list[RowId]
    steps: list[Batches]
    left: list[RowId]
    dropped: list[RowId]


class _Lane:
    """Usable rows of a reader in windows; one row ahead, to know a window that is the last."""

    def __init__(self, reader: ShardReader, measure: Callable[[Row], float]) -> None:
        self.reader = reader
        self.measure = measure
        self.ahead: tuple[Row, float] | None = None
        self.skipped: Counter[str] = Counter()

    def window(self, size: int, *, ahead: bool = True) -> tuple[Found, list[Row]]:
        """Up to `size` usable rows and what is told of them."""
        rows: list[Row] = []
        seconds: list[float] = []
        while len(rows) < size and (usable := self.ahead or self._next()):
            self.ahead = None
            rows.append(usable[0])
            seconds.append(usable[1])
        skipped, self.skipped = self.skipped, Counter()
        cursor = self.reader.cursor()
        if ahead:
            self.ahead = self._next()
            if self.ahead is None:  # no window will come for what was skipped behind the last usable row
                skipped, cursor = skipped + self.skipped, self.reader.cursor()
                self.skipped = Counter()
        return Found(seconds, cursor, self.ahead is None, dict(skipped)), rows

    def _next(self) -> tuple[Row, float] | None:
        for row in self.reader:
            try:
                return row, self.measure(row)
            except SkipRow as skip:
                self.skipped[skip.reason] += 1
        return None

    def close(self) -> None:
        self.reader.close()
