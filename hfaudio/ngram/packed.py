"""Tables of n-grams to the bit-packed arrays of `hfaudio.ngram.query`, and back."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numba import njit

from hfaudio.ngram.query import BACKOFF, BASE, CHILD, PROB, RECORD, SUFFIX, WORD, Kernel, read_bits
from hfaudio.ngram.table import BOS, NGramTable

SECTION = 512  # bits: sections begin on cache lines


def pack(tables: Sequence[NGramTable], *, bits: int | None = None) -> Kernel:
    """The packed model of tables of order 1 to N.

    Args:
        bits: of the code of a probability or back-off, 2 to 16, with a codebook for each order; None keeps float32.
            1-grams are always float32, as in KenLM: the few frequent words would share one bin, and be 3 log10 off.
    """
    if bits is not None and not 2 <= bits <= 16:
        raise ValueError(f"quantisation takes 2 to 16 bits for a value, got {bits}")
    layout = section_layout([len(table) for table in tables], bits)
    last = layout[-1]
    data = np.zeros(int(last[BASE] + (len(tables[-1]) + 1) * last[RECORD]) // 64 + 2, dtype=np.uint64)
    codebooks = np.zeros((len(tables) + 1, 2, 2**bits if bits else 0), dtype=np.float32)
    for order, table in enumerate(tables, start=1):
        columns = [table.word]
        for kind, values in enumerate((table.log_prob, table.log_backoff)):
            if bits is None or order == 1:
                codes = values.view(np.uint32)
                columns.append(codes & np.uint32(0x7FFFFFFF) if kind == 0 else codes)
            else:
                codebooks[order, kind], codes = quantise(values, bits, keep_zero=kind == 1)
                columns.append(codes)
        children = np.zeros(len(table) + 1, dtype=np.int64)
        if order < len(tables):
            np.cumsum(np.bincount(tables[order].prefix, minlength=len(table)), out=children[1:])
        columns += [children, table.suffix]
        write_section(data, layout[order], columns)
    return kernel_of(data, layout, codebooks, [len(table) for table in tables])


def kernel_of(data: np.ndarray, layout: np.ndarray, codebooks: np.ndarray, counts: Sequence[int]) -> Kernel:
    """The kernel of packed arrays; `counts` are the n-grams of each order."""
    first_state = state_numbers(counts)
    start_state = int(first_state[1]) + BOS if len(counts) > 1 else 0
    for array in (data, layout, codebooks):
        array.setflags(write=False)  # as mapped files are: compiled code is made for one kind of array
    return Kernel(
        len(counts),
        start_state,
        first_state,
        data,
        layout,
        codebooks,
        is_probing=False,
        hashed=read_only(np.zeros(0, np.uint32)),
        buckets=np.zeros((0, 2), np.int64),
        kenlm_ids=np.zeros(0, np.int32),
        contexts=np.zeros((0, 0), np.int32),
    )


def state_numbers(sizes: Sequence[int]) -> np.ndarray:
    """First states (N + 1,) of each order, of which `sizes` are the numbers of rows; state 0 is the empty context."""
    first_state = np.zeros(len(sizes) + 1, dtype=np.int64)
    first_state[1:] = 1 + np.append(0, np.cumsum(sizes[:-1]))
    return first_state


def read_only(array: np.ndarray) -> np.ndarray:
    array.setflags(write=False)
    return array


def section_layout(counts: Sequence[int], bits: int | None) -> np.ndarray:
    """Where the sections begin and how wide their fields are: (N + 1, 7) int64."""
    order_of_model = len(counts)
    layout = np.zeros((order_of_model + 1, 7), dtype=np.int64)
    base = 0
    for order, count in enumerate(counts, start=1):
        row = layout[order]
        row[BASE] = base
        row[WORD] = width_of(counts[0]) if order > 1 else 0
        row[PROB] = bits if bits and order > 1 else 31
        if order < order_of_model:
            row[BACKOFF] = bits if bits and order > 1 else 32
            row[CHILD] = width_of(counts[order] + 1)
            row[SUFFIX] = width_of(counts[order - 2]) if order > 2 else 0
        row[RECORD] = row[WORD:].sum()
        base += -(-int((count + 1) * row[RECORD]) // SECTION) * SECTION
    return layout


def width_of(size: int) -> int:
    """Bits of the numbers 0 to size - 1, at least 1."""
    return max(1, (size - 1).bit_length())


def quantise(values: np.ndarray, bits: int, *, keep_zero: bool) -> tuple[np.ndarray, np.ndarray]:
    """A codebook (2 ** bits,) of the means of equally filled bins, as in KenLM, and the nearest code of each value.

    Few distinct values are kept as they are. `keep_zero` gives zero a code of its own: a back-off of zero says that
    an n-gram is no context.
    """
    size = 2**bits
    distinct = np.unique(values)
    if len(distinct) > size:
        filled = np.sort(values[values != 0.0] if keep_zero else values)
        bins = np.array_split(filled, size - 1 if keep_zero else size)
        distinct = np.unique(np.array([part.mean() for part in bins if len(part)], dtype=np.float32))
        if keep_zero:
            distinct = np.unique(np.append(distinct, np.float32(0.0)))
    codebook = np.zeros(size, dtype=np.float32)
    codebook[: len(distinct)] = distinct
    right = np.clip(np.searchsorted(distinct, values), 1, max(len(distinct) - 1, 1))
    if len(distinct) == 1:
        return codebook, np.zeros(len(values), dtype=np.uint32)
    nearer_left = values - distinct[right - 1] <= distinct[right] - values
    return codebook, (right - nearer_left).astype(np.uint32)


def write_section(data: np.ndarray, layout: np.ndarray, columns: Sequence[np.ndarray]) -> None:
    """Write the records of one order, and one more that only has the end of the extensions."""
    children = columns[3]
    offset = 0
    for column, name in zip(columns, (WORD, PROB, BACKOFF, CHILD, SUFFIX), strict=True):
        width = int(layout[name])
        if width:
            values = column if column is children else column[: len(children) - 1]
            write_column(data, values.astype(np.uint64), int(layout[BASE]) + offset, int(layout[RECORD]), width)
        offset += width


@njit(cache=True, nogil=True, error_model="numpy")
def write_column(data: np.ndarray, values: np.ndarray, first: int, record: int, width: int) -> None:
    """Set one field of `width` bits in every record; the bits are zero before."""
    offset = first
    for value in values:
        place, shift = offset >> 6, offset & 63
        data[place] |= value << np.uint64(shift)
        if shift + width > 64:
            data[place + 1] |= value >> np.uint64(64 - shift)
        offset += record


@njit(cache=True, nogil=True, error_model="numpy")
def read_column(data: np.ndarray, count: int, first: int, record: int, width: int) -> np.ndarray:
    """One field of every record: (count,) uint64."""
    values = np.empty(count, np.uint64)
    for row in range(count):
        values[row] = read_bits(data, first + row * record, width)
    return values


def unpack(kernel: Kernel, counts: Sequence[int]) -> list[NGramTable]:
    """The tables of a packed model."""
    children: np.ndarray = np.zeros(0, dtype=np.int64)
    words: np.ndarray = np.zeros(0, dtype=np.int64)
    tables: list[NGramTable] = []
    for order, count in enumerate(counts, start=1):
        layout = kernel.layout[order]
        fields: dict[int, Any] = {}
        offset = int(layout[BASE])
        for name in (WORD, PROB, BACKOFF, CHILD, SUFFIX):
            width = int(layout[name])
            size = count + 1 if name == CHILD else count
            fields[name] = read_column(kernel.data, size, offset, int(layout[RECORD]), width) if width else None
            offset += width
        prefix = np.zeros(count, np.int32)
        if order > 1:
            prefix = np.repeat(np.arange(len(children) - 1, dtype=np.int32), np.diff(children))
        word = np.arange(count, dtype=np.int32) if order == 1 else fields[WORD].astype(np.int32)
        log_prob = values_of(fields[PROB], kernel.codebooks[order, 0], 0x80000000, coded=layout[PROB] < 31)
        log_backoff = np.zeros(count, np.float32)
        if fields[BACKOFF] is not None:
            log_backoff = values_of(fields[BACKOFF], kernel.codebooks[order, 1], 0, coded=layout[BACKOFF] < 32)
        if order <= 2:
            suffix = np.zeros(count, np.int32) if order == 1 else word
        elif fields[SUFFIX] is not None:
            suffix = fields[SUFFIX].astype(np.int32)
        else:  # the highest order: the suffix of the prefix, and the word
            suffix = find_rows(children_of(kernel, order - 2, counts), words, tables[-1].suffix[prefix], word)
        tables.append(NGramTable(prefix, word, suffix, log_prob, log_backoff))
        words = word
        if fields[CHILD] is not None:
            children = fields[CHILD].astype(np.int64)
    return tables


def values_of(codes: np.ndarray, codebook: np.ndarray, sign: int, *, coded: bool) -> np.ndarray:
    """Values of codes, or of the bits of float32."""
    if coded:
        return codebook[codes]
    return (codes.astype(np.uint32) | np.uint32(sign)).view(np.float32)


def children_of(kernel: Kernel, order: int, counts: Sequence[int]) -> np.ndarray:
    """First extensions (n + 1,) of the n-grams of an order."""
    layout = kernel.layout[order]
    offset = int(layout[BASE] + layout[WORD] + layout[PROB] + layout[BACKOFF])
    rows = read_column(kernel.data, counts[order - 1] + 1, offset, int(layout[RECORD]), int(layout[CHILD]))
    return rows.astype(np.int64)


@njit(cache=True, nogil=True, error_model="numpy")
def find_rows(children: np.ndarray, words: np.ndarray, rows: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Row of the n-gram `rows[i]` extended by the word `targets[i]`, -1 where there is none; all (n,)."""
    found = np.full(len(rows), -1, np.int32)
    for i in range(len(rows)):
        if rows[i] < 0:
            continue
        low, end = children[rows[i]], children[rows[i] + 1]
        place = low + np.searchsorted(words[low:end], targets[i])
        if place < end and words[place] == targets[i]:
            found[i] = place
    return found
