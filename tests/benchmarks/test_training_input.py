"""The benchmark run for real on songs of tones: its figures are there, and both sides do equal work."""

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch

from hfaudio.data.collate import CTCCollator
from hfaudio.data.datasets import DataArguments, RowCheck, load_split
from hfaudio.models import LstmCTCConfig, LstmForCTC
from hfaudio.processing import SpectralFeatureExtractor, build_char_tokenizer


@pytest.fixture(scope="module")
def script(open_page: Callable[[str], ModuleType]) -> ModuleType:
    return open_page("benchmarks/training_input.py")


def test_figures_and_ratios_are_written(script: ModuleType, songs: Path, tmp_path: Path) -> None:
    output = tmp_path / "figures.json"
    size = ["--repetitions", "1", "--batch_size", "8", "--workers", "0", "--epochs", "3"]
    script.main(["--dataset", str(songs), *size, "-o", str(output)])
    results = json.loads(output.read_text())
    assert results["clips"] == 96
    [run] = results["runs"]
    for side in ("ours", "ours_kept"):
        assert run[side]["padding_share"] < run["peer"]["padding_share"]
        assert run[side]["bytes_written"] < run["peer"]["bytes_written"] / 10
        ratios = results["ratios"][side]
        assert set(ratios) == {
            "preparation_seconds",
            "input_seconds",
            "epoch_seconds",
            "preparation_and_1_epochs_seconds",
            "preparation_and_3_epochs_seconds",
        }
        for name, ratio in ratios.items():
            assert ratio["min"] == ratio["median"] == ratio["max"] == run["peer"][name] / run[side][name]
    peer = run["peer"]
    assert peer["preparation_and_3_epochs_seconds"] == peer["preparation_seconds"] + 3 * peer["epoch_seconds"]
    assert peer["epoch_audio_seconds_per_second"] == results["audio_seconds"] / peer["epoch_seconds"]


def test_both_sides_give_the_model_the_same_batch(script: ModuleType, songs: Path) -> None:
    rows = load_split(DataArguments(dataset=str(songs)), "train").select(range(8))
    tokenizer, extractor = build_char_tokenizer(rows["text"]), SpectralFeatureExtractor()
    model = LstmForCTC(LstmCTCConfig(vocab_size=len(tokenizer)))
    task = script.Task(script.Wav2Vec2Processor(extractor, tokenizer), model, RowCheck(), None)
    theirs, ours = script.peer_features(task, rows), script.our_examples(task, rows)
    their_batch = script.peer_batch(task.processor, [theirs[index] for index in range(8)])
    our_batch = CTCCollator(task.processor)([ours[index] for index in range(8)])
    assert set(their_batch) == set(our_batch) == {"input_features", "attention_mask", "labels"}
    for name, tensor in our_batch.items():
        torch.testing.assert_close(their_batch[name], tensor, rtol=0, atol=0, check_dtype=False)
    assert not torch.equal(our_batch["attention_mask"], torch.ones_like(our_batch["attention_mask"]))
