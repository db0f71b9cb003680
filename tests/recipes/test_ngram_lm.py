"""The recipe run for real: on the bundled transcripts, on files, on a dataset of text."""

import json
import math
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hfaudio.ngram.model import NGramLM

RECIPE = Path(__file__).parents[2] / "recipes" / "ngram_lm.py"


@pytest.fixture(scope="module")
def run() -> Callable[..., dict[str, Any]]:
    main = runpy.run_path(str(RECIPE))["main"]
    return lambda *arguments: main([str(argument) for argument in arguments])


def test_it_runs_with_no_argument(tmp_path: Path) -> None:
    subprocess.run([sys.executable, RECIPE], cwd=tmp_path, check=True, capture_output=True, timeout=120)
    folder = tmp_path / "output" / "ngram_lm"
    results = json.loads((folder / "metrics.json").read_text())
    lm = NGramLM.load(folder)
    assert list(lm.counts) == results["ngrams"] and lm.order == 3
    held_out, shuffled = (results["perplexity"][name] for name in ("held_out", "shuffled"))
    assert held_out["words"] == shuffled["words"] and held_out["oov"] == shuffled["oov"]
    assert 2 * held_out["perplexity"] < shuffled["perplexity"]  # the model knows which words follow each other


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """200 sentences that count, of one to nine words."""
    digits = "one two three four five six seven eight nine".split()
    file = tmp_path / "text.txt"
    file.write_text("".join(f"{' '.join(digits[: 1 + n % 9]).title()}!\n" for n in range(200)))
    return file


def test_one_line_in_so_many_is_held_out(text: Path, tmp_path: Path, run: Callable) -> None:
    results = run("--text", text, "--eval_every", "7", "--output_dir", tmp_path / "lm", "--order", "2")
    lines = text.read_text().lower().replace("!", "").splitlines()
    lm = NGramLM.load(tmp_path / "lm")
    expected = NGramLM.from_text([line for n, line in enumerate(lines, start=1) if n % 7], order=2)
    assert lm.words == expected.words and lm.score(lines[8]) == expected.score(lines[8])
    assert results["perplexity"]["held_out"]["perplexity"] == pytest.approx(lm.perplexity(lines[6::7]).perplexity)


def test_a_text_of_which_no_line_can_be_held_out(
    tmp_path: Path, run: Callable, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "text.txt").write_text("one two three\n")
    results = run("--text", tmp_path / "text.txt", "--output_dir", tmp_path / "lm")
    assert results["perplexity"] == {} and "fewer than 20 lines" in caplog.text
    assert NGramLM.load(tmp_path / "lm").words[3:] == ["one", "two", "three"]


def test_bounded_memory(text: Path, tmp_path: Path, run: Callable) -> None:
    (tmp_path / "files").mkdir()
    bounded = run("--text", text, "--output_dir", tmp_path / "a", "--memory", "2M", "--temp_dir", tmp_path / "files")
    assert bounded["ngrams"] == run("--text", text, "--output_dir", tmp_path / "b")["ngrams"]
    assert (tmp_path / "a" / "lm.ngram").read_bytes() == (tmp_path / "b" / "lm.ngram").read_bytes()
    with pytest.raises(ValueError, match="at least 1 MiB, got 1,024 bytes"):
        run("--text", text, "--output_dir", tmp_path / "c", "--memory", "1K")
    with pytest.raises(ValueError, match="--memory is a number of bytes with K, M or G"):
        run("--text", text, "--output_dir", tmp_path / "c", "--memory", "much")


def test_held_out_files_and_options(text: Path, tmp_path: Path, run: Callable) -> None:
    (tmp_path / "held_out.txt").write_text("one two three\nseven ten\n")
    options = ["--text", text, "--eval_text", tmp_path / "held_out.txt", "--output_dir", tmp_path / "lm"]
    results = run(*options, "--order", "4", "--prune", "0", "3", "--vocab_size", "8", "--entropy_prune", "1e-4")
    assert results["perplexity"]["held_out"]["words"] == 7 and results["perplexity"]["held_out"]["oov"] == 1
    small = run(*options, "--unit", "char", "--order", "6", "--quantize", "8")
    assert NGramLM.load(tmp_path / "lm").unit == "char" and math.isfinite(
        small["perplexity"]["held_out"]["perplexity"]
    )


def test_a_dataset_of_text(text: Path, tmp_path: Path, run: Callable) -> None:
    rows = [json.dumps({"sentence": line}) for line in text.read_text().splitlines()]
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.jsonl").write_text("\n".join(rows))
    options = ["--dataset", tmp_path / "data", "--text_column", "sentence", "--output_dir", tmp_path / "a"]
    from_dataset = run(*options)
    assert from_dataset["perplexity"] == run("--text", text, "--output_dir", tmp_path / "b")["perplexity"]
    assert (tmp_path / "a" / "lm.ngram").read_bytes() == (tmp_path / "b" / "lm.ngram").read_bytes()


def test_mistakes_are_refused(tmp_path: Path, run: Callable) -> None:
    with pytest.raises(ValueError, match="no text file"):
        run("--text", tmp_path / "nowhere.txt", "--output_dir", tmp_path)
    for every in ("0", "1", "-3"):
        with pytest.raises(ValueError, match=f"--eval_every is {every}; .* give at least 2"):
            run("--eval_every", every, "--output_dir", tmp_path)
    (tmp_path / "empty.txt").touch()
    with pytest.raises(ValueError, match=r"--eval_text .*empty\.txt holds no line"):
        run("--eval_text", tmp_path / "empty.txt", "--output_dir", tmp_path)
    assert not list(tmp_path.glob("*.ngram"))
    with pytest.raises(ValueError, match="hiden"):
        run("--hiden_size", "3")
