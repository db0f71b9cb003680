"""ARPA files: written and read back, and every way in which one can be damaged."""

import gzip
import logging
import math
from pathlib import Path

import numpy as np
import pytest

from hfaudio.ngram.arpa import read_arpa, write_arpa
from hfaudio.ngram.model import NGramLM

FIXTURES = Path(__file__).parent / "fixtures"
SMALL = """
\\data\\
ngram 1=5
ngram 2=3

\\1-grams:
-1.0\t<unk>\t0
0\t<s>\t-0.3
-0.7\t</s>\t0
-0.5\tcab\t-0.3
-0.6\tbad\t-0.2

\\2-grams:
-0.2\t<s> cab
-0.3\tcab bad
-0.4\tbad </s>

\\end\\
"""


def load(text: str, tmp_path: Path) -> NGramLM:
    file = tmp_path / "lm.arpa"
    file.write_text(text, encoding="utf-8", newline="")
    return NGramLM.load(file)


@pytest.mark.parametrize("name", ["again.arpa", "again.arpa.gz"])
def test_what_is_written_reads_the_same(name: str, tmp_path: Path) -> None:
    words, tables = read_arpa(FIXTURES / "kenlm_4.arpa.gz")
    write_arpa(tmp_path / name, words, tables)
    assert not list(tmp_path.glob("*.partial"))
    again, same = read_arpa(tmp_path / name)
    assert again == words
    for ours, theirs in zip(same, tables, strict=True):
        for column in ("prefix", "word", "suffix"):
            np.testing.assert_array_equal(getattr(ours, column), getattr(theirs, column))
        np.testing.assert_allclose(ours.log_prob, theirs.log_prob, atol=1e-6)
        np.testing.assert_allclose(ours.log_backoff, theirs.log_backoff, atol=1e-6)


def test_numbers_of_every_size(tmp_path: Path) -> None:
    words, tables = read_arpa(FIXTURES / "kenlm_2.arpa.gz")
    values = np.array([-99.0, -12.5, -0.0000001, 0.0, -1.25, -0.1234567], np.float32)
    tables[0].log_prob[:6] = values
    tables[0].log_backoff[:6] = -values / 4  # back-offs can be above 0
    write_arpa(tmp_path / "lm.arpa", words, tables)
    lines = (tmp_path / "lm.arpa").read_text().split("\\1-grams:\n")[1].splitlines()[:6]
    assert [line.split("\t")[0] for line in lines] == ["-99", "-12.5", "-0.0000001", "0", "-1.25", "-0.1234567"]
    assert [float(line.split("\t")[2]) for line in lines] == pytest.approx(-values / 4, abs=6e-8)


def test_the_lines_are_those_of_lmplz(tmp_path: Path) -> None:
    words, tables = read_arpa(FIXTURES / "kenlm_3.arpa.gz")
    write_arpa(tmp_path / "lm.arpa", words, tables)

    def numbers(text: str) -> dict[str, list[float]]:
        rows = [line.split("\t") for line in text.splitlines() if "\t" in line]
        return {row[1]: [float(row[0]), *map(float, row[2:])] for row in rows}

    theirs_text = gzip.decompress((FIXTURES / "kenlm_3.arpa.gz").read_bytes()).decode()
    ours_text = (tmp_path / "lm.arpa").read_text()
    ours, theirs = numbers(ours_text), numbers(theirs_text)
    assert ours.keys() == theirs.keys()
    for text, values in theirs.items():
        assert ours[text] == pytest.approx(values, abs=1e-6), text  # and a back-off where they have one
    assert ours_text.split("\n\n")[0] == theirs_text.split("\n\n")[0]


def test_a_small_file_by_hand(tmp_path: Path) -> None:
    lm = load(SMALL, tmp_path)
    assert lm.score("cab bad") == pytest.approx(-0.2 - 0.3 - 0.4)
    assert lm.score("bad") == pytest.approx((-0.3 - 0.6) - 0.4)
    assert lm.score("cab dog", eos=False) == pytest.approx(-0.2 + (-0.3 - 1.0))


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace("\t", " "),
        lambda text: "a comment\n" + text,
        lambda text: text.replace("-0.3\tcab bad", "-3e-1\tcab bad"),
        lambda text: text.replace("ngram 1=5", "ngram  1 = 5"),
    ],
)
def test_other_ways_to_write_it(change, tmp_path: Path) -> None:
    assert load(change(SMALL), tmp_path).score("cab bad") == pytest.approx(-0.9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[: len(text) // 2], "cut off"),
        (lambda text: text.replace("\\end\\", ""), r"cut off: 2 of 2 sections and no"),
        (lambda text: text.replace("ngram 2=3", "ngram 2=4"), "has 3 2-grams, its header says 4"),
        (lambda text: text.replace("-0.5\tcab", "0.5\tcab"), "probability 0.5 above 0"),
        (lambda text: text.replace("-0.5\tcab", "?\tcab"), "is no 1-gram line"),
        (lambda text: text.replace("-0.3\tcab bad", "-0.3\tcab dog"), "'dog' of a 2-gram is not among the 1-grams"),
        (lambda text: text.replace("-0.6\tbad\t-0.2", "-0.6\tcab\t-0.2"), "'cab' twice"),
        (lambda text: text.replace("-0.4\tbad </s>", "-0.4\tcab bad"), "twice"),
        (lambda text: "hello", "no ARPA file"),
    ],
)
def test_damage_is_named(change, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        load(change(SMALL), tmp_path)


@pytest.mark.timeout(60)  # comparing each word with all before it takes minutes
def test_a_word_that_is_twice_among_many_is_found(tmp_path: Path) -> None:
    count = 200_000
    lines = "".join(f"-5\tw{min(number, count - 2)}\n" for number in range(count))
    (tmp_path / "lm.arpa").write_text(f"\\data\\\nngram 1={count}\n\n\\1-grams:\n{lines}\n\\end\\\n")
    with pytest.raises(ValueError, match=f"'w{count - 2}' twice"):
        read_arpa(tmp_path / "lm.arpa")


def test_damaged_encodings_are_named(tmp_path: Path) -> None:
    (tmp_path / "cut.arpa.gz").write_bytes(gzip.compress(SMALL.encode())[:-12])
    with pytest.raises(ValueError, match="cannot be unpacked"):
        NGramLM.load(tmp_path / "cut.arpa.gz")
    (tmp_path / "latin.arpa").write_bytes(SMALL.replace("cab", "c\xe4b").encode("latin-1"))
    with pytest.raises(ValueError, match="not written in UTF-8"):
        NGramLM.load(tmp_path / "latin.arpa")


def test_without_unk_unknown_words_get_kenlms_minus_100(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    text = SMALL.replace("-1.0\t<unk>\t0\n", "").replace("ngram 1=5", "ngram 1=4")
    with caplog.at_level(logging.WARNING):
        lm = load(text, tmp_path)
    assert "has no <unk>" in caplog.text
    assert lm.score("dog", bos=False, eos=False) == pytest.approx(-100)


def test_minus_infinity(tmp_path: Path) -> None:
    lm = load(SMALL.replace("-0.5\tcab", "-inf\tcab").replace("-0.6\tbad", "-99\tbad"), tmp_path)
    assert lm.score("cab", bos=False, eos=False) == lm.score("bad", bos=False, eos=False) == -99


def test_ngrams_without_their_suffix_are_completed(tmp_path: Path) -> None:
    """SRILM drops n-grams by entropy, so "b c" may be gone while "a b c" stays; back-off says what it was."""
    text = SMALL.replace("ngram 2=3", "ngram 2=2\nngram 3=1").replace("-0.3\tcab bad\n", "")
    text = text.replace("-0.2\t<s> cab", "-0.2\t<s> cab\t-0.1").replace(
        "\n\\end\\", "\n\\3-grams:\n-0.15\t<s> cab bad\n\n\\end\\"
    )
    lm = load(text, tmp_path)
    assert lm.counts == (5, 3, 1)
    assert lm.full_scores("cab bad")[1][0] == pytest.approx(-0.15)
    implied = -0.3 - 0.6  # back-off of "cab", and "bad"
    assert lm.full_scores("cab bad", bos=False)[1][0] == pytest.approx(implied)
    assert math.isclose(lm.score("cab bad"), -0.2 - 0.15 - 0.4, abs_tol=1e-6)
