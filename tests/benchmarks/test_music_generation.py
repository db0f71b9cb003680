"""The benchmark of music generation run for real, with a model of one layer."""

import re
from collections.abc import Callable
from types import ModuleType

import pytest
import torch

from hfaudio.inference.generate import MusicGenerator
from hfaudio.training.music_models import MusicModelArguments, open_music_model


@pytest.fixture(scope="module")
def script(open_page: Callable[[str], ModuleType]) -> ModuleType:
    return open_page("benchmarks/music_generation.py")


@pytest.fixture
def small() -> MusicGenerator:
    sizes = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "ffn_dim": 16,
        "text_hidden_size": 16,
    }
    model, processor = open_music_model(MusicModelArguments(window_seconds=1.2, **sizes), ["a tune"])
    return MusicGenerator.of(model.eval(), processor)


def test_both_generate_the_same_length(script: ModuleType, small: MusicGenerator) -> None:
    assert script.stock(small, 2, 30).shape == (2, 1, 30 * 640)
    assert [clip.shape for clip in small(["a tune"] * 2, 1.2, seeds=[0, 1])] == [(1, 30 * 640)] * 2


def test_the_benchmark_prints_a_table(
    script: ModuleType, small: MusicGenerator, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(script, "untrained", lambda: small)
    before = torch.get_num_threads()
    script.main(["--batches", "1", "2", "--repeats", "1"])
    printed = capsys.readouterr().out
    assert re.findall(r"^\| (\d) \| [\d.]+ \| [\d.]+ \| [\d.]+ \|$", printed, re.MULTILINE) == ["1", "2"]
    assert re.search(r"first second of a stream is there after \d\.\d\d s", printed)
    assert torch.get_num_threads() == before
