from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from transformers import Wav2Vec2FeatureExtractor, Wav2Vec2Processor

from hfaudio.audio.augment import Augment, AugmentArguments
from hfaudio.audio.features import LOG_MEL
from hfaudio.data.collate import CTCCollator
from hfaudio.data.datasets import DataArguments, RowCheck, check_rows, load_splits
from hfaudio.data.examples import ExampleEncoder, SpeechExamples, SpeechStream
from hfaudio.data.loader import BatchLoader
from hfaudio.processing import SpectralFeatureExtractor, build_char_tokenizer, ctc_labels, label_text


@pytest.fixture(scope="module")
def processor() -> Wav2Vec2Processor:
    return Wav2Vec2Processor(SpectralFeatureExtractor(LOG_MEL), build_char_tokenizer(["a b c d e"]))


@pytest.fixture(scope="module")
def rows(songs: Path):
    return check_rows(load_splits(DataArguments(dataset=str(songs)))["train"], RowCheck())[0]


def augmented(processor: Wav2Vec2Processor) -> ExampleEncoder:
    return ExampleEncoder(processor, Augment(AugmentArguments(), 16_000, seed=7))


def test_an_example_holds_features_and_labels_of_its_row(rows, processor) -> None:
    example = SpeechExamples(rows, RowCheck(), ExampleEncoder(processor))[5]
    assert example["input_features"].shape == (LOG_MEL.num_frames(round(rows[5]["seconds"] * 16_000)), 80)
    assert label_text(example["labels"], ctc_labels(processor.tokenizer)) == rows[5]["text"]


def test_waveform_models_get_samples(rows, processor) -> None:
    waves = Wav2Vec2Processor(Wav2Vec2FeatureExtractor(), processor.tokenizer)
    example = SpeechExamples(rows, RowCheck(), ExampleEncoder(waves))[0]
    assert example["input_values"].shape == (round(rows[0]["seconds"] * 16_000),)


@pytest.mark.parametrize("workers", [1, 2])
def test_augmentation_depends_on_epoch_and_row_not_on_workers(rows, processor, workers: int) -> None:
    examples = SpeechExamples(rows.select(range(8)), RowCheck(), augmented(processor))
    loader = DataLoader(examples, batch_size=None, num_workers=workers)
    here = [examples[i]["input_features"] for i in range(8)]
    there = [example["input_features"] for example in loader]
    assert all(np.array_equal(a, b) for a, b in zip(here, there, strict=True))
    examples.set_epoch(1)
    next_epoch = [example["input_features"] for example in loader]
    assert not any(a.shape == b.shape and np.array_equal(a, b) for a, b in zip(here, next_epoch, strict=True))


def test_examples_kept_in_memory_are_the_same(rows, processor) -> None:
    read = SpeechExamples(rows.select(range(4)), RowCheck(), augmented(processor))
    kept = SpeechExamples(rows.select(range(4)), RowCheck(), augmented(processor), keep_seconds=60)
    assert read.kept is None and kept.kept.is_shared()
    for a, b in zip(read, kept, strict=True):
        assert np.array_equal(a["input_features"], b["input_features"]) and a["labels"] == b["labels"]
    total = sum(rows["seconds"])
    assert SpeechExamples(rows, RowCheck(), augmented(processor), keep_seconds=total - 1).kept is None


@pytest.mark.parametrize("workers", [0, 2])
def test_stream_gives_every_usable_row_once_and_counts_the_others(songs: Path, processor, workers: int) -> None:
    stream = load_splits(DataArguments(dataset=str(songs), streaming=True))["train"]
    limit = 0.9
    usable = sorted(row["text"] for row in stream if RowCheck(max_seconds=limit)(row).reason is None)
    assert 0 < len(usable) < 96
    examples = SpeechStream(stream, RowCheck(max_seconds=limit), ExampleEncoder(processor), num_rows=96)
    batches = examples.batches(None, 4, num_replicas=1, rank=0, seed=0, step_multiple=1)
    loader = BatchLoader(batches, examples, CTCCollator(processor), num_workers=workers)
    labels = ctc_labels(processor.tokenizer)
    texts = [label_text([i for i in row if i >= 0], labels) for batch in loader for row in batch["labels"].tolist()]
    assert sorted(texts) == usable
    assert loader.skipped == {"too long": 96 - len(usable)} and len(examples) == 96


def test_stream_refuses_a_row_by_its_samples_too(songs: Path, processor) -> None:
    """A header can promise what the decoder does not find."""
    stream = load_splits(DataArguments(dataset=str(songs), streaming=True))["train"]
    row = next(iter(stream))
    examples = SpeechStream(stream, RowCheck(max_seconds=0.01), ExampleEncoder(processor))
    assert examples[row].reason == "too long"
    with pytest.raises(TypeError, match="how many rows"):
        len(examples)


def test_collator_pads_inputs_with_a_mask_and_labels_with_minus_100(processor) -> None:
    examples = [
        {"input_features": np.ones((3, 80), np.float32), "labels": [3, 4]},
        {"input_features": np.ones((5, 80), np.float32), "labels": [5]},
    ]
    batch = CTCCollator(processor)(examples)
    assert batch["input_features"].shape == (2, 5, 80) and not batch["input_features"][0, 3:].any()
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0, 0], [1] * 5]
    assert batch["labels"].tolist() == [[3, 4], [5, -100]] and batch["labels"].dtype == torch.long


def test_collator_gives_a_mask_to_models_that_were_trained_without(processor) -> None:
    waves = Wav2Vec2Processor(Wav2Vec2FeatureExtractor(return_attention_mask=False), processor.tokenizer)
    batch = CTCCollator(waves)([{"input_values": np.ones(n, np.float32), "labels": [3]} for n in (400, 900)])
    assert batch["attention_mask"].sum(1).tolist() == [400, 900]
