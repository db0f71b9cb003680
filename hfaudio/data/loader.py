"""Batches decoded, augmented and padded in worker processes, and the place behind the batch that came last."""

from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from hfaudio.data.datasets import SkipRow
from hfaudio.data.sampler import BucketSampler
from hfaudio.data.stream import AudioStream, stop_if_broken

Inputs = dict[str, Tensor]


class BatchLoader:
    """Iterator over the padded batches of one rank; each `iter()` is one epoch, or what is left of it.

    Which rows come when is decided in the main process (`batches`), workers only turn them into examples. So the
    number of workers changes neither the batches nor the state, and batches that are prepared but not yet delivered
    are prepared again after a resume.

    A row that its header promised and its decoder refuses is left out and counted. If a whole batch is lost that way,
    one process goes on with the next one; several processes, which must stay in step, train once more on the batch
    before (`repeated`). A stream of which too large a share is lost stops with StreamError.

    Args:
        batches: what goes into each batch: rows of a stream or row numbers.
        examples: `examples[item]` is an example, or SkipRow for a row that cannot be used; is told the epoch.
        collate: examples to padded tensors.
        num_workers: processes that decode; 0 decodes in the main process.
        prefetch_factor: batches that each worker prepares ahead. None: as torch, 2.
        pin_memory: for faster copies to a GPU.
    """

    def __init__(
        self,
        batches: AudioStream | BucketSampler,
        examples: Dataset,
        collate: Callable[[list[dict[str, Any]]], Inputs],
        *,
        num_workers: int = 0,
        prefetch_factor: int | None = None,
        pin_memory: bool = False,
    ) -> None:
        self.batches = batches
        self.examples = examples
        self.collate = collate
        self.num_workers = num_workers
        self.prefetch_factor = prefetch_factor
        self.pin_memory = pin_memory
        self.num_epochs: float | None = None  # there are no batches behind so many epochs; None: no end
        self.repeated = 0
        self._skipped: Counter[str] = Counter()  # by the workers, in batches that were delivered
        self._seen = 0  # rows in these batches
        self._place = batches.state_dict()
        self._previous: Inputs | None = None

    @property
    def dataset(self) -> Dataset:
        """The examples, by the name torch's DataLoader has for them."""
        return self.examples

    @property
    def epoch(self) -> int:
        """The epoch of the batch that came last."""
        return self._place["epoch"]

    @property
    def is_last_step(self) -> bool:
        """Whether the batch that came last ends its epoch."""
        return self._place["is_last_step"]

    @property
    def epochs(self) -> float:
        """Epochs that have been delivered, as far as the number of rows is known."""
        if self.is_last_step:
            return self.epoch + 1.0
        rows = self.batches.num_rows
        return self.epoch + (min(self._place["epoch_rows"] / rows, 0.999) if rows else 0.0)

    @property
    def skipped(self) -> dict[str, int]:
        """Rows that could not be used, by reason: by their header or text, on all ranks, and by decoding, on this."""
        return dict(Counter(self._place["counts"]["skipped"]) + self._skipped)

    def progress(self) -> dict[str, float]:
        """Figures for the log, on all ranks together and over all epochs."""
        counts = self._place["counts"]
        padded = counts["padded_seconds"]
        return {
            "audio_hours": round(counts["seconds"] / 3600, 4),
            "padding_share": round(1 - counts["seconds"] / padded, 4) if padded else 0.0,
            "skipped_rows": sum(self.skipped.values()),
        }

    def state_dict(self) -> dict[str, Any]:
        """The place behind the batch that came last."""
        return {
            "batches": self._place,
            "seen": self._seen,
            "skipped": dict(self._skipped),
            "repeated": self.repeated,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to a place that `state_dict` has told."""
        self.batches.load_state_dict(state["batches"])
        self._place = state["batches"]
        self._seen = state["seen"]
        self._skipped = Counter(state["skipped"])
        self.repeated = state["repeated"]

    def __iter__(self) -> Iterator[Inputs]:
        self.batches.load_state_dict(self._place)  # a loop that was left early is taken up behind its last batch
        if self.num_epochs is not None and self.batches.epoch >= self.num_epochs:
            return
        self.examples.set_epoch(self.batches.epoch)  # type: ignore[attr-defined]
        places: deque[tuple[dict[str, Any], int]] = deque()

        def draw() -> Iterator[list[Any]]:
            for batch in self.batches:
                places.append((self.batches.state_dict(), len(batch)))
                yield batch

        loader = DataLoader(
            self.examples,
            batch_sampler=draw(),  # type: ignore[arg-type]  # items need not be numbers
            num_workers=self.num_workers,
            collate_fn=_Collate(self.collate),
            prefetch_factor=self.prefetch_factor if self.num_workers else None,
            pin_memory=self.pin_memory,
            # An iterator of torch draws a number from its generator: not from the one that dropout uses.
            generator=torch.Generator(),
        )
        for inputs, skipped in loader:
            self._place, rows = places.popleft()
            self._seen += rows
            self._skipped.update(skipped)
            if isinstance(self.batches, AudioStream):
                stop_if_broken(self._skipped, self._seen, self.batches.max_broken_share)
            if inputs is None and self.batches.num_replicas == 1:
                continue
            if inputs is None:
                if self._previous is None:
                    raise RuntimeError(f"no row of the first batch could be decoded: {dict(self._skipped)}")
                inputs = self._previous
                self.repeated += 1
            self._previous = inputs
            yield inputs
        self._place = self.batches.state_dict()


class _Collate:
    """The padded examples of a batch (None if there are none) and why its other rows were left out."""

    def __init__(self, collate: Callable[[list[dict[str, Any]]], Inputs]) -> None:
        self.collate = collate

    def __call__(self, items: list[dict[str, Any] | SkipRow]) -> tuple[Inputs | None, list[str]]:
        examples = [item for item in items if not isinstance(item, SkipRow)]
        skipped = [item.reason for item in items if isinstance(item, SkipRow)]
        return self.collate(examples) if examples else None, skipped
