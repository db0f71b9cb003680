"""KenLM's tries (format 5; plain, quantised, and with compressed pointers) as n-grams.

They are reversed: what extends an n-gram are the words to its left, sorted by KenLM's ids (lm/trie.hh). Order 1 has
fixed records, then one bit-packed section follows for each order, laid out like the tables of our own files:

    2 .. N - 1      [word, probability, back-off, first extension]; quantised, the back-off comes first
    N               [word, probability]
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hfaudio.ngram.arpa import build_tables
from hfaudio.ngram.packed import read_column
from hfaudio.ngram.table import NGramTable

UNIGRAM = np.dtype([("log_prob", "<f4"), ("log_backoff", "<f4"), ("first", "<u8")])
PADDING = 8  # bytes at the end of a section, so that eight can be read anywhere


@dataclass(frozen=True, eq=False)
class TrieGrams:
    """N-grams of a trie for each order, word by word in KenLM's ids: (n, k), (n,) and (n,)."""

    ids: list[np.ndarray]
    log_probs: list[np.ndarray]
    log_backoffs: list[np.ndarray]
    end: int  # the byte after the trie

    def tables(self, kenlm_ids: np.ndarray) -> list[NGramTable]:
        """Tables of these n-grams; `kenlm_ids` (W,) are the ids of the words in our order."""
        ours = np.zeros(len(self.ids[0]), np.int32)
        ours[kenlm_ids[::-1]] = np.arange(len(kenlm_ids), dtype=np.int32)[::-1]  # <unk> may stand for a missing <s>
        return build_tables(
            [np.arange(len(kenlm_ids), dtype=np.int32)[:, None], *(ours[rows] for rows in self.ids[1:])],
            [self.log_probs[0][kenlm_ids], *self.log_probs[1:]],
            [self.log_backoffs[0][kenlm_ids], *self.log_backoffs[1:]],
        )


def read_trie(
    file: Path, mapped: np.ndarray, place: int, counts: Sequence[int], *, is_quantised: bool, is_array: bool
) -> TrieGrams:
    """The n-grams of a trie that begins at byte `place`.

    Args:
        counts: of the n-grams of each order.
        is_array: the high bits of pointers lie in an array before the section (lm/bhiksha.hh).

    Raises:
        ValueError: the file is cut off, or its pointers do not reach every n-gram.
    """
    order = len(counts)
    codebooks: list[list[np.ndarray]] = []
    if is_quantised:
        codebooks, place = read_codebooks(file, mapped, place, order)
    unigrams = cut(file, mapped, place, (counts[0] + 1) * UNIGRAM.itemsize).view(UNIGRAM)
    place += (counts[0] + 2) * UNIGRAM.itemsize
    ids = [np.arange(counts[0], dtype=np.int32)[:, None]]
    log_probs, log_backoffs = [-np.abs(unigrams["log_prob"][:-1])], [unigrams["log_backoff"][:-1] + np.float32(0)]
    first = unigrams["first"].astype(np.int64)
    word_bits = counts[0].bit_length()
    for n, count in enumerate(counts[1:], start=2):
        is_highest = n == order
        pointer_bits = 0 if is_highest else counts[n].bit_length()
        turns = np.zeros(1, np.int64)  # the rows from which on the high bits of the pointers are 0, 1, 2, ...
        if is_array and not is_highest:
            pointer_bits -= chopped_bits(count + 1, counts[n], int(cut(file, mapped, place, 2)[1]))
            size = 8 * ((counts[n] >> pointer_bits) + 1)
            turns = cut(file, mapped, -(-place // 8) * 8 + 8, size).view("<i8")
            place += 8 + size + 7  # a header, the array, and what may be left to align it
        prob_bits, backoff_bits = 31, 0 if is_highest else 32
        if is_quantised:
            prob_bits, backoff_bits = (len(codebook).bit_length() - 1 for codebook in codebooks[n - 2])
        record = word_bits + prob_bits + backoff_bits + pointer_bits
        size = -(-(count + 1) * record // 8) + PADDING
        data = np.frombuffer(cut(file, mapped, place, size).tobytes() + b"\0" * (-size % 8), "<u8")
        place += size

        lengths = np.diff(first)
        if first[0] != 0 or lengths.min() < 0 or first[-1] != count:
            raise ValueError(f"{file} is damaged: its {n - 1}-grams do not lead to all {n}-grams; copy it again")
        words = read_column(data, count, 0, record, word_bits).astype(np.int32)
        if count and words.max() >= counts[0]:
            raise ValueError(f"{file} is damaged: word {words.max()} of {counts[0]} in a {n}-gram; copy it again")
        below = ids[-1][np.repeat(np.arange(len(lengths)), lengths)]
        ids.append(np.concatenate([words[:, None], below], axis=1))
        if is_quantised:
            prob_codes = read_column(data, count, word_bits + backoff_bits, record, prob_bits)
            backoff_codes = read_column(data, count, word_bits, record, backoff_bits)
            log_prob, log_backoff = codebooks[n - 2][0][prob_codes], codebooks[n - 2][1][backoff_codes]
        else:
            prob_codes = read_column(data, count, word_bits, record, prob_bits)
            backoff_codes = read_column(data, count, word_bits + prob_bits, record, backoff_bits)
            log_prob = -prob_codes.astype(np.uint32).view(np.float32)
            log_backoff = backoff_codes.astype(np.uint32).view(np.float32)
        log_probs.append(log_prob)
        log_backoffs.append(log_backoff + np.float32(0))  # -0.0, KenLM's mark of what nothing extends, becomes 0.0
        if not is_highest:
            offset = word_bits + prob_bits + backoff_bits
            first = read_column(data, count + 1, offset, record, pointer_bits).astype(np.int64)
            first |= (np.searchsorted(turns, np.arange(count + 1), side="right") - 1) << pointer_bits
    return TrieGrams(ids, log_probs, log_backoffs, place)


def cut(file: Path, mapped: np.ndarray, place: int, size: int) -> np.ndarray:
    """A copy of some bytes of a file, (size,) uint8."""
    if place + size > len(mapped):
        raise ValueError(f"{file} is cut off: {len(mapped):,} bytes, {place + size:,} needed; copy it again")
    return np.array(mapped[place : place + size])


def read_codebooks(file: Path, mapped: np.ndarray, place: int, order: int) -> tuple[list[list[np.ndarray]], int]:
    """Values of the codes of probabilities and back-offs of the orders from 2 on, and the byte after them."""
    version, prob_bits, backoff_bits = cut(file, mapped, place, 3).tolist()
    if version != 2 or not 1 <= prob_bits <= 25 or not 1 <= backoff_bits <= 25:
        raise ValueError(
            f"{file} has codes of version {version} and {prob_bits} and {backoff_bits} bits, not of KenLM's version 2 "
            "and 1 to 25 bits; use the ARPA file"
        )
    place += 8
    codebooks = []
    for n in range(2, order + 1):
        pair = []
        for bits in (prob_bits, backoff_bits) if n < order else (prob_bits,):
            pair.append(cut(file, mapped, place, 4 << bits).view("<f4"))
            place += 4 << bits
        codebooks.append(pair if n < order else [*pair, np.zeros(1, np.float32)])  # no back-offs: codes of no bits
    return codebooks, place


def chopped_bits(rows: int, highest: int, limit: int) -> int:
    """High bits of pointers that an array replaces: as many, up to a limit, as make the section smallest."""
    required = highest.bit_length()
    return min(
        range(min(required, limit) + 1), key=lambda chopped: (highest >> (required - chopped)) * 64 - rows * chopped
    )
