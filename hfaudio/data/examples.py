"""Rows become examples in the data loader's workers: decode, augment, extract features; nothing is written to disk."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
import torch
from tqdm import tqdm
from transformers import ProcessorMixin

from hfaudio.audio.augment import Augment
from hfaudio.data.datasets import RowCheck, SkipCounts, SkipRow

Example = dict[str, Any]


@dataclass(frozen=True)
class ExampleEncoder:
    """A row's samples and text as the model's input (`input_features` or `input_values`) and `labels`.

    The random numbers of an augmentation come from (seed, epoch, id of the row), so that an example does not depend
    on the number of workers or ranks, nor on where a run was resumed.
    """

    processor: ProcessorMixin
    augment: Augment | None = None

    def __call__(self, samples: np.ndarray, text: str, *, epoch: int, example_id: str) -> Example:
        extractor = self.processor.feature_extractor
        if self.augment:
            samples = self.augment.waveform(samples, epoch, example_id)
        inputs = extractor(samples, sampling_rate=extractor.sampling_rate, return_tensors="np")
        example = {name: inputs[name][0] for name in extractor.model_input_names if name in inputs}
        name = extractor.model_input_names[0]
        # Features (T, D) are masked here; models on waveforms mask their hidden states themselves (mask_time_prob).
        if self.augment and example[name].ndim == 2:
            example[name] = self.augment.features(example[name], epoch, example_id)
        return example | {"labels": self.processor.tokenizer(text).input_ids}


class SpeechExamples(torch.utils.data.Dataset):
    """Examples of a map-style dataset whose rows `check_rows` let pass.

    Args:
        keep_seconds: a dataset of at most so much audio is decoded once and kept in memory (64 kB a second), which
            workers share. Decoding Opus takes twice the time of augmenting it.
    """

    def __init__(
        self, rows: datasets.Dataset, row_check: RowCheck, encoder: ExampleEncoder, *, keep_seconds: float = 0
    ) -> None:
        self.rows = rows
        self.row_check = row_check
        self.encoder = encoder
        self.epoch = 0
        self.seconds: list[float] = list(rows["seconds"])
        self.kept: torch.Tensor | None = None  # all samples in a row; a tensor, as workers get it without a copy
        if sum(self.seconds) <= keep_seconds:
            with ThreadPoolExecutor() as pool:  # libsndfile decodes outside Python's lock
                decoded = pool.map(lambda row: self._decode(row)[0], rows)
                clips = list(tqdm(decoded, total=len(rows), desc="decoding audio"))
            self.ends = np.cumsum([len(clip) for clip in clips])
            self.kept = torch.from_numpy(np.concatenate(clips)).share_memory_()
            self.texts: list[str] = list(rows["text"])
            self.ids: list[str] = list(rows["id"])

    def set_epoch(self, epoch: int) -> None:
        """Other random augmentations in another epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Example:
        if self.kept is None:
            row = self.rows[index]
            samples, text = self._decode(row)
            return self.encoder(samples, text, epoch=self.epoch, example_id=row["id"])
        start = self.ends[index - 1] if index else 0
        samples = self.kept[start : self.ends[index]].numpy()
        return self.encoder(samples, self.texts[index], epoch=self.epoch, example_id=self.ids[index])

    def _decode(self, row: dict[str, Any]) -> tuple[np.ndarray, str]:
        try:
            return self.row_check.decode(row)
        except SkipRow as skip:
            raise RuntimeError(
                f"row {row['id']} was fine when it was checked and is now refused ({skip.reason}); has its file been "
                "replaced? Start again with the environment variable HF_DATASETS_CACHE at an empty folder"
            ) from skip


class SpeechStream(torch.utils.data.IterableDataset):
    """Examples of a streamed dataset, shuffled while encoded; rows that cannot be used are skipped and counted.

    On several ranks accelerate lets every rank read the whole stream and keep its batches.
    """

    def __init__(
        self,
        rows: datasets.IterableDataset,
        row_check: RowCheck,
        encoder: ExampleEncoder,
        skipped: SkipCounts,
        *,
        seed: int,
        shuffle_buffer: int = 1000,
    ) -> None:
        self.rows = rows.shuffle(seed=seed, buffer_size=shuffle_buffer)
        self.row_check = row_check
        self.encoder = encoder
        self.skipped = skipped
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Another order and other augmentations in another epoch."""
        self.epoch = epoch
        self.rows.set_epoch(epoch)

    def __iter__(self) -> Iterator[Example]:
        for row in self.rows:
            try:
                samples, text = self.row_check.decode(row)
            except SkipRow as skip:
                self.skipped.add(skip.reason)
                continue
            self.skipped.add(None)
            yield self.encoder(samples, text, epoch=self.epoch, example_id=row["id"])


class LengthGroupedSampler(torch.utils.data.Sampler[int]):
    """Random order in which `group_size` neighbours have similar lengths, the same on every rank and after a resume.

    transformers' sampler of this name draws from the global generator and serves each mega-batch from long to short;
    here the order depends on (seed, epoch) alone, and the groups are shuffled once more. The first group holds the
    longest example, so that memory runs out at the start or never.

    Args:
        dataset: has `seconds`, one float an example, and is told the epoch.
        group_size: examples that one optimiser step takes on all ranks together.
        groups_sorted_together: more of them pad less, fewer mix better; 50 as in transformers.
    """

    def __init__(
        self, dataset: SpeechExamples, group_size: int, *, seed: int, groups_sorted_together: int = 50
    ) -> None:
        self.dataset = dataset
        self.group_size = group_size
        self.seed = seed
        self.groups_sorted_together = groups_sorted_together

    def set_epoch(self, epoch: int) -> None:
        """Another order in another epoch.

        The dataset holds the epoch: accelerate tells the sampler where it can reach it and else the dataset, such as
        in a resumed epoch on several ranks.
        """
        self.dataset.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.dataset)

    def __iter__(self) -> Iterator[int]:
        seconds = np.asarray(self.dataset.seconds)
        rng = np.random.default_rng([self.seed, self.dataset.epoch])
        order = rng.permutation(len(seconds))
        # At least four mega-batches, so that a small dataset is not simply sorted.
        span = self.group_size * max(1, min(self.groups_sorted_together, len(order) // (4 * self.group_size)))
        groups: list[np.ndarray] = []
        for start in range(0, len(order), span):
            mega_batch = order[start : start + span]
            mega_batch = mega_batch[np.argsort(-seconds[mega_batch], kind="stable")]
            groups += [mega_batch[i : i + self.group_size] for i in range(0, len(mega_batch), self.group_size)]
        whole = [group for group in groups if len(group) == self.group_size]
        rng.shuffle(whole)
        longest = max(range(len(whole)), key=lambda i: seconds[whole[i]].max(), default=0)
        whole[:1], whole[longest : longest + 1] = whole[longest : longest + 1], whole[:1]
        # The one short group comes last, where a batch sampler expects it.
        yield from (int(i) for group in [*whole, *(g for g in groups if len(g) < self.group_size)] for i in group)
