"""Batches of row numbers of a map-style dataset: the buckets, budget and state of a stream, with all rows at hand."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from hfaudio.data.buckets import (
    Batches,
    BatchLimits,
    estimate_edges,
    longest_first,
    plan_last_steps,
    plan_steps,
    split_to_multiple,
)
from hfaudio.data.mixture import Mixture
from hfaudio.data.stream import StreamCounts


class BucketSampler:
    """Iterator over the batches of one rank: lists of row numbers.

    Each `iter()` is one epoch, or what a loaded state leaves of it; the whole epoch is one window of
    `hfaudio.data.stream.AudioStream`. The steps do not depend on how many ranks share them: two ranks with batches of
    4 take together the rows that one takes with batches of 8.

    Args:
        seconds: length of each row.
        max_seconds, max_examples: of a batch, padding included; None: no limit.
        num_replicas, rank: how many processes train together, and which of them this is.
        seed: of the order; each epoch has another one.
        step_multiple: the number of steps of an epoch is a multiple of this, for gradient accumulation.
        mixture: which rows come in an epoch and how often; by default each of them once.
    """

    def __init__(
        self,
        seconds: Sequence[float],
        max_seconds: float | None,
        max_examples: int | None,
        num_replicas: int = 1,
        rank: int = 0,
        seed: int = 0,
        *,
        step_multiple: int = 1,
        mixture: Mixture | None = None,
    ) -> None:
        self.seconds = np.asarray(seconds, dtype=np.float64)
        self.mixture = mixture
        self.num_rows = len(self.seconds) if mixture is None else mixture.num_rows  # of an epoch
        self.limits = BatchLimits(max_seconds, max_examples)
        self.num_replicas = num_replicas
        self.rank = rank
        self.seed = seed
        self.step_multiple = step_multiple
        if max_seconds is not None and self.seconds.max(initial=0) > max_seconds:
            raise ValueError(
                f"a batch of {max_seconds:g} s cannot hold the longest row of {self.seconds.max():.2f} s; raise "
                "--batch_seconds or lower --max_seconds"
            )
        if self.num_rows < num_replicas:
            raise ValueError(f"{self.num_rows} rows do not divide over {num_replicas} processes; use fewer")
        self.edges = estimate_edges(self.seconds, self.limits, num_replicas)
        self.counts = StreamCounts()
        self.begin_epoch(0)

    def begin_epoch(self, epoch: int) -> None:
        """Go to the beginning of an epoch."""
        self.epoch = epoch
        self.step = 0
        self.epoch_rows = 0
        self.is_last_step = False

    def steps_an_epoch(self) -> int:
        """Steps of the epoch this one is in; another one may have a few more or fewer."""
        return len(self._plan()[0])

    def state_dict(self) -> dict[str, Any]:
        """The place behind the batch that came last, the same on every rank."""
        return {
            "settings": self._settings(),
            "epoch": self.epoch,
            "step": self.step,
            "epoch_rows": self.epoch_rows,
            "is_last_step": self.is_last_step,
            "counts": asdict(self.counts),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to a place that `state_dict` has told; ValueError if the state belongs to other settings or rows."""
        for name, value in self._settings().items():
            if state["settings"].get(name) != value:
                raise ValueError(
                    f"training cannot be resumed with another {name}: it was {state['settings'].get(name)}, now it "
                    f"is {value}; set it as it was, or start anew"
                )
        self.counts = StreamCounts(**state["counts"])
        if state["is_last_step"]:
            self.begin_epoch(state["epoch"] + 1)
        else:
            self.epoch, self.step, self.epoch_rows = state["epoch"], state["step"], state["epoch_rows"]
            self.is_last_step = False

    def _settings(self) -> dict[str, Any]:
        return {
            "rows": self.num_rows,
            "mixture": None if self.mixture is None else self.mixture.digest,
            "seconds": round(float(self.seconds.sum()), 3),
            "seed": self.seed,
            "num_replicas": self.num_replicas,
            "step_multiple": self.step_multiple,  # gradient_accumulation_steps
            "max_seconds": self.limits.max_seconds,
            "max_examples": self.limits.max_examples,
        }

    def _plan(self) -> tuple[list[Batches], int]:
        rng = np.random.default_rng([self.seed, self.epoch])
        rows = np.arange(len(self.seconds)) if self.mixture is None else self.mixture.rows(self.epoch)
        seconds = self.seconds[rows]
        steps, left = plan_steps(seconds, None, self.edges, self.limits, self.num_replicas, rng)
        more, dropped = plan_last_steps(left, seconds, self.limits, self.num_replicas)
        steps += more
        rng.shuffle(steps)  # type: ignore[arg-type]  # a list is shuffled in place
        steps = longest_first(split_to_multiple(steps, 0, self.step_multiple), seconds)
        return [[rows[batch] for batch in step] for step in steps], len(dropped)

    def __iter__(self) -> Iterator[list[int]]:
        steps, dropped = self._plan()
        for number in range(self.step, len(steps)):
            for batch in steps[number]:
                self.counts.add(self.seconds[batch])
            self.counts.steps += 1
            self.epoch_rows += sum(len(batch) for batch in steps[number])
            self.step = number + 1
            self.is_last_step = self.step == len(steps)
            if self.is_last_step:
                self.counts.dropped += dropped
            yield [int(row) for row in steps[number][self.rank]]
        self.begin_epoch(self.epoch + 1)
