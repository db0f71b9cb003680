"""ARPA files: the text format of n-gram models that every toolkit reads and writes. Plain or gzip."""

import gzip
import logging
import os
import re
import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numba import njit

from hfaudio.ngram.packed import find_rows
from hfaudio.ngram.table import MARKS, NGramTable

logger = logging.getLogger(__name__)

BUFFER_BYTES = 1 << 24  # of text that is written at once
GZIP_MAGIC = b"\x1f\x8b"
LOWEST = -99.0  # stands for -inf in ARPA files
MISSING_UNK = -100.0  # what KenLM gives <unk> in a model that has none


def write_arpa(path: str | os.PathLike[str], words: Sequence[str], tables: Sequence[NGramTable]) -> None:
    """Write an ARPA file as lmplz does, gzip if the name ends in `.gz`. Whole or not at all."""
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f"{file.name}.partial")
    encoded = [word.encode("utf-8") for word in words]
    spelled = np.frombuffer(b"".join(encoded), np.uint8)
    ends = np.cumsum([0, *map(len, encoded)])
    buffer = np.empty(BUFFER_BYTES + tables_width(ends, len(tables)), np.uint8)
    with gzip.open(partial, "wb", compresslevel=1) if file.name.endswith(".gz") else partial.open("wb") as opened:
        counts = "".join(f"ngram {order}={len(table)}\n" for order, table in enumerate(tables, start=1))
        opened.write(f"\\data\\\n{counts}".encode())
        ids = np.empty((1, 0), np.int32)  # of the words of each n-gram
        for order, table in enumerate(tables, start=1):
            opened.write(f"\n\\{order}-grams:\n".encode())
            ids = np.column_stack([ids[table.prefix], table.word])
            has_backoff, row = order < len(tables), 0
            while row < len(table):
                row, size = write_lines(
                    buffer, BUFFER_BYTES, row, ids, table.log_prob, table.log_backoff, has_backoff, spelled, ends
                )
                opened.write(buffer[:size].data)
        opened.write(b"\n\\end\\\n")
    os.replace(partial, file)


def tables_width(ends: np.ndarray, order: int) -> int:
    """The longest line that there can be: two numbers, and the longest word at every place."""
    return 64 + order * (int(np.diff(ends).max(initial=0)) + 1)


@njit(cache=True, nogil=True)
def write_lines(
    buffer: np.ndarray,
    room: int,
    row: int,
    ids: np.ndarray,
    log_prob: np.ndarray,
    log_backoff: np.ndarray,
    has_backoff: bool,
    spelled: np.ndarray,
    ends: np.ndarray,
) -> tuple[int, int]:
    """Write n-grams from `row` on until `room` bytes are full; the next row and the bytes that were written."""
    place = 0
    while row < len(ids) and place < room:
        place = write_number(buffer, place, log_prob[row])
        for column in range(ids.shape[1]):
            buffer[place] = 9 if column == 0 else 32
            place += 1
            word = ids[row, column]
            for index in range(ends[word], ends[word + 1]):
                buffer[place] = spelled[index]
                place += 1
        if has_backoff:
            buffer[place] = 9
            place = write_number(buffer, place + 1, log_backoff[row])
        buffer[place] = 10
        place += 1
        row += 1
    return row, place


@njit(cache=True, nogil=True)
def write_number(buffer: np.ndarray, place: int, value: float) -> int:
    """Write a number with up to seven decimals; returns the place after it."""
    scaled = np.int64(np.rint(abs(value) * 1e7))
    if value < 0 and scaled > 0:
        buffer[place] = 45
        place += 1
    whole, rest = scaled // 10_000_000, scaled % 10_000_000
    divisor = np.int64(1)
    while divisor * 10 <= whole:
        divisor *= 10
    while divisor > 0:
        buffer[place] = 48 + whole // divisor % 10
        place += 1
        divisor //= 10
    if rest:
        buffer[place] = 46
        place += 1
        divisor = np.int64(1_000_000)
        while rest:
            buffer[place] = 48 + rest // divisor
            place += 1
            rest %= divisor
            divisor //= 10
    return place


def read_arpa(path: str | os.PathLike[str]) -> tuple[list[str], list[NGramTable]]:
    """Words and tables of an ARPA file.

    N-grams whose prefix or suffix is not in the file get these inserted, with the probability that back-off gives.

    Raises:
        ValueError: not an ARPA file, one that is cut off, or counts that are not those of its header.
    """
    content = Path(path).read_bytes()
    if content.startswith(GZIP_MAGIC):
        try:
            content = gzip.decompress(content)
        except (EOFError, OSError, zlib.error) as error:
            raise ValueError(f"{path} cannot be unpacked ({error}); copy it again") from error
    content = content.replace(b"\r\n", b"\n")
    counts, sections = split_sections(content, path)
    words: list[str] = []
    ids_of_orders, log_probs, log_backoffs = [], [], []
    vocabulary = pa.array([], pa.large_binary())
    for order, (count, section) in enumerate(zip(counts, sections, strict=True), start=1):
        probs, backoffs, tokens, lines = parse_section(np.frombuffer(section, np.uint8), order)
        if lines >= 0:
            line = section.split(b"\n")[lines].decode("utf-8", "replace")
            raise ValueError(f"{path}: {line!r} is no {order}-gram line (log10 p, words, log10 back-off)")
        if len(probs) != count:
            raise ValueError(f"{path} has {len(probs)} {order}-grams, its header says {count}; the file is damaged")
        if len(probs) and probs.max() > 1e-3:
            raise ValueError(f"{path} has the log10 probability {probs.max():g} above 0; the file is damaged")
        buffers = [None, pa.py_buffer(tokens[0]), pa.py_buffer(tokens[1])]
        names = pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(tokens[0]) - 1, buffers)
        if order == 1:
            words, vocabulary, probs, backoffs = order_words(names, probs, backoffs, path)
            ids = np.arange(len(words), dtype=np.int32)[:, None]
        else:
            found = pc.index_in(names, vocabulary)
            if found.null_count:
                unknown = names.filter(found.is_null())[0].as_py().decode("utf-8", "replace")
                raise ValueError(f"{path}: the word {unknown!r} of a {order}-gram is not among the 1-grams")
            ids = found.to_numpy(zero_copy_only=False).astype(np.int32).reshape(-1, order)
        ids_of_orders.append(ids)
        log_probs.append(np.minimum(probs, 0).astype(np.float32))
        log_backoffs.append(backoffs.astype(np.float32))
    log_backoffs[-1][:] = 0.0
    return words, build_tables(ids_of_orders, log_probs, log_backoffs)


def split_sections(content: bytes, path: str | os.PathLike[str]) -> tuple[list[int], list[bytes]]:
    """Counts of the header and the text between the section marks."""
    start = content.find(b"\\data\\")
    if start < 0:
        raise ValueError(f"{path} is no ARPA file: it has no \\data\\ line")
    marks = list(re.finditer(rb"^\\(\d+)-grams:[ \t]*$", content, flags=re.M))
    end = content.rfind(b"\\end\\")
    header = content[start : marks[0].start() if marks else None]
    found = re.findall(rb"ngram +(\d+) *= *(\d+)", header)
    counts = [count for _, count in sorted((int(order), int(count)) for order, count in found)]
    if end < 0 or len(marks) != len(counts) or not counts:
        last_line = "an" if end >= 0 else "no"
        raise ValueError(f"{path} is cut off: {len(marks)} of {len(counts)} sections and {last_line} \\end\\ line")
    ends = [mark.start() for mark in marks[1:]] + [end]
    return counts, [content[mark.end() + 1 : stop] for mark, stop in zip(marks, ends, strict=True)]


@njit(cache=True, nogil=True)
def parse_section(text: np.ndarray, order: int) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, np.ndarray], int]:
    """Probabilities, back-offs, words (as offsets and bytes) of a section's lines, and the first bad line or -1."""
    lines = 0
    for byte in text:
        lines += byte == 10
    lines += 1
    probs, backoffs = np.zeros(lines, np.float64), np.zeros(lines, np.float64)
    offsets, spelled = np.zeros(lines * order + 1, np.int64), np.empty(len(text), np.uint8)
    entries, tokens, size, place, line = 0, 0, 0, 0, -1
    while place < len(text):
        end = place
        while end < len(text) and text[end] != 10:
            end += 1
        line += 1
        field = 0
        while place < end:
            while place < end and (text[place] == 32 or text[place] == 9):
                place += 1
            first = place
            while place < end and text[place] != 32 and text[place] != 9:
                place += 1
            if place == first:
                break
            if field == 0 or field == order + 1:
                value, good = parse_number(text, first, place)
                if not good:
                    return probs[:0], backoffs[:0], (offsets[:1], spelled[:0]), line
                if field == 0:
                    probs[entries] = value
                else:
                    backoffs[entries] = value
            elif field <= order:
                for index in range(first, place):
                    spelled[size] = text[index]
                    size += 1
                tokens += 1
                offsets[tokens] = size
            else:
                return probs[:0], backoffs[:0], (offsets[:1], spelled[:0]), line
            field += 1
        if field:
            if field < order + 1:
                return probs[:0], backoffs[:0], (offsets[:1], spelled[:0]), line
            entries += 1
        place = end + 1
    return probs[:entries], backoffs[:entries], (offsets[: tokens + 1], spelled[:size]), -1


@njit(cache=True, nogil=True)
def parse_number(text: np.ndarray, first: int, end: int) -> tuple[float, bool]:
    """A decimal number like -1.25e-3 or -inf, and whether it is one."""
    place, sign = first, 1.0
    if place < end and (text[place] == 45 or text[place] == 43):
        sign = -1.0 if text[place] == 45 else 1.0
        place += 1
    if end - place == 3 and text[place] | 32 == 105:  # inf
        return sign * 99.0, sign < 0
    value, scale, digits = 0.0, 0, 0
    while place < end and 48 <= text[place] <= 57:
        value = value * 10 + (text[place] - 48)
        place += 1
        digits += 1
    if place < end and text[place] == 46:
        place += 1
        while place < end and 48 <= text[place] <= 57:
            value = value * 10 + (text[place] - 48)
            scale -= 1
            place += 1
            digits += 1
    if place < end and text[place] | 32 == 101:
        place += 1
        negative = place < end and text[place] == 45
        if place < end and (text[place] == 45 or text[place] == 43):
            place += 1
        exponent = 0
        while place < end and 48 <= text[place] <= 57:
            exponent = exponent * 10 + (text[place] - 48)
            place += 1
        scale += -exponent if negative else exponent
    return sign * value * 10.0**scale, place == end and digits > 0


def order_words(
    names: pa.LargeBinaryArray, probs: np.ndarray, backoffs: np.ndarray, path: str | os.PathLike[str]
) -> tuple[list[str], pa.Array, np.ndarray, np.ndarray]:
    """Words with the three marks first, and their columns in the same order; a missing mark is added."""
    try:
        words = [name.decode("utf-8") for name in names.to_pylist()]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not written in UTF-8: {error}; convert it") from error
    if len(set(words)) < len(words):
        [(twice, _)] = Counter(words).most_common(1)
        raise ValueError(f"{path} has the word {twice!r} twice; the file is damaged")
    places = {word: index for index, word in enumerate(words)}
    order = [places.get(mark, -1) for mark in MARKS] + [i for i, word in enumerate(words) if word not in MARKS]
    if order[0] < 0:
        logger.warning("%s has no <unk>; unknown words get log10 p %g, as KenLM gives them", path, MISSING_UNK)
    for mark, place in zip(MARKS[1:], order[1:3], strict=True):
        if place < 0:
            logger.warning("%s has no %s, which gets log10 p %g; score without it", path, mark, MISSING_UNK)
    rows = np.array(order)
    values = [np.where(rows < 0, absent, column[rows]) for absent, column in ((MISSING_UNK, probs), (0.0, backoffs))]
    ordered = [MARKS[i] if row < 0 else words[row] for i, row in enumerate(order)]
    return ordered, pa.array([word.encode() for word in ordered], pa.large_binary()), values[0], values[1]


def build_tables(
    ids: list[np.ndarray], log_probs: list[np.ndarray], log_backoffs: list[np.ndarray]
) -> list[NGramTable]:
    """Sorted tables of n-grams given as word ids (n, k) for each order k; what is missing below them is inserted."""
    tables: list[NGramTable] = []
    children: list[np.ndarray] = []  # of the tables so far
    for order, (rows, probs, backoffs) in enumerate(zip(ids, log_probs, log_backoffs, strict=True), start=1):
        if order == 1:
            count = len(rows)
            zeros = np.zeros(count, np.int32)
            tables.append(NGramTable(zeros, np.arange(count, dtype=np.int32), zeros, probs, backoffs))
            continue
        prefix, suffix = (rows_of(tables, children, part) for part in (rows[:, :-1], rows[:, 1:]))
        if len(rows) and min(prefix.min(), suffix.min()) < 0:
            add_missing(ids, log_probs, log_backoffs)
            return build_tables(ids, log_probs, log_backoffs)
        place = np.lexsort((rows[:, -1], prefix))
        same = (np.diff(prefix[place]) == 0) & (np.diff(rows[place, -1]) == 0)
        if same.any():
            raise ValueError(f"{same.sum()} of the {order}-grams are there twice; the file is damaged")
        columns = (column[place] for column in (prefix, np.ascontiguousarray(rows[:, -1]), suffix, probs, backoffs))
        tables.append(NGramTable(*columns))
        starts = np.zeros(len(tables[-2]) + 1, dtype=np.int64)
        np.cumsum(np.bincount(tables[-1].prefix, minlength=len(tables[-2])), out=starts[1:])
        children.append(starts)
    return tables


def rows_of(tables: Sequence[NGramTable], children: Sequence[np.ndarray], ids: np.ndarray) -> np.ndarray:
    """Rows (n,) of n-grams (n, k) in the table of order k."""
    rows = np.ascontiguousarray(ids[:, 0])
    for place in range(1, ids.shape[1]):
        rows = find_rows(children[place - 1], tables[place].word, rows, np.ascontiguousarray(ids[:, place]))
    return rows


def add_missing(ids: list[np.ndarray], log_probs: list[np.ndarray], log_backoffs: list[np.ndarray]) -> None:
    """Insert the prefixes and suffixes that are not there, from the highest order down, in place."""
    inserted = []
    for order in range(len(ids), 2, -1):
        lower = ids[order - 2]
        needed = np.unique(np.concatenate([ids[order - 1][:, :-1], ids[order - 1][:, 1:]]), axis=0)
        both = np.concatenate([lower, needed])
        _, first, inverse = np.unique(both, axis=0, return_index=True, return_inverse=True)
        missing = needed[first[inverse.reshape(-1)[len(lower) :]] >= len(lower)]
        if len(missing):
            ids[order - 2] = np.concatenate([lower, missing])
            inserted.append(order - 1)
            zeros = np.zeros(len(missing), np.float32)
            log_probs[order - 2] = np.concatenate([log_probs[order - 2], zeros + np.float32(np.nan)])
            log_backoffs[order - 2] = np.concatenate([log_backoffs[order - 2], zeros])
    for order in sorted(inserted):  # lower orders first: their probabilities are needed
        below = {tuple(row): i for i, row in enumerate(ids[order - 2].tolist())}
        for index in np.flatnonzero(np.isnan(log_probs[order - 1])):
            row = tuple(ids[order - 1][index].tolist())
            backoff = log_backoffs[order - 2][below[row[:-1]]] if row[:-1] in below else 0.0
            log_probs[order - 1][index] = backoff + log_probs[order - 2][below[row[1:]]]
