"""Rows become examples in the data loader's workers: decode, augment, extract features; nothing is written to disk."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import datasets
import numpy as np
import torch
import torch.distributed as dist
from tqdm import tqdm
from transformers import ProcessorMixin, WhisperFeatureExtractor

from hfaudio.audio.augment import UNCHANGED, Augment
from hfaudio.data.datasets import RowCheck, SkipRow
from hfaudio.data.mixture import Mixture
from hfaudio.data.sampler import BucketSampler
from hfaudio.data.stream import AudioStream

Example = dict[str, Any]


Targets = Callable[..., Any]  # (row, text, *, epoch, timing) -> an object with `decoder_input_ids` and `labels`


@dataclass(frozen=True)
class ExampleEncoder:
    """A row's samples and text as the model's input (`input_features` or `input_values`) and `labels`.

    The random numbers of an augmentation come from (seed, epoch, id of the row), so that an example does not depend
    on the number of workers or ranks, nor on where a run was resumed.

    Args:
        targets: `hfaudio.processing.targets` for a decoder, which makes `decoder_input_ids` beside the labels;
            without it labels are the tokens of the text, for CTC.
        min_seconds: silence is appended to shorter clips. A Whisper that was never trained on short windows repeats
            itself in them: on clips of 1 to 8 s whisper-tiny.en looped in a quarter of them without silence behind,
            in none with a window of 8 s or more.
    """

    processor: ProcessorMixin
    augment: Augment | None = None
    targets: Targets | None = None
    min_seconds: float = 0.0

    def __call__(self, samples: np.ndarray, text: str, row: Mapping[str, Any], *, epoch: int) -> Example:
        extractor, timing = self.processor.feature_extractor, UNCHANGED
        if self.augment:
            samples = self.augment.waveform(samples, epoch, row["id"])
            timing = self.augment.timing(epoch, row["id"])
        samples = np.pad(samples, (0, max(0, round(self.min_seconds * extractor.sampling_rate) - len(samples))))
        # Whisper's extractor alone fills up to 30 s where it is not told otherwise.
        options = {"padding": False} if isinstance(extractor, WhisperFeatureExtractor) else {}
        inputs = extractor(samples, sampling_rate=extractor.sampling_rate, return_tensors="np", **options)
        example = {name: inputs[name][0] for name in extractor.model_input_names if name in inputs}
        name = extractor.model_input_names[0]
        # Features are masked here; models on waveforms mask their hidden states themselves (mask_time_prob).
        if self.augment and example[name].ndim == 2:
            masked = self.augment.features(time_first(example[name], extractor), epoch, row["id"])
            example[name] = time_first(masked, extractor)
        if self.targets is None:
            return example | {"labels": self.processor.tokenizer(text).input_ids}
        target = self.targets(row, text, epoch=epoch, timing=timing)
        return example | {"decoder_input_ids": target.decoder_input_ids, "labels": target.labels}


def time_first(features: np.ndarray, extractor: Any) -> np.ndarray:
    """Features (T, D) of an example, or those back again: Whisper's extractor gives (n_mels, T), all others (T, D)."""
    return features.T if isinstance(extractor, WhisperFeatureExtractor) else features


class BucketedExamples(torch.utils.data.Dataset):
    """Examples whose lengths are known, so that batches can be planned.

    Subclasses set `seconds`, the length of each example, and where an epoch is not all of them a `mixture`.
    """

    seconds: Sequence[float]
    mixture: Mixture | None = None
    epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Other random numbers in another epoch: augmentations, crops, captions."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.seconds)

    def batches(
        self,
        max_seconds: float | None,
        max_examples: int | None,
        num_replicas: int,
        rank: int,
        seed: int,
        step_multiple: int,
    ) -> BucketSampler:
        """What one rank trains on."""
        return BucketSampler(
            self.seconds,
            max_seconds,
            max_examples,
            num_replicas,
            rank,
            seed,
            step_multiple=step_multiple,
            mixture=self.mixture,
        )


class SpeechExamples(BucketedExamples):
    """Examples of a map-style dataset whose rows `check_rows` let pass.

    Args:
        keep_seconds: a dataset of at most so much audio is decoded once and kept in memory (64 kB a second), which
            workers share. Decoding Opus takes twice the time of augmenting it.
        mixture: which rows an epoch of training has, and how often.
    """

    def __init__(
        self,
        rows: datasets.Dataset,
        row_check: RowCheck,
        encoder: ExampleEncoder,
        *,
        keep_seconds: float = 0,
        mixture: Mixture | None = None,
    ) -> None:
        self.rows = rows
        self.row_check = row_check
        self.encoder = encoder
        self.mixture = mixture
        self.seconds = list(rows["seconds"])
        self.kept: torch.Tensor | None = None  # all samples in a row; a tensor, as workers get it without a copy
        if sum(self.seconds) <= keep_seconds:
            self.kept, self.bounds = decode_all(rows, row_check)
            self.facts = rows.remove_columns("audio")

    def __getitem__(self, index: int) -> Example:
        if self.kept is None:
            row = self.rows[index]
            samples, text = decode_checked(row, self.row_check)
            return self.encoder(samples, text, row, epoch=self.epoch)
        samples, row = self.kept[self.bounds[index] : self.bounds[index + 1]].numpy(), self.facts[index]
        return self.encoder(samples, row["text"], row, epoch=self.epoch)


def decode_all(rows: datasets.Dataset, row_check: RowCheck) -> tuple[torch.Tensor, np.ndarray]:
    """Samples (..., N) of all rows behind each other, and where each of them begins and the last one ends.

    A tensor in shared memory, which workers get without a copy.
    """
    with ThreadPoolExecutor() as pool:  # libsndfile decodes outside Python's lock
        decoded = pool.map(lambda row: decode_checked(row, row_check)[0], rows)
        clips = list(tqdm(decoded, total=len(rows), desc="decoding audio"))
    bounds = np.cumsum([0, *(clip.shape[-1] for clip in clips)])
    return torch.from_numpy(np.concatenate(clips, axis=-1)).share_memory_(), bounds


def decode_checked(row: Mapping[str, Any], row_check: RowCheck) -> tuple[np.ndarray, str]:
    """Samples and text of a row that `check_rows` let pass."""
    try:
        return row_check.decode(row)
    except SkipRow as skip:
        raise refused_since(row["id"], skip.reason) from skip


def refused_since(row_id: str, reason: str) -> RuntimeError:
    """The error for a row that cannot be read any more."""
    return RuntimeError(
        f"row {row_id} was fine when it was checked and is now refused ({reason}); has its file been replaced? Start "
        "again with the environment variable HF_DATASETS_CACHE at an empty folder"
    )


class SpeechStream(torch.utils.data.Dataset):
    """Examples of a streamed dataset: `examples[row]` of a row with encoded audio, or SkipRow.

    Args:
        num_rows: of an epoch, if known: for a number of epochs instead of steps.
        shuffle_buffer: rows that are shuffled together.
        max_broken_share: more unreadable rows than this stop the training.
    """

    def __init__(
        self,
        rows: datasets.IterableDataset,
        row_check: RowCheck,
        encoder: ExampleEncoder,
        *,
        num_rows: int | None = None,
        shuffle_buffer: int = 1000,
        max_broken_share: float = 0.05,
    ) -> None:
        self.rows = rows
        self.row_check = row_check
        self.encoder = encoder
        self.num_rows = num_rows
        self.shuffle_buffer = shuffle_buffer
        self.max_broken_share = max_broken_share
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Other random augmentations in another epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        if self.num_rows is None:  # what `len` raises where there is no length, as transformers expects
            raise TypeError("nothing tells how many rows the stream has")
        return self.num_rows

    def __getitem__(self, row: dict[str, Any]) -> Example | SkipRow:
        try:
            samples, text = self.row_check.decode(row)
        except SkipRow as skip:
            return skip
        return self.encoder(samples, text, row, epoch=self.epoch)

    def batches(
        self,
        max_seconds: float | None,
        max_examples: int | None,
        num_replicas: int,
        rank: int,
        seed: int,
        step_multiple: int,
    ) -> AudioStream:
        """What one rank trains on; the ranks share the reading."""
        # Longer than the retries of a rank that reads from a bad network, so that its own error is the one seen.
        patience = timedelta(hours=3)
        group: Any = dist.new_group(backend="gloo", timeout=patience) if num_replicas > 1 else None
        return AudioStream(
            self.rows,
            max_seconds,
            num_replicas,
            rank,
            seed,
            self.shuffle_buffer,
            max_examples=max_examples,
            process_group=group,
            measure=self.row_check.measure,
            num_rows=self.num_rows,
            step_multiple=step_multiple,
            max_broken_share=self.max_broken_share,
        )


def by_length(rows: datasets.Dataset) -> datasets.Dataset:
    """Checked rows from the shortest to the longest: batches without padding, the longest at the end."""
    return rows.select(np.argsort(rows["seconds"], kind="stable"))


def random_rows(rows: datasets.Dataset, count: int, seed: int) -> datasets.Dataset:
    """At most so many rows, the same ones for a seed, in the order of the data."""
    if count >= len(rows):
        return rows
    return rows.select(np.sort(np.random.default_rng(seed).choice(len(rows), count, replace=False)))
