"""KenLM's binaries (format 5) without the kenlm package: probing tables mapped as they are, tries converted."""

import os
import struct
from pathlib import Path

import numpy as np

from hfaudio.ngram.packed import pack, read_only, state_numbers
from hfaudio.ngram.query import Kernel
from hfaudio.ngram.table import BOS, MARKS

FORMAT = b"format version 5\n\0"
PROBING, _REST_COSTS, TRIE, QUANTISED_TRIE, ARRAY_TRIE, QUANTISED_ARRAY_TRIE = range(6)
TRIES = (TRIE, QUANTISED_TRIE, ARRAY_TRIE, QUANTISED_ARRAY_TRIE)
FIXED = struct.Struct("<B3xfiB3xI")  # order, multiplier, model type, has vocabulary, search version; at byte 88


def read_kenlm(path: str | os.PathLike[str]) -> tuple[list[str], Kernel, list[int]]:
    """Words, kernel and n-gram counts of a binary. Probing tables stay in the file; a trie is converted in memory.

    Raises:
        ValueError: another format or model type, a file without its words, or one that is cut off.
    """
    file = Path(path)
    mapped = np.memmap(file, dtype=np.uint8, mode="r")
    if len(mapped) < 256 or FORMAT not in mapped[:88].tobytes():
        raise ValueError(f"{file} has another format than KenLM's version 5; build it again, or use the ARPA file")
    order, multiplier, model_type, has_vocabulary, _ = FIXED.unpack(mapped[88 : 88 + FIXED.size].tobytes())
    if model_type not in (PROBING, *TRIES):
        raise ValueError(
            f"{file} is a KenLM binary of type {model_type}; hfaudio reads type 0 (probing, build_binary's default), "
            "the tries 2 to 5, and ARPA files"
        )
    if not has_vocabulary:
        raise ValueError(f"{file} does not hold its words; build it without -i, or use the ARPA file")
    counts = np.frombuffer(mapped[108 : 108 + 8 * order].tobytes(), dtype="<u8").astype(np.int64).tolist()
    place = -(-(108 + 8 * order) // 8) * 8
    if model_type in TRIES:
        from hfaudio.ngram.kenlm_trie import read_trie  # needs pyarrow, which a mapped model does without

        is_quantised = model_type in (QUANTISED_TRIE, QUANTISED_ARRAY_TRIE)
        is_array = model_type in (ARRAY_TRIE, QUANTISED_ARRAY_TRIE)
        place += 8 + 8 * counts[0]  # the hashes of words are not needed
        trie = read_trie(file, mapped, place, counts, is_quantised=is_quantised, is_array=is_array)
        words, kenlm_ids = words_of(file, mapped, trie.end, counts[0])
        tables = trie.tables(kenlm_ids)
        return words, pack(tables), [len(table) for table in tables]
    place += 8 + 12 * bucket_count(counts[0], multiplier)  # nor here
    buckets = np.zeros((order + 1, 2), dtype=np.int64)
    sizes = []
    for n, count in enumerate(counts, start=1):
        number = count + 1 if n == 1 else bucket_count(count, multiplier)
        buckets[n] = place // 4, number
        sizes.append(number)
        place += number * (8 if n == 1 else 16 if n < order else 12)
    words, kenlm_ids = words_of(file, mapped, place, counts[0])
    first_state = state_numbers(sizes)
    states = int(first_state[-1]) if order > 1 else 1
    kernel = Kernel(
        order=order,
        start_state=int(first_state[1] + kenlm_ids[BOS]) if order > 1 else 0,
        first_state=first_state,
        data=read_only(np.zeros(0, np.uint64)),
        layout=read_only(np.zeros((0, 7), np.int64)),
        codebooks=read_only(np.zeros((0, 2, 0), np.float32)),
        is_probing=True,
        hashed=np.asarray(mapped[: len(mapped) // 4 * 4]).view(np.uint32),
        buckets=buckets,
        kenlm_ids=kenlm_ids,
        contexts=np.zeros((states, max(order - 1, 1)), np.int32),  # pages are made when they are written to
    )
    if order > 1:
        kernel.contexts[kernel.start_state, 0] = kenlm_ids[BOS]
    return words, kernel, counts


def bucket_count(count: int, multiplier: float) -> int:
    """Buckets of a hash table for so many entries."""
    return max(count + 1, int(np.float32(multiplier) * np.float32(count)))


def words_of(file: Path, mapped: np.ndarray, place: int, count: int) -> tuple[list[str], np.ndarray]:
    """The words at the end of the file, in our order, and their ids (W,) in KenLM's.

    A mark that is missing (build_binary -s) is <unk> for KenLM, and so it is here.
    """
    if place > len(mapped):
        raise ValueError(f"{file} is cut off: {len(mapped):,} bytes, more than {place:,} needed; copy it again")
    theirs = mapped[place:].tobytes().decode("utf-8").split("\0")[:-1]
    if len(theirs) not in (count, count + 1):  # <unk> may be among the counted or not
        raise ValueError(f"{file} is cut off: it holds {len(theirs):,} of {count:,} words; copy it again")
    ids = {word: index for index, word in enumerate(theirs)}
    words = [*MARKS, *(word for word in theirs if word not in MARKS)]
    return words, np.array([ids.get(word, 0) for word in words], dtype=np.int32)
