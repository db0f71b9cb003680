"""`hfaudio lm` from text to model and back, in this process."""

import gzip
import io
import json
import random
import sys
from pathlib import Path

import pytest

from hfaudio.cli import main
from hfaudio.ngram.model import NGramLM
from hfaudio.processing import build_char_tokenizer


def sentences(seed: int, count: int, words: range) -> str:
    rng = random.Random(seed)
    lines = []
    for _ in range(count):
        sentence = [rng.choice(words)]
        while rng.random() < 0.8:
            sentence.append(rng.choice([words[(2 * sentence[-1] + 1) % len(words)], rng.choice(words)]))
        lines.append(" ".join(chr(97 + word) for word in sentence) + ".\n")
    return "".join(lines)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """Text files by name: two to train on, with other words, and a mixture."""
    texts = {"one": sentences(1, 200, range(8)), "two": sentences(2, 200, range(5, 14))}
    texts["dev"] = sentences(3, 60, range(8)) + sentences(4, 20, range(5, 14))
    for name, text in texts.items():
        (tmp_path / f"{name}.txt").write_text(text)
    return {name: str(tmp_path / f"{name}.txt") for name in texts} | {"folder": str(tmp_path)}


def run(*arguments: str, code: int = 0) -> None:
    assert main(["lm", *arguments]) == code


def test_train_and_eval(files: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    out = f"{files['folder']}/lm"
    run("train", files["one"], files["two"], "-o", out, "--order", "2")
    lm = NGramLM.load(out)
    trained = (Path(files["one"]).read_text() + Path(files["two"]).read_text()).replace(".", "")
    assert lm.order == 2 and lm.words[3:] == list(dict.fromkeys(trained.split()))
    assert f"{out}/lm.ngram: 17 1-grams" in capsys.readouterr().out
    run("eval", out, files["dev"])
    expected = lm.perplexity(line.replace(".", "") for line in open(files["dev"]))
    line = capsys.readouterr().out
    assert line.startswith(f"perplexity {expected.perplexity:.2f}, ") and "0 unknown (0.00 %)" in line


def test_text_comes_from_gzip_standard_input_or_a_dataset(
    files: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, text = Path(files["folder"]), Path(files["one"]).read_text()
    (folder / "one.txt.gz").write_bytes(gzip.compress(text.encode()))
    (folder / "data").mkdir()
    rows = [json.dumps({"sentence": line}) for line in text.splitlines()]
    (folder / "data" / "validation.jsonl").write_text("\n".join(rows))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    sources = {
        "file": [files["one"]],
        "gzip": [f"{folder}/one.txt.gz"],
        "stdin": ["-"],
        "dataset": ["--dataset", f"{folder}/data", "--split", "validation", "--text_column", "sentence"],
    }
    contents = set()
    for name, source in sources.items():
        run("train", *source, "-o", f"{folder}/{name}.ngram")
        contents.add((folder / f"{name}.ngram").read_bytes())
    assert len(contents) == 1


def test_a_budget_of_memory_changes_nothing(files: dict[str, str]) -> None:
    folder = Path(files["folder"])
    run("train", files["one"], "-o", f"{folder}/a.ngram")
    run("train", files["one"], "-o", f"{folder}/b.ngram", "--memory", "1.5M", "--temp_dir", files["folder"])
    assert (folder / "a.ngram").read_bytes() == (folder / "b.ngram").read_bytes()


def test_options_of_train(files: dict[str, str]) -> None:
    folder = Path(files["folder"])
    (folder / "vocabulary.txt").write_text("a b\nc d h\n")
    out = str(folder / "lm.ngram")

    def trained(*options: str) -> NGramLM:
        run("train", files["one"], "-o", out, *options)
        return NGramLM.load(out)

    full = trained()
    assert full.order == 3 and len(full.words) == 3 + 8
    assert trained("--prune", "0", "1", "2").counts < full.counts
    assert sum(trained("--entropy_prune", "1e-3").counts) < sum(full.counts)
    assert trained("--vocab", str(folder / "vocabulary.txt"), "--vocab_size", "4", "--min_count", "2").words[3:] != []
    assert len(trained("--vocab", str(folder / "vocabulary.txt")).words) == 3 + 5
    assert len(trained("--vocab_size", "4").words) == 3 + 4
    assert "a." in trained("--normalizer", "none").words or "b." in trained("--normalizer", "none").words
    assert trained("--closed").score("zzz") < -90
    assert set(trained("--unit", "char").words[3:]) == {*"abcdefgh", "\u2581"}
    size = (folder / "lm.ngram").stat().st_size
    assert trained("--unit", "char", "--quantize", "8").counts and (folder / "lm.ngram").stat().st_size != size


def test_word_pieces(files: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    out, tokenizer = f"{files['folder']}/lm", f"{files['folder']}/tokenizer"
    build_char_tokenizer(["a b c d e f g h"]).save_pretrained(tokenizer)
    run("train", files["one"], "-o", out, "--unit", "bpe", "--tokenizer", tokenizer)
    assert set(NGramLM.load(out).words[3:]) == {*"abcdefgh", "|"}
    run("eval", out, files["one"], "--tokenizer", tokenizer)
    assert ", 0 unknown" in capsys.readouterr().out
    run("eval", out, files["one"], code=2)
    assert "the unit of the model is 'bpe'" in capsys.readouterr().err


def test_mix(files: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    folder = files["folder"]
    for name in ("one", "two"):
        run("train", files[name], "-o", f"{folder}/{name}")
    capsys.readouterr()
    run("mix", f"{folder}/one", f"{folder}/two", "--dev", files["dev"], "-o", f"{folder}/mixed")
    weights = [float(line.split()[0]) for line in capsys.readouterr().out.splitlines()[:2]]
    assert sum(weights) == pytest.approx(1, abs=1e-3) and weights[0] > weights[1] > 0.05
    dev = [line.replace(".", "") for line in open(files["dev"])]
    mixed, one = NGramLM.load(f"{folder}/mixed"), NGramLM.load(f"{folder}/one")
    assert mixed.perplexity(dev).perplexity < one.perplexity(dev).perplexity
    run("mix", f"{folder}/one", f"{folder}/two", "--weights", "1", "0", "-o", f"{folder}/same")
    assert NGramLM.load(f"{folder}/same").perplexity(dev[:60]).perplexity == pytest.approx(
        one.perplexity(dev[:60]).perplexity, rel=1e-2
    )


def test_convert(files: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    folder = files["folder"]
    run("train", files["one"], "-o", f"{folder}/lm", "--arpa", f"{folder}/a.arpa.gz")
    run("convert", f"{folder}/a.arpa.gz", f"{folder}/again.ngram")
    run("convert", f"{folder}/lm", f"{folder}/b.arpa")
    run("convert", f"{folder}/b.arpa", f"{folder}/small", "--quantize", "8")
    assert f"{folder}/small/lm.ngram: " in capsys.readouterr().out
    scores = [
        NGramLM.load(f"{folder}/{name}").score("a b c")
        for name in ("lm", "a.arpa.gz", "again.ngram", "b.arpa", "small")
    ]
    assert scores[:4] == [pytest.approx(scores[0], abs=1e-4)] * 4 and scores[4] == pytest.approx(scores[0], abs=0.1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "-o", "lm"], "either text files or --dataset, got neither"),
        (["train", "{one}", "--dataset", "x", "-o", "lm"], "either text files or --dataset, got both"),
        (["train", "nowhere.txt", "-o", "lm"], "no text file nowhere.txt"),
        (["train", "{one}", "--order", "9", "-o", "lm"], "1 to 6, got 9"),
        (["train", "{one}", "--unit", "bpe", "-o", "lm"], "bpe"),
        (["train", "{one}", "--normalizer", "upper", "-o", "lm"], "got 'upper'"),
        (["train", "{one}", "--vocab", "nowhere.txt", "-o", "lm"], "nowhere.txt"),
        (["train", "{one}", "--memory", "2X", "-o", "lm"], "K, M or G, such as 500M; got '2X'"),
        (["train", "{one}", "--memory", "10k", "-o", "lm"], "at least 1 MiB, got 10,240 bytes"),
        (["eval", "nowhere", "{one}"], "no language model nowhere"),
        (["mix", "nowhere", "--dev", "{one}", "-o", "lm"], "no language model nowhere"),
        (["convert", "{one}", "lm"], "one.txt"),
    ],
)
def test_mistakes(
    arguments: list[str], message: str, files: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    run(*(argument.format(**files) for argument in arguments), code=2)
    error = capsys.readouterr().err
    assert error.startswith("hfaudio lm: ") and message in error
