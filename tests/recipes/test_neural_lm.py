"""The recipe run for real on sentences of a toy language: here, resumed, and under two processes."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from hfaudio.decoding.rescore import NeuralRescorer
from hfaudio.training.neural_lm import build_text_tokenizer, collate_texts, perplexity

RECIPE = Path(__file__).parents[2] / "recipes" / "neural_lm.py"
SMALL = ["--hidden_size", "64", "--use_cpu", "--disable_tqdm", "True", "--save_steps", "20", "--eval_steps", "20"]


@pytest.fixture(scope="module")
def recipe(open_page: Callable[[str], ModuleType]) -> Callable[..., dict]:
    module = open_page("recipes/neural_lm.py")
    return lambda *argv: module.main([str(argument) for argument in argv])


@pytest.fixture(scope="module")
def text_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ "The" is followed by an animal, an animal by a verb: a perplexity of about 2 per word can be learned."""
    rng = np.random.default_rng(0)
    lines = [f"The {rng.choice(['dog', 'cat', 'cow'])} {rng.choice(['sang', 'ran', 'slept'])}." for _ in range(400)]
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.mark.parametrize(("model", "unit"), [("lstm", "char"), ("gpt2", "bpe"), ("lstm", "word")])
def test_it_learns_and_the_folder_opens(
    model: str, unit: str, text_file: Path, tmp_path: Path, recipe: Callable
) -> None:
    results = recipe(
        *("--text_files", text_file, "--output_dir", tmp_path, *SMALL, "--model", model, "--unit", unit),
        *("--max_steps", "200", "--vocab_size", "60"),
    )
    found = results["metrics"]["validation/perplexity"]
    # two choices of three in four predictions (the, animal, verb, end): 9 ** (1 / 4) is the best there is
    assert 1.6 < found["value"] < 2.3 and found["n"] == 20 and found["words"] == 80
    assert json.loads((tmp_path / "metrics.json").read_text()) == results
    assert isinstance(AutoTokenizer.from_pretrained(tmp_path), PreTrainedTokenizerFast)
    assert AutoModelForCausalLM.from_pretrained(tmp_path).num_parameters() > 0
    likely, unlikely = NeuralRescorer(tmp_path)(["the dog sang", "dog the sang"])
    assert likely > unlikely + 2


def test_a_resumed_run_ends_as_one_that_was_not_stopped(text_file: Path, tmp_path: Path, recipe: Callable) -> None:
    common = ["--text_files", text_file, *SMALL, "--max_steps", "40", "--output_dir", tmp_path]
    recipe(*common)
    whole = load_file(tmp_path / "model.safetensors")
    checkpoint = tmp_path / "checkpoint-20"
    assert checkpoint.is_dir()
    recipe(*common, "--resume_from_checkpoint", checkpoint)
    for name, expected in load_file(tmp_path / "model.safetensors").items():
        torch.testing.assert_close(whole[name], expected)


def test_two_real_processes(text_file: Path, tmp_path: Path) -> None:
    launch = ["--multi_gpu", "--num_processes", "2", "--num_machines", "1", "--main_process_port", "29518"]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no"]
    arguments = ["--text_files", text_file, *SMALL, "--max_steps", "10", "--output_dir", tmp_path]
    launched = subprocess.run(
        [sys.executable, "-m", "accelerate.commands.launch", *launch, RECIPE, *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "ACCELERATE_USE_CPU": "true"},
        capture_output=True,
        text=True,
    )
    assert launched.returncode == 0, launched.stderr[-3000:]
    assert json.loads((tmp_path / "metrics.json").read_text())["processes"] == 2


@pytest.mark.parametrize("unit", ["char", "word", "bpe"])
def test_tokenizers_give_the_text_back(unit: str, tmp_path: Path) -> None:
    texts = ["don't stop", "stop it", "हिन्दी text"]
    build_text_tokenizer(texts, unit, 60).save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False).input_ids
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids) == text
    assert tokenizer.unk_token_id in tokenizer("Ω", add_special_tokens=False).input_ids


def test_padding_is_not_predicted() -> None:
    batch = collate_texts([{"input_ids": [1, 4, 2]}, {"input_ids": [1, 2]}])
    assert batch["labels"].tolist() == [[1, 4, 2], [1, 2, -100]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]


def test_perplexity_counts_the_end_of_each_sentence() -> None:
    found = perplexity(np.log([1 / 8, 1 / 4]), ["a b", "a"], seed=0)
    assert found["value"] == pytest.approx(2) and found["words"] == 5


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--text_files", "none.txt"], "there is no file none.txt"),
        (["--unit", "phone"], "--unit must be one of"),
        (["--held_out", "0"], "--held_out must be between"),
    ],
)
def test_wrong_options_say_why(flags: list[str], message: str, tmp_path: Path, recipe: Callable) -> None:
    with pytest.raises(ValueError, match=message):
        recipe("--output_dir", tmp_path, *SMALL, *flags)


def test_an_empty_text_is_refused(tmp_path: Path, recipe: Callable) -> None:
    (tmp_path / "empty.txt").write_text("\n\n --\n", encoding="utf-8")
    with pytest.raises(ValueError, match="no sentence with a word"):
        recipe("--output_dir", tmp_path, *SMALL, "--text_files", tmp_path / "empty.txt")
