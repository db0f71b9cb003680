"""KenLM's default binaries (probing hash tables, format 5), mapped as they are, without the kenlm package."""

import os
import struct
from pathlib import Path

import numpy as np

from hfaudio.ngram.packed import read_only, state_numbers
from hfaudio.ngram.query import Kernel
from hfaudio.ngram.table import MARKS

FORMAT = b"format version 5\n\0"
PROBING = 0
MODEL_TYPES = ("probing", "probing with rest costs", "trie", "quantised trie", "array trie", "quantised array trie")
FIXED = struct.Struct("<B3xfiB3xI")  # order, multiplier, model type, has vocabulary, search version; at byte 88


def read_kenlm(path: str | os.PathLike[str]) -> tuple[list[str], Kernel, list[int]]:
    """Words, kernel and n-gram counts of a probing binary, whose tables stay in the file.

    Raises:
        ValueError: another format or model type, a file without its words, or one that is cut off.
    """
    file = Path(path)
    mapped = np.memmap(file, dtype=np.uint8, mode="r")
    if len(mapped) < 256 or FORMAT not in mapped[:88].tobytes():
        raise ValueError(f"{file} has another format than KenLM's version 5; build it again, or use the ARPA file")
    order, multiplier, model_type, has_vocabulary, _ = FIXED.unpack(mapped[88 : 88 + FIXED.size].tobytes())
    if model_type != PROBING:
        name = MODEL_TYPES[model_type] if model_type < len(MODEL_TYPES) else f"type {model_type}"
        raise ValueError(
            f"{file} is a KenLM {name} binary; hfaudio reads the probing ones (build_binary's default) and ARPA files"
        )
    if not has_vocabulary:
        raise ValueError(f"{file} does not hold its words; build it without -i, or use the ARPA file")
    counts = np.frombuffer(mapped[108 : 108 + 8 * order].tobytes(), dtype="<u8").astype(np.int64).tolist()
    place = -(-(108 + 8 * order) // 8) * 8
    place += 8 + 12 * bucket_count(counts[0], multiplier)  # the hashes of words are not needed
    buckets = np.zeros((order + 1, 2), dtype=np.int64)
    sizes = []
    for n, count in enumerate(counts, start=1):
        number = count + 1 if n == 1 else bucket_count(count, multiplier)
        buckets[n] = place // 4, number
        sizes.append(number)
        place += number * (8 if n == 1 else 16 if n < order else 12)
    if place > len(mapped):
        raise ValueError(f"{file} is cut off: {len(mapped):,} bytes, more than {place:,} needed; copy it again")
    theirs = mapped[place:].tobytes().decode("utf-8").split("\0")[:-1]
    if len(theirs) not in (counts[0], counts[0] + 1):  # <unk> may be among the counted or not
        raise ValueError(f"{file} is cut off: it holds {len(theirs):,} of {counts[0]:,} words; copy it again")
    ids = {word: index for index, word in enumerate(theirs)}
    words = [*MARKS, *(word for word in theirs if word not in MARKS)]
    kenlm_ids = np.array([ids.get(word, 0) for word in words], dtype=np.int32)
    first_state = state_numbers(sizes)
    states = int(first_state[-1]) if order > 1 else 1
    kernel = Kernel(
        order=order,
        start_state=int(first_state[1]) + ids["<s>"] if order > 1 else 0,
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
        kernel.contexts[kernel.start_state, 0] = ids["<s>"]
    return words, kernel, counts


def bucket_count(count: int, multiplier: float) -> int:
    """Buckets of a hash table for so many entries."""
    return max(count + 1, int(np.float32(multiplier) * np.float32(count)))
