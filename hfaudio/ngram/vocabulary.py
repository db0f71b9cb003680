"""Text to word ids: splits bytes at white space and numbers the words, compiled."""

from collections.abc import Iterable, Iterator
from itertools import pairwise

import numpy as np
from numba import njit

from hfaudio.ngram.table import BOS, EOS, MARKS

CHUNK_BYTES = 1 << 24  # text that is split at once
NEWLINE = 10  # NUL, 9 to 13 and space part words, as in lmplz; other bytes, of any encoding, make them
HASH_START, HASH_FACTOR = np.uint64(14695981039346656037), np.uint64(1099511628211)  # FNV-1a


class Vocabulary:
    """Words and their ids, in order of appearance after the three marks."""

    def __init__(self) -> None:
        self.table = np.full((1 << 16, 2), -1, np.int64)  # of open addressing: hash, id
        self.text = np.zeros(1 << 20, np.uint8)  # all words in a row
        self.ends = np.zeros(1 << 16, np.int64)  # (W + 1,) of the words in `text`; ends[0] = 0
        self.size = 0
        self.add(" ".join(MARKS).encode())

    def add(self, text: bytes) -> np.ndarray:
        """Ids (n,) int32 of the words of a text; a newline is -1."""
        array = np.frombuffer(text, np.uint8)
        ids = np.empty(len(array) // 2 + 2, np.int32)
        place, count = 0, 0
        while True:
            place, count, self.size = number_words(
                array, place, ids, count, self.table, self.text, self.ends, self.size
            )
            if place == len(array):
                return ids[:count]
            if count + 2 > len(ids):  # lines of nothing
                ids = np.append(ids, np.empty(len(ids) + 2, np.int32))
            else:
                self._grow()

    def _grow(self) -> None:
        self.text = np.append(self.text, np.zeros(max(len(self.text), CHUNK_BYTES), np.uint8))
        self.ends = np.append(self.ends, np.zeros(len(self.ends), np.int64))
        self.table = np.full((2 * len(self.table), 2), -1, np.int64)
        rehash(self.table, self.text, self.ends, self.size)

    def words(self) -> list[str]:
        """The words by id."""
        text, ends = self.text.tobytes(), self.ends[: self.size + 1].tolist()
        return [text[a:b].decode("utf-8") for a, b in pairwise(ends)]


@njit(cache=True, nogil=True)
def number_words(
    text: np.ndarray,
    place: int,
    ids: np.ndarray,
    count: int,
    table: np.ndarray,
    known: np.ndarray,
    ends: np.ndarray,
    size: int,
) -> tuple[int, int, int]:
    """Number the words from `place` on, until the text ends or an array is full: where it stopped, ids, words."""
    mask = len(table) - 1
    while place < len(text):
        byte = text[place]
        if byte == NEWLINE:
            if count + 1 >= len(ids):
                return place, count, size
            ids[count] = -1
            count += 1
            place += 1
            continue
        if byte == 32 or byte == 0 or byte == 9 or (11 <= byte <= 13):
            place += 1
            continue
        end, code = place, HASH_START
        while end < len(text):
            byte = text[end]
            if byte == 32 or byte == 0 or (9 <= byte <= 13):
                break
            code = (code ^ np.uint64(byte)) * HASH_FACTOR
            end += 1
        if count + 1 >= len(ids):
            return place, count, size
        hashed = np.int64(code >> np.uint64(1))
        cell = hashed & mask
        found = -1
        while table[cell, 1] >= 0:
            if table[cell, 0] == hashed:
                word = table[cell, 1]
                if same_bytes(text, place, end, known, ends[word], ends[word + 1]):
                    found = word
                    break
            cell = (cell + 1) & mask
        if found < 0:
            length = end - place
            if 2 * (size + 1) > len(table) or size + 2 > len(ends) or ends[size] + length > len(known):
                return place, count, size
            known[ends[size] : ends[size] + length] = text[place:end]
            ends[size + 1] = ends[size] + length
            table[cell, 0], table[cell, 1] = hashed, size
            found = size
            size += 1
        ids[count] = found
        count += 1
        place = end
    return place, count, size


@njit(cache=True, nogil=True)
def same_bytes(a: np.ndarray, a_first: int, a_end: int, b: np.ndarray, b_first: int, b_end: int) -> bool:
    if a_end - a_first != b_end - b_first:
        return False
    for offset in range(a_end - a_first):
        if a[a_first + offset] != b[b_first + offset]:
            return False
    return True


@njit(cache=True, nogil=True)
def rehash(table: np.ndarray, known: np.ndarray, ends: np.ndarray, size: int) -> None:
    """Fill an empty hash table with the words."""
    mask = len(table) - 1
    for word in range(size):
        code = HASH_START
        for index in range(ends[word], ends[word + 1]):
            code = (code ^ np.uint64(known[index])) * HASH_FACTOR
        hashed = np.int64(code >> np.uint64(1))
        cell = hashed & mask
        while table[cell, 1] >= 0:
            cell = (cell + 1) & mask
        table[cell, 0], table[cell, 1] = hashed, word


def number_lines(lines: Iterable[str], vocabulary: Vocabulary) -> Iterator[np.ndarray]:
    """Ids (n,) int32 of sentences, some at a time, each <s> words </s>; an empty line is <s> </s>, as in lmplz.

    Raises:
        ValueError: a line holds <s>, </s> or <unk>, which mark what no text may contain, or is no Unicode text.
    """
    waiting: list[str] = []
    size = 0
    for line in lines:
        waiting.append(line.rstrip("\n").replace("\n", " "))
        size += len(line) + 1
        if size > CHUNK_BYTES:
            yield number_text(waiting, vocabulary)
            waiting, size = [], 0
    if waiting:
        yield number_text(waiting, vocabulary)


def number_text(lines: list[str], vocabulary: Vocabulary) -> np.ndarray:
    try:
        text = "\n".join(lines).encode("utf-8") + b"\n"
    except UnicodeEncodeError as error:  # bytes of another encoding, read as Python's surrogates
        line = error.object[: error.start].count("\n")
        raise ValueError(
            f"the sentence {lines[line][:100]!r} is no Unicode text ({error.reason}); read it in its own encoding"
        ) from error
    ids = vocabulary.add(text)
    marks = np.flatnonzero((ids >= 0) & (ids <= EOS))
    if len(marks):
        line = int((ids[: marks[0]] < 0).sum())
        raise ValueError(
            f"the sentence {lines[line][:100]!r} holds {MARKS[ids[marks[0]]]}, which marks sentence limits and "
            "unknown words in a model; remove it from the text"
        )
    return with_limits(ids)


@njit(cache=True, nogil=True)
def with_limits(ids: np.ndarray) -> np.ndarray:
    """Sentences that end in -1 as <s> ... </s>."""
    result = np.empty(len(ids) + (ids < 0).sum(), np.int32)
    count, starts = 0, True
    for word in ids:
        if starts:
            result[count] = BOS
            count += 1
            starts = False
        if word < 0:
            result[count] = EOS
            starts = True
        else:
            result[count] = word
        count += 1
    return result[:count]
