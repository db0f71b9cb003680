"""Training examples of fixed length cut out of recordings of any length, with captions for music."""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
import torch
from torch import Tensor

from hfaudio.audio.augment import example_rng
from hfaudio.audio.io import AudioError, load_audio
from hfaudio.data.datasets import NO_AUDIO, RowCheck
from hfaudio.data.examples import BucketedExamples, Example, decode_all, refused_since

Caption = Callable[[Mapping[str, Any], random.Random], str]  # of a row


def draw_caption(caption: Caption, row: Mapping[str, Any], seed: int, epoch: int, window: str = "") -> str:
    """What is said about a window of a row in an epoch, whatever worker or rank asks."""
    rng = example_rng(seed, epoch, f"caption {window}", row["id"])
    return caption(row, random.Random(int(rng.integers(2**63))))


@dataclass(frozen=True)
class CropEncoder:
    """Samples as `input_values` (channels, N) of `seconds`: a random piece of them, or all with silence behind.

    `num_samples` of them are no such silence. With a `caption` the example has a `text`, drawn anew in each epoch.

    The piece depends on seed, epoch and the row's id, not on the number of workers or ranks nor on a resume. It is
    called as `hfaudio.data.examples.ExampleEncoder` is, so that streams take either.
    """

    seconds: float
    sample_rate: int
    seed: int = 0
    caption: Caption | None = None

    @property
    def num_samples(self) -> int:
        return round(self.seconds * self.sample_rate)

    def __call__(self, samples: np.ndarray, text: str, row: Mapping[str, Any], *, epoch: int) -> Example:
        samples = np.atleast_2d(samples)
        longest_start = max(0, samples.shape[1] - self.num_samples)
        start = int(example_rng(self.seed, epoch, "crop", row["id"]).integers(longest_start + 1))
        return self.example(samples[:, start : start + self.num_samples], row, epoch)

    def example(self, samples: np.ndarray, row: Mapping[str, Any], epoch: int) -> Example:
        """The example of a piece (channels, N) of a row, N at most a crop."""
        length = samples.shape[1]
        filled = np.pad(samples, ((0, 0), (0, self.num_samples - length)))
        example = {"input_values": filled, "num_samples": length}
        if self.caption is not None:
            example["text"] = draw_caption(self.caption, row, self.seed, epoch)
        return example


class CropExamples(BucketedExamples):
    """Crops of a map-style dataset whose rows `check_rows` let pass: an epoch covers every recording once.

    A recording of M seconds is divided into floor(M / crop) equal slots, at least one, and each epoch takes a crop
    from a random place in each. Only the crop is read, where the format can seek.

    Args:
        keep_seconds: recordings of at most so many seconds in all are decoded once and kept in memory.
    """

    def __init__(
        self, rows: datasets.Dataset, row_check: RowCheck, encoder: CropEncoder, *, keep_seconds: float = 0
    ) -> None:
        self.rows = rows
        self.row_check = row_check
        self.encoder = encoder
        lengths: list[float] = list(rows["seconds"])
        self.slots = [
            (row, slot, count)
            for row, length in enumerate(lengths)
            for count in [max(1, int(length / encoder.seconds))]
            for slot in range(count)
        ]
        self.lengths = lengths
        self.seconds = [encoder.seconds] * len(self.slots)
        self.kept: Tensor | None = None  # (all samples,), or with two channels (2, all samples)
        self.facts = rows.remove_columns("audio")
        if sum(lengths) <= keep_seconds:
            self.kept, self.bounds = decode_all(rows, row_check)

    def __getitem__(self, index: int) -> Example:
        row, slot, count = self.slots[index]
        rng = example_rng(self.encoder.seed, self.epoch, f"crop {slot}", self.facts[row]["id"])
        room = max(0.0, self.lengths[row] - self.encoder.seconds)
        start = (slot + rng.random()) * room / count
        return self.encoder.example(self._read(row, start), self.facts[row], self.epoch)

    def _read(self, row: int, start: float) -> np.ndarray:
        """(channels, N) from `start` seconds on, at most a crop."""
        if self.kept is not None:
            first = self.bounds[row] + round(start * self.encoder.sample_rate)
            end = min(first + self.encoder.num_samples, self.bounds[row + 1])
            return np.atleast_2d(self.kept[..., first:end].numpy())
        audio = self.rows[row]["audio"] or NO_AUDIO
        try:
            samples = load_audio(
                audio,
                self.encoder.sample_rate,
                start=start,
                seconds=self.encoder.seconds,
                channels=self.row_check.channels,
            )
        except AudioError as error:
            raise refused_since(self.facts[row]["id"], str(error)) from error
        return np.atleast_2d(samples)[:, : self.encoder.num_samples]


def stack_crops(examples: list[Example]) -> dict[str, Tensor]:
    """A batch `input_values` (B, channels, N) of crops."""
    return {"input_values": torch.from_numpy(np.stack([example["input_values"] for example in examples]))}
