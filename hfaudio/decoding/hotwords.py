"""Words and phrases that get a bonus where they are recognised, as an automaton over characters.

The bonus of a text is the sum over all places where a hotword stands as whole words. While a hotword is being spelled,
its share so far is lent as a potential, so that a beam keeps it; what breaks off gives it back, so the sum is exact.
Aho and Corasick 1975, with matches only from the start of a word to the end of one.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from hfaudio.decoding.lexicon import SPACE, Alphabet, Trie, build_trie, find_child
from hfaudio.ngram.compiled import compiled

OUTSIDE = -1  # inside a word that no hotword starts with


class Hotwords(NamedTuple):
    """Arrays over states (n,), for compiled code: state 0 is the start of a word with nothing matched."""

    trie: Trie
    fallback: np.ndarray  # (n,) int32: the state of the longest shorter match that starts at a word, or OUTSIDE
    bonus: np.ndarray  # (n,) float64: of the hotwords that are complete if the word ends here
    potential: np.ndarray  # (n,) float64: lent while the word goes on
    is_word: np.ndarray  # (n,) bool: the last word is complete and belongs to a hotword


def build_hotwords(weights: Mapping[str, float], alphabet: Alphabet) -> Hotwords:
    """The automaton of phrases (words parted by single spaces) that the alphabet spells, with a weight each."""
    # every word of a phrase is known by itself, without a bonus: a decoder with a vocabulary has to let it pass
    entries = {word: 0.0 for phrase in weights for word in phrase.split(" ")} | dict(weights)
    texts = list(entries)
    values = np.array(list(entries.values()), dtype=np.float64)
    trie = build_trie(texts, alphabet, numbers=np.arange(len(texts)), values=values)
    size = len(trie.symbol)
    parent = np.repeat(np.arange(size), np.diff(trie.first_child))  # of nodes 1, 2, ...
    depth = np.zeros(size, dtype=np.int64)
    fallback = np.full(size, OUTSIDE, dtype=np.int32)
    ends = trie.word >= 0
    bonus = np.zeros(size)
    bonus[ends] = values[trie.word[ends]]
    is_word = ends.copy()
    potential = np.zeros(size)
    for node in range(1, size):  # breadth first, so shorter strings are done
        above, symbol = int(parent[node - 1]), int(trie.symbol[node])
        depth[node] = depth[above] + 1
        fallback[node] = _fallback(trie, fallback, above, symbol)
        if fallback[node] >= 0:
            bonus[node] += bonus[fallback[node]]
            is_word[node] |= is_word[fallback[node]]
    for text, value in entries.items():
        node = 0
        for length, symbol in enumerate(alphabet.symbols(text).tolist(), start=1):
            node = find_child(trie, np.int64(node), np.int64(symbol))
            potential[node] = max(potential[node], value * length / len(text))
    for node in range(1, size):  # a shorter match may be further than the longer one that contains it
        if fallback[node] >= 0:
            potential[node] = max(potential[node], potential[fallback[node]])
    return Hotwords(trie, fallback, bonus, potential, is_word)


def _fallback(trie: Trie, fallback: np.ndarray, above: int, symbol: int) -> int:
    """State of the longest proper suffix of node (above, symbol) that starts at a word."""
    state = int(fallback[above])
    while state >= 0:
        found = find_child(trie, np.int64(state), np.int64(symbol))
        if found >= 0:
            return found
        state = int(fallback[state])
    return 0 if symbol == SPACE else OUTSIDE


@compiled
def follow(hotwords: Hotwords, state: int, symbol: int) -> int:
    """The state after one more character (or SPACE)."""
    while state >= 0:
        found = find_child(hotwords.trie, state, symbol)
        if found >= 0:
            return found
        state = int(hotwords.fallback[state])
    return 0 if symbol == SPACE else OUTSIDE


def hotword_weights(hotwords: Mapping[str, float] | Sequence[str], default: float) -> dict[str, float]:
    """Weight of every phrase, its spaces made single; a sequence of phrases gets the default weight each."""
    if isinstance(hotwords, str):
        raise ValueError(f"hotwords must be a list of phrases or a mapping to weights, got the text {hotwords!r}")
    pairs = hotwords.items() if isinstance(hotwords, Mapping) else ((phrase, default) for phrase in hotwords)
    weights = {" ".join(phrase.split()): float(weight) for phrase, weight in pairs}
    weights.pop("", None)
    for phrase, weight in weights.items():
        if not np.isfinite(weight):
            raise ValueError(f"the weight of hotword {phrase!r} is {weight}; give a finite number")
    return weights
