"""The estimation benchmark run for real on a made-up text, and its comparison of two models."""

import json
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from hfaudio.ngram.model import NGramLM


@pytest.fixture(scope="module")
def script(open_page: Callable[[str], ModuleType]) -> ModuleType:
    return open_page("benchmarks/ngram_estimation.py")


def test_it_writes_a_table_and_json(script: ModuleType, tmp_path: Path) -> None:
    """A stand-in for lmplz, a copy of what hfaudio wrote, shows what is done with the other side."""
    lmplz = tmp_path / "lmplz"
    lmplz.write_text(
        f"#!{sys.executable}\nimport shutil, sys\nfile = sys.argv[-1]\n"
        'shutil.copy(file.replace("lmplz.arpa", "hfaudio.arpa"), file)\n'
    )
    lmplz.chmod(lmplz.stat().st_mode | stat.S_IXUSR)
    output = tmp_path / "figures.json"
    arguments = ["--words", "2000", "--orders", "2", "--repeats", "1", "--lmplz", str(lmplz), "-o", str(output)]
    results = script.main([*arguments, "--memory", "10M"])
    assert json.loads(output.read_text())["rows"] == results["rows"]
    assert [row["side"] for row in results["rows"]] == ["hfaudio, lm.ngram", "hfaudio, ARPA", "lmplz, ARPA"]
    assert all(0 < row["cpu_seconds"] and 5 < row["peak_mib"] for row in results["rows"])
    assert results["largest_difference"] == {2: 0.0} and results["words"] == 2000
    assert output.with_suffix(".md").read_text().count("\n| 2 |") == 3


def test_the_made_up_text_is_the_same_for_a_seed(script: ModuleType, tmp_path: Path) -> None:
    texts = [script.made_up_text(tmp_path / "text", 1000, seed).read_text() for seed in (0, 0, 1)]
    assert texts[0] == texts[1] != texts[2] and len(texts[0].split()) == 1000 and texts[0].count("\n") == 50


def test_differences_are_found_by_ngram_whatever_the_ids(script: ModuleType, tmp_path: Path) -> None:
    lines = ["b a c", "a b", "c c a", "b b"]
    one, other = NGramLM.from_text(lines, order=3), NGramLM.from_text(lines[::-1], order=3)
    assert one.words != other.words
    one.save(tmp_path / "one.arpa")
    other.save(tmp_path / "other.arpa")
    assert script.largest_difference(tmp_path / "one.arpa", tmp_path / "other.arpa") < 1e-6
    text = (tmp_path / "other.arpa").read_text().splitlines()
    line = next(number for number, row in enumerate(text) if row.split("\t")[1:2] == ["b a c"])
    value, _, rest = text[line].partition("\t")
    text[line] = f"{float(value) - 0.25:.6f}\t{rest}"
    (tmp_path / "other.arpa").write_text("\n".join(text) + "\n")
    assert script.largest_difference(tmp_path / "one.arpa", tmp_path / "other.arpa") == pytest.approx(0.25, abs=1e-5)
    NGramLM.from_text([*lines, "c b"], order=3).save(tmp_path / "more.arpa")
    with pytest.raises(ValueError, match="not have the same 2-grams"):
        script.largest_difference(tmp_path / "one.arpa", tmp_path / "more.arpa")
