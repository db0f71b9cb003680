"""recipes/musicgen.py run for real on a few bundled clips."""

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from transformers import pipeline

SMALL = """--hidden_size 32 --num_hidden_layers 1 --num_attention_heads 2 --ffn_dim 32 --text_hidden_size 16
--window_seconds 1 --max_train_examples 8 --max_eval_examples 4 --watch_examples 4 --dataloader_num_workers 0
--per_device_train_batch_size 4 --logging_steps 1 --use_cpu True --report_to none --disable_tqdm True""".split()
FACTS = "--fact_columns instrument tempo mood key metre form --caption_style prompts".split()


@pytest.fixture(scope="module")
def recipe(open_page: Callable[[str], ModuleType]) -> ModuleType:
    return open_page("recipes/musicgen.py")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("codes")


def run(recipe: ModuleType, folder: Path, cache: Path | str, *options: str) -> dict[str, Any]:
    AcceleratorState._reset_state(reset_partial_state=True)
    return recipe.main([*SMALL, "--output_dir", str(folder), "--code_cache", str(cache), *options])


@pytest.fixture(scope="module")
def trained(recipe: ModuleType, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("music")
    run(recipe, folder, cache, *FACTS, "--max_steps", "6", "--save_steps", "3", "--eval_steps", "3")
    return folder


def test_result_opens_in_a_stock_pipeline(trained: Path) -> None:
    made = pipeline("text-to-audio", model=str(trained))("slow flute tune in d minor")
    assert made["sampling_rate"] == 16_000
    assert made["audio"].shape[-1] == 16_000
    assert np.isfinite(made["audio"]).all()


def test_run_leaves_results_curves_and_samples(trained: Path) -> None:
    results = json.loads((trained / "metrics.json").read_text())
    names = {"nats", "codebook/1", "codebook/4", "null_gap", "wrong_gap"}
    assert {f"{split}/{name}" for split in ("validation", "test") for name in names} <= results["metrics"].keys()
    assert results["metrics"]["test/nats"]["n"] == 24  # windows of 1 s of four clips of 5.12 s
    assert results["skipped"] == {"train": {}, "validation": {}, "test": {}}
    assert (trained / "curves.png").stat().st_size > 10_000
    assert len(list((trained / "samples").glob("step-6-*.wav"))) == 4


def test_resumed_run_ends_with_the_same_weights(
    recipe: ModuleType, trained: Path, cache: Path, tmp_path: Path
) -> None:
    (tmp_path / "checkpoint-3").symlink_to(trained / "checkpoint-3")
    options = ["--max_steps", "6", "--eval_steps", "3", "--save_steps", "3", "--resume_from_checkpoint", "last"]
    run(recipe, tmp_path, cache, *FACTS, *options)
    whole, resumed = (load_file(folder / "model.safetensors") for folder in (trained, tmp_path))
    assert all(weight.equal(resumed[name]) for name, weight in whole.items())


def test_adapter_of_the_trained_model(recipe: ModuleType, trained: Path, cache: Path, tmp_path: Path) -> None:
    options = ["--model", str(trained), "--adapter", "lora", "--adapter_rank", "2", "--adapter_heads", "True"]
    results = run(recipe, tmp_path, cache, *options, "--max_steps", "2")
    saved = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert any("lm_heads.3" in name for name in saved)
    assert any("embed_tokens.0" in name for name in saved)
    assert results["trained_weights"] < 0.1 * results["weights"]
    base, merged = (load_file(folder / "model.safetensors") for folder in (trained, tmp_path))
    assert not base["decoder.lm_heads.0.weight"].equal(merged["decoder.lm_heads.0.weight"])
    assert base["text_encoder.shared.weight"].equal(merged["text_encoder.shared.weight"])


@pytest.mark.parametrize("options", [["--melody", "True"], ["--streaming", "True"], ["--channels", "2"]])
def test_audio_is_encoded_on_the_fly(recipe: ModuleType, tmp_path: Path, options: list[str]) -> None:
    results = run(recipe, tmp_path, "none", *options, "--max_steps", "2", "--max_eval_examples", "2")
    assert results["metrics"]["test/nats"]["value"] == pytest.approx(np.log(512), abs=0.2)
    assert torch.isfinite(torch.tensor(results["metrics"]["validation/null_gap"]["value"]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--text_column", "lyrics"], "lyrics"),
        (["--caption_style", "prompts"], "needs some of the --fact_columns"),
        (["--num_codebooks", "9"], "the codec has 8"),
        (["--memory_gb", "0.001"], "--memory_gb 0.001 is too little"),
        (["--adapter_heads", "True"], "name an adapter"),
        (["--adapter", "lora", "--save_halves", "True"], "leave it out with --adapter"),
    ],
)
def test_mistakes_are_said_before_training(
    recipe: ModuleType, cache: Path, tmp_path: Path, options: list[str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        run(recipe, tmp_path, cache, *options, "--max_steps", "1")
