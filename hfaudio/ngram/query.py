"""Next-word probabilities of a packed n-gram model, for compiled code. log10 throughout.

Orders are sections of bit-packed records, sorted by (prefix, word), so that what extends an n-gram lies side by side:

    order 1         [probability, back-off, first extension]                      row = word id
    2 .. N - 1      [word, probability, back-off, first extension, suffix row]    no suffix at order 2: it is the word
    N               [word, probability]

A state is the longest suffix of the words so far that matters: one with extensions or a back-off. 0 is the empty
context, then come the rows of order 1, 2, ... So equal futures have equal states.

KenLM's probing binaries (Heafield 2011, format 5) are asked as they lie in the file: hash tables of n-grams, keyed
from the last word leftwards. A state is a place in these tables, and `contexts` remembers the words that led to it.
"""

from typing import NamedTuple

import numpy as np

from hfaudio.ngram.compiled import compiled

# Columns of `layout`: the first bit of a section, the bits of a record, and of its fields in their order.
BASE, RECORD, WORD, PROB, BACKOFF, CHILD, SUFFIX = range(7)


class Kernel(NamedTuple):
    """Arrays of a model, of the same types for every model."""

    order: int
    start_state: int  # after <s>
    first_state: np.ndarray  # (N + 1,) int64: row i of order k is the state first_state[k] + i; first_state[0] = 0
    data: np.ndarray  # uint64: the records
    layout: np.ndarray  # (N + 1, 7) int64, row k for order k
    codebooks: np.ndarray  # (N + 1, 2, 2 ** bits) float32: values of the codes, if quantised
    # Of KenLM's probing binaries, empty for others:
    is_probing: bool
    hashed: np.ndarray  # uint32: the file
    buckets: np.ndarray  # (N + 1, 2) int64: where the entries of an order begin in `hashed`, and how many there are
    kenlm_ids: np.ndarray  # (W,) int32: KenLM's ids of the words
    contexts: np.ndarray  # (states, N - 1) int32: KenLM's ids of the words of a state, last word first


@compiled
def read_bits(data: np.ndarray, offset: int, width: int) -> np.uint64:
    """An unsigned number of `width` (at most 63) bits that begins at a bit."""
    place, shift = offset >> 6, np.uint64(offset & 63)
    value = data[place] >> shift
    if (offset & 63) + width > 64:
        value |= data[place + 1] << (np.uint64(64) - shift)
    return value & ((np.uint64(1) << np.uint64(width)) - np.uint64(1))


@compiled
def as_float(bits: np.uint64) -> np.float32:
    """The float32 with these bits."""
    return np.uint32(bits).view(np.float32)


@compiled
def probability(kernel: Kernel, order: int, row: int) -> float:
    """log10 p of an n-gram; its sign, always negative, is not stored."""
    layout = kernel.layout[order]
    width = layout[PROB]
    bits = read_bits(kernel.data, layout[BASE] + row * layout[RECORD] + layout[WORD], width)
    if width < 31:
        return kernel.codebooks[order, 0, bits]
    return -as_float(bits)


@compiled
def backoff(kernel: Kernel, order: int, row: int) -> float:
    """log10 back-off weight of an n-gram below the highest order."""
    layout = kernel.layout[order]
    width = layout[BACKOFF]
    bits = read_bits(kernel.data, layout[BASE] + row * layout[RECORD] + layout[WORD] + layout[PROB], width)
    if width < 32:
        return kernel.codebooks[order, 1, bits]
    return as_float(bits)


@compiled
def first_child(kernel: Kernel, order: int, row: int) -> int:
    """The first row of order + 1 that extends an n-gram; the one after its last is that of the next row."""
    layout = kernel.layout[order]
    offset = layout[BASE] + row * layout[RECORD] + layout[WORD] + layout[PROB] + layout[BACKOFF]
    return np.int64(read_bits(kernel.data, offset, layout[CHILD]))


@compiled
def suffix(kernel: Kernel, order: int, row: int) -> int:
    """The row of order - 1 of an n-gram of order 2 to N - 1 without its first word."""
    layout = kernel.layout[order]
    offset = layout[BASE] + row * layout[RECORD]
    if order == 2:
        return np.int64(read_bits(kernel.data, offset, layout[WORD]))
    offset += layout[WORD] + layout[PROB] + layout[BACKOFF] + layout[CHILD]
    return np.int64(read_bits(kernel.data, offset, layout[SUFFIX]))


@compiled
def extension(kernel: Kernel, order: int, row: int, word: int) -> int:
    """The row of order + 1 of an n-gram and one more word, -1 if there is none."""
    low, end = first_child(kernel, order, row), first_child(kernel, order, row + 1)
    layout = kernel.layout[order + 1]
    base, record, width = layout[BASE], layout[RECORD], layout[WORD]
    high = end
    while low < high:
        middle = (low + high) >> 1
        if np.int64(read_bits(kernel.data, base + middle * record, width)) < word:
            low = middle + 1
        else:
            high = middle
    if low < end and np.int64(read_bits(kernel.data, base + low * record, width)) == word:
        return low
    return -1


@compiled
def minimal_state(kernel: Kernel, order: int, row: int) -> int:
    """The state of an n-gram below the highest order: of its longest suffix that matters, 0 if none does."""
    while order > 0:
        has_extensions = first_child(kernel, order, row) < first_child(kernel, order, row + 1)
        if has_extensions or backoff(kernel, order, row) != 0.0:
            return kernel.first_state[order] + row
        row = suffix(kernel, order, row) if order > 1 else 0
        order -= 1
    return 0


KEY_FACTOR, WORD_FACTOR = np.uint64(8978948897894561157), np.uint64(17894857484156487943)
NO_EXTENSION = np.uint32(0x80000000)  # the bits of -0.0: a back-off that says that nothing extends the n-gram


@compiled
def longer_key(key: np.uint64, word: int) -> np.uint64:
    """KenLM's key of an n-gram with one more word to its left."""
    return (key * KEY_FACTOR) ^ (np.uint64(word + 1) * WORD_FACTOR)


@compiled
def bucket_of(kernel: Kernel, order: int, key: np.uint64) -> int:
    """The bucket of an n-gram of order 2 to N by its key, -1 if it is not there."""
    first, count = kernel.buckets[order]
    size = 4 if order < kernel.order else 3  # uint32 of an entry: key, probability, back-off
    bucket = np.int64(key % np.uint64(count))
    low, high = np.uint32(key & np.uint64(0xFFFFFFFF)), np.uint32(key >> np.uint64(32))
    while True:
        place = first + bucket * size
        if kernel.hashed[place] == low and kernel.hashed[place + 1] == high:
            return bucket
        if kernel.hashed[place] == 0 and kernel.hashed[place + 1] == 0:
            return -1
        bucket += 1
        if bucket == count:
            bucket = 0


@compiled
def probing_backoff(kernel: Kernel, order: int, bucket: int) -> np.uint32:
    """The bits of a back-off; order 1 is an array over word ids."""
    if order == 1:
        return kernel.hashed[kernel.buckets[1, 0] + 2 * bucket + 1]
    return kernel.hashed[kernel.buckets[order, 0] + 4 * bucket + 3]


@compiled
def probing_step(kernel: Kernel, state: int, word: int) -> tuple[float, int, int]:
    """`step_with_length` in KenLM's hash tables. The sign of a probability is a flag of theirs."""
    known = 0  # order of the context
    while known + 1 < kernel.order and state >= kernel.first_state[known + 1]:
        known += 1
    context = kernel.contexts[state]
    last = kernel.kenlm_ids[word]
    log_prob = -abs(as_float(np.uint64(kernel.hashed[kernel.buckets[1, 0] + 2 * last])))
    length, next_state = 1, np.int64(0)
    if kernel.order > 1 and probing_backoff(kernel, 1, last) != NO_EXTENSION:
        next_state = kernel.first_state[1] + last
        kernel.contexts[next_state, 0] = last
    key = np.uint64(last)
    while length <= known:
        key = longer_key(key, context[length - 1])
        bucket = bucket_of(kernel, length + 1, key)
        if bucket < 0:
            break
        length += 1
        size = 4 if length < kernel.order else 3
        place = kernel.buckets[length, 0] + bucket * size + 2
        log_prob = -abs(as_float(np.uint64(kernel.hashed[place])))
        if length < kernel.order and kernel.hashed[place + 1] != NO_EXTENSION:
            next_state = kernel.first_state[length] + bucket
            # threads may write here at once: it is the same words that they write
            kernel.contexts[next_state, 0] = last
            for index in range(1, length):
                kernel.contexts[next_state, index] = context[index - 1]
    key = np.uint64(0)
    for order in range(1, known + 1):  # back-offs of the contexts that are longer than what was found
        key = longer_key(key, context[order - 1]) if order > 1 else np.uint64(context[0])
        if order >= length:
            bucket = bucket_of(kernel, order, key) if order > 1 else np.int64(context[0])
            log_prob += as_float(np.uint64(probing_backoff(kernel, order, bucket)))
    return log_prob, next_state, length


@compiled
def step_with_length(kernel: Kernel, state: int, word: int) -> tuple[float, int, int]:
    """log10 p(word | state), the state after the word, and the order of the n-gram that was found."""
    if kernel.is_probing:
        return probing_step(kernel, state, word)
    order = 0
    while order + 1 < kernel.order and state >= kernel.first_state[order + 1]:
        order += 1
    row = state - kernel.first_state[order]
    weight = 0.0
    while order > 0:
        found = extension(kernel, order, row, word)
        if found >= 0:
            break
        weight += backoff(kernel, order, row)
        row = suffix(kernel, order, row) if order > 1 else 0
        order -= 1
    else:
        found = word
    length = order + 1
    log_prob = weight + probability(kernel, length, found)
    if length < kernel.order:
        return log_prob, minimal_state(kernel, length, found), length
    if order == 0:  # a model of order 1 has no contexts
        return log_prob, 0, length
    # The highest order stores no suffix; the context's suffix and the word are one order lower.
    shorter = extension(kernel, order - 1, suffix(kernel, order, row), word) if order > 1 else word
    return log_prob, minimal_state(kernel, order, shorter), length


@compiled
def step(kernel: Kernel, state: int, word: int) -> tuple[float, int]:
    """log10 p(word | state) and the state after the word."""
    # int64, so that the search below is compiled once for whatever integers come
    log_prob, next_state, _ = step_with_length(kernel, np.int64(state), np.int64(word))
    return log_prob, next_state
