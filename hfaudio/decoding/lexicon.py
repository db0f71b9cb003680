"""A vocabulary as a tree of characters, in few small arrays that stay in the processor's cache.

Nodes stand in breadth-first order, so the children of a node lie side by side, sorted by character:

    words: a, an, at, be        node       0    1  2    3  4  5
                                symbol          a  b    n  t  e       children of 0: 1-2, of 1: 3-4, of 2: 5
                                word           "a"     "an" "at" "be"
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from hfaudio.ngram.compiled import compiled

SPACE = 0  # symbol of the space between the words of a phrase; letters have the symbols 1, 2, ...


class Trie(NamedTuple):
    """Arrays over nodes (n,), for compiled code; node 0 is the empty string."""

    first_child: np.ndarray  # (n + 1,) int32: the children of node i are first_child[i] to first_child[i + 1] - 1
    symbol: np.ndarray  # (n,) int32: the last character; 0 at the root
    word: np.ndarray  # (n,) int32: number of the word that ends here, -1 if none does
    best: np.ndarray  # (n,) float32: the highest value of the words below and here, less that of all words


@dataclass(frozen=True, eq=False)
class Alphabet:
    """Characters that labels can spell, numbered from 1 in code-point order."""

    code_points: np.ndarray  # (A,) uint32, ascending

    @classmethod
    def of(cls, labels: Sequence[str]) -> "Alphabet":
        characters = sorted(set("".join(labels)) - {" "})
        return cls(np.array([ord(character) for character in characters], dtype=np.uint32))

    def symbols(self, text: str) -> np.ndarray:
        """Symbols (len(text),) int32 of a text: 0 for a space, -1 for a character that no label spells."""
        codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
        places = np.searchsorted(self.code_points, codes)
        known = np.append(self.code_points, np.uint32(0))[places] == codes
        return np.where(codes == ord(" "), SPACE, np.where(known, places + 1, -1)).astype(np.int32)

    def spells(self, words: Sequence[str]) -> np.ndarray:
        """Which of the words (n,) bool are made of these characters alone; the empty word is not."""
        lengths = np.fromiter(map(len, words), dtype=np.int64, count=len(words))
        foreign = np.append(0, np.cumsum(self.symbols("".join(words)) < 0))
        ends = np.cumsum(lengths)
        return (foreign[ends] == foreign[ends - lengths]) & (lengths > 0)


def build_trie(words: Sequence[str], alphabet: Alphabet, *, numbers: np.ndarray, values: np.ndarray) -> Trie:
    """The tree of words that the alphabet spells; `numbers` (n,) name them, `values` (n,) are what `best` spreads.

    A word given twice keeps its highest value and the number of its first place.
    """
    order = np.array(sorted(range(len(words)), key=words.__getitem__), dtype=np.int64)
    lengths = np.fromiter((len(words[i]) for i in order), dtype=np.int64, count=len(order))
    symbols = alphabet.symbols("".join(words[i] for i in order))
    starts = np.cumsum(lengths) - lengths
    parents, node_symbols = [np.array([-1])], [np.array([SPACE])]
    node_of = np.zeros(len(order), dtype=np.int64)  # the node that each word has reached
    size, depth = 1, 0
    rows = np.arange(len(order))
    while True:  # one level of the tree
        rows = rows[lengths[rows] > depth]
        if not len(rows):
            break
        parent, symbol = node_of[rows], symbols[starts[rows] + depth]
        is_new = np.ones(len(rows), dtype=bool)  # sorted words: a node is new where it differs from the one before
        is_new[1:] = (parent[1:] != parent[:-1]) | (symbol[1:] != symbol[:-1])
        node_of[rows] = size - 1 + np.cumsum(is_new)
        parents.append(parent[is_new])
        node_symbols.append(symbol[is_new])
        size += int(is_new.sum())
        depth += 1
    word = np.full(size, -1, dtype=np.int32)
    word[node_of[::-1]] = numbers[order][::-1]
    best = np.full(size, -np.inf, dtype=np.float32)
    np.maximum.at(best, node_of, values[order].astype(np.float32))
    end = size
    for parent in reversed(parents[1:]):  # from the leaves up
        np.maximum.at(best, parent, best[end - len(parent) : end])
        end -= len(parent)
    if len(words):
        best -= best[0]
    counts = np.bincount(np.concatenate(parents)[1:], minlength=size)
    first_child = np.append(1, 1 + np.cumsum(counts)).astype(np.int32)
    return Trie(first_child, np.concatenate(node_symbols).astype(np.int32), word, best)


@compiled
def find_child(trie: Trie, node: int, symbol: int) -> int:
    """The child of a node by its character, -1 if there is none."""
    low, high = trie.first_child[node], trie.first_child[node + 1]
    while low < high:
        middle = (low + high) >> 1
        if trie.symbol[middle] < symbol:
            low = middle + 1
        else:
            high = middle
    if low < trie.first_child[node + 1] and trie.symbol[low] == symbol:
        return low
    return -1
