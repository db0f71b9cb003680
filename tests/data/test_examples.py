from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from transformers import Wav2Vec2FeatureExtractor, Wav2Vec2Processor

from hfaudio.audio.augment import Augment, AugmentArguments
from hfaudio.audio.features import LOG_MEL
from hfaudio.data.collate import CTCCollator
from hfaudio.data.datasets import DataArguments, RowCheck, SkipCounts, check_rows, load_splits
from hfaudio.data.examples import ExampleEncoder, LengthGroupedSampler, SpeechExamples, SpeechStream
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


def test_sampler_takes_every_example_once_groups_lengths_and_depends_on_seed_and_epoch(rows, processor) -> None:
    examples = SpeechExamples(rows, RowCheck(), ExampleEncoder(processor))
    sampler = LengthGroupedSampler(examples, 8, seed=0)
    order = list(sampler)
    assert sorted(order) == list(range(len(rows))) and order == list(sampler)
    seconds = np.array(examples.seconds)

    def padding(indices: list[int]) -> float:
        groups = seconds[indices].reshape(-1, 8)
        return 1 - groups.sum() / (8 * groups.max(1)).sum()

    assert padding(order) < 0.6 * padding(list(np.random.default_rng(0).permutation(len(rows))))
    assert seconds.max() in seconds[order[:8]]
    group_lengths = seconds[order].reshape(-1, 8).mean(1)
    assert (np.diff(group_lengths[1:]) > 0).any() and (np.diff(group_lengths[1:]) < 0).any()
    sampler.set_epoch(1)
    assert examples.epoch == 1 and list(sampler) != order
    examples.set_epoch(0)  # as accelerate does where it cannot reach the sampler
    assert list(sampler) == order
    assert list(LengthGroupedSampler(examples, 8, seed=1)) != order


def test_sampler_of_fewer_examples_than_a_group_and_of_a_rest(rows, processor) -> None:
    for count in (1, 5, 21):
        examples = SpeechExamples(rows.select(range(count)), RowCheck(), ExampleEncoder(processor))
        assert sorted(LengthGroupedSampler(examples, 8, seed=0)) == list(range(count))


@pytest.mark.parametrize("workers", [0, 2])
def test_stream_gives_every_usable_row_once_and_counts_the_others(songs: Path, processor, workers: int) -> None:
    stream = load_splits(DataArguments(dataset=str(songs), streaming=True))["train"]
    limit = 0.9
    usable = {row["id"] for row in stream if RowCheck(max_seconds=limit)(row).reason is None}
    assert 0 < len(usable) < 96
    skipped = SkipCounts()
    examples = SpeechStream(stream, RowCheck(max_seconds=limit), ExampleEncoder(processor), skipped, seed=0)
    texts = [
        label_text(e["labels"], ctc_labels(processor.tokenizer))
        for e in DataLoader(examples, None, num_workers=workers)
    ]
    assert len(texts) == len(usable)
    assert skipped.as_dict() == {"too long": 96 - len(usable)} and skipped.total == 96


def test_stream_order_changes_with_the_epoch(songs: Path, processor) -> None:
    stream = load_splits(DataArguments(dataset=str(songs), streaming=True, max_train_examples=40))["train"]
    examples = SpeechStream(stream, RowCheck(), ExampleEncoder(processor), SkipCounts(), seed=0)
    orders = []
    for epoch in (0, 1, 0):
        examples.set_epoch(epoch)
        orders.append([tuple(example["labels"]) for example in examples])
    assert orders[0] == orders[2] != orders[1] and sorted(orders[0]) == sorted(orders[1])


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
