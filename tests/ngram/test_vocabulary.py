"""Words and ids: bytes are split where lmplz splits them, arrays grow, nothing is lost between chunks."""

import random

import numpy as np
import pytest

from hfaudio.ngram import vocabulary
from hfaudio.ngram.table import BOS, EOS
from hfaudio.ngram.vocabulary import Vocabulary, number_lines


def read(lines: list[str]) -> list[list[str]]:
    """The sentences as they come out, words by their ids."""
    words_of = Vocabulary()
    ids = np.concatenate(list(number_lines(lines, words_of)))
    words = words_of.words()
    assert len(set(words)) == len(words)
    ends = np.flatnonzero(ids == EOS)
    assert (ids[np.append(0, ends[:-1] + 1)] == BOS).all() and (ids == BOS).sum() == len(ends)
    return [[words[i] for i in part[1:-1]] for part in np.split(ids, ends[:-1] + 1)]


def test_ids_follow_the_first_appearance() -> None:
    words_of = Vocabulary()
    (ids,) = number_lines(["b a b", "c a"], words_of)
    assert words_of.words() == ["<unk>", "<s>", "</s>", "b", "a", "c"]
    assert ids.tolist() == [1, 3, 4, 3, 2, 1, 5, 4, 2] and ids.dtype == np.int32


@pytest.mark.parametrize("space", [" ", "\t", "\0", "\r", "\v", "\f", "  \t \r ", "\n"])
def test_white_space(space: str) -> None:
    assert read([f"{space}a{space}b c{space}", f"d{space}"]) == [["a", "b", "c"], ["d"]]


def test_other_spaces_belong_to_words() -> None:
    """lmplz knows ASCII's spaces only: a no-break space or U+3000 is a letter."""
    assert read(["a\u00a0b c\u3000d\u2028e \u0085f"]) == [["a\u00a0b", "c\u3000d\u2028e", "\u0085f"]]


def test_empty_lines_are_empty_sentences() -> None:
    assert read(["", "a\n", "\r\n", "  "]) == [[], ["a"], [], []]


def test_any_unicode_and_bytes_that_are_none() -> None:
    assert read(["naïve 東京 \U0001f600 e\u0301"]) == [["naïve", "東京", "\U0001f600", "e\u0301"]]
    broken = b"caf\xe9 ok".decode("utf-8", "surrogateescape")
    with pytest.raises(ValueError, match=r"the sentence 'caf\\udce9 ok' is no Unicode text \(surrogates"):
        read(["fine", broken, "fine"])


def test_chunks_and_growing_arrays_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(3)
    lines = [" ".join(f"w{rng.randrange(200_000)}" for _ in range(rng.randrange(9))) for _ in range(25_000)]
    assert len({word for line in lines for word in line.split()}) > 1 << 16
    expected = [line.split() for line in lines]
    assert read(lines) == expected
    monkeypatch.setattr(vocabulary, "CHUNK_BYTES", 1000)
    assert read(lines) == expected


def test_one_word_longer_than_the_arrays() -> None:
    giant = "x" * 3_000_000
    assert read([f"a {giant} b {giant}y"]) == [["a", giant, "b", f"{giant}y"]]


def test_lines_of_nothing() -> None:
    assert read([""] * 50_000) == [[]] * 50_000
    assert read(["\n" * 50_000 + "a"]) == [["a"]]


def test_the_line_of_a_mark_is_named() -> None:
    with pytest.raises(ValueError, match="'b </s>' holds </s>"):
        list(number_lines(["a", "b </s>", "<unk>"], Vocabulary()))
