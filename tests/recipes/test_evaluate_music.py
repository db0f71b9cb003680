"""The evaluation run for real: an untrained small codec and Opus on clips of the bundled music and speech."""

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from hfaudio.training.codec_models import CodecArguments, build_codec

RECIPE = Path(__file__).parents[2] / "recipes" / "evaluate_music.py"


@pytest.fixture(scope="module")
def recipe() -> Callable[..., dict]:
    spec = importlib.util.spec_from_file_location("evaluate_music", RECIPE)
    module = importlib.util.module_from_spec(spec)
    sys.modules["evaluate_music"] = module
    spec.loader.exec_module(module)
    return lambda *argv: module.main([str(argument) for argument in argv])


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = build_codec(CodecArguments(num_filters=2, hidden_size=8, codebook_size=16, num_codebooks=3))
    model.train()
    model(0.1 * torch.randn(8, 1, 16000))
    folder = tmp_path_factory.mktemp("codec")
    model.codec.save_pretrained(folder)
    return folder


def test_music_is_judged_at_every_bit_rate(codec: Path, tmp_path: Path, recipe: Callable) -> None:
    results = recipe(
        *("codec", "--model", codec, "--output_dir", tmp_path, "--bandwidths", "0.1", "0.3"),
        *("--peers", "opus:24000", "--judge_clips", "60", "--test_clips", "30", "--max_eval_examples", "30"),
    )
    value = {name: entry["value"] for name, entry in results["metrics"].items()}
    assert results["bits_per_second"] == pytest.approx(
        {"original": 256_000, "codec 0.1 kbit/s": 100, "codec 0.3 kbit/s": 300, "opus 24 kbit/s": 24_000}, rel=0.03
    )
    for name in ("original", "opus 24 kbit/s"):
        assert value[f"test/instrument/{name}"] > 0.7 > 3 * results["chances"]["instrument"]
    assert value["test/si_sdr/opus 24 kbit/s"] > 5 > value["test/si_sdr/codec 0.3 kbit/s"]
    assert value["test/mel/opus 24 kbit/s"] < value["test/mel/codec 0.3 kbit/s"]
    assert results["judge_clips"] == 60
    assert json.loads((tmp_path / "metrics.json").read_text()) == results
    table = (tmp_path / "table.md").read_text().splitlines()
    assert len(table) == 2 + 4 + 1 and table[-1].startswith("| chance |")
    assert (tmp_path / "rate_distortion.png").stat().st_size > 20_000
    assert not results["frechet"]["opus 24 kbit/s"]  # 30 clips are refused, and the rest goes on


def test_an_unknown_subject_is_refused(recipe: Callable) -> None:
    with pytest.raises(SystemExit, match="the first word says what is evaluated: codec"):
        recipe("codecs")
