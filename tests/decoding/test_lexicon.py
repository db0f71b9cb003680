"""The tree of a vocabulary holds exactly its words."""

import numpy as np
import pytest

from hfaudio.decoding.lexicon import Alphabet, Trie, build_trie, find_child

ALPHABET = Alphabet.of(["", " ", "a", " b", "né", "日本"])


def lookup(trie: Trie, text: str) -> int:
    """The node of a string, -1 if no word starts so."""
    node = 0
    for symbol in ALPHABET.symbols(text):
        node = find_child(trie, node, symbol)
        if node < 0:
            return -1
    return node


def test_symbols_are_numbered_by_code_point() -> None:
    assert ALPHABET.symbols("ab n日x本").tolist() == [1, 2, 0, 3, 5, -1, 6]
    assert ALPHABET.spells(["ab", "ax", "", "日"]).tolist() == [True, False, False, True]
    assert ALPHABET.spells([]).tolist() == []


@pytest.mark.parametrize("seed", range(3))
def test_every_word_is_found_and_nothing_else(seed: int) -> None:
    rng = np.random.default_rng(seed)
    words = list({"".join(rng.choice(list("abné日本"), rng.integers(1, 7))) for _ in range(500)})
    values = rng.normal(size=len(words))
    trie = build_trie(words, ALPHABET, numbers=np.arange(len(words)) + 3, values=values)
    prefixes = {word[:length] for word in words for length in range(len(word) + 1)}
    assert len(trie.symbol) == len(prefixes)
    for number, word in enumerate(words, start=3):
        assert trie.word[lookup(trie, word)] == number
    best = {p: max(v for w, v in zip(words, values, strict=True) if w.startswith(p)) for p in prefixes}
    for prefix in prefixes:
        node = lookup(trie, prefix)
        assert trie.best[node] == pytest.approx(best[prefix] - max(values), abs=1e-5)
        assert (trie.word[node] < 0) == (prefix not in words)
        assert all((prefix + c in prefixes) == (lookup(trie, prefix + c) >= 0) for c in "abné日本")


def test_a_word_given_twice_keeps_its_first_number_and_best_value() -> None:
    trie = build_trie(["ab", "a", "ab"], ALPHABET, numbers=np.array([3, 4, 0]), values=np.array([-2.0, -1.5, -1.0]))
    assert trie.word.tolist() == [-1, 4, 3]
    assert trie.best.tolist() == [0.0, 0.0, 0.0]


def test_no_words() -> None:
    trie = build_trie([], ALPHABET, numbers=np.array([], int), values=np.array([]))
    assert (len(trie.symbol), find_child(trie, 0, 1)) == (1, -1)
