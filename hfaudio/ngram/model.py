"""`NGramLM`: an n-gram language model that is estimated, read, saved, mapped into memory, and asked."""

import json
import math
import os
import shutil
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit

from hfaudio.ngram.packed import kernel_of, pack, unpack
from hfaudio.ngram.query import Kernel, step_with_length
from hfaudio.ngram.table import EOS, SPACE_MARK, UNITS, UNK, NGramTable

FILE_NAME = "lm.ngram"
LM_ENDINGS = (".arpa", ".arpa.gz", ".bin", ".binary", ".klm")  # of files that others write
MAGIC, VERSION = b"hfngram\0", 1
ALIGNMENT = 64  # bytes: sections begin on cache lines
KENLM_MAGIC = b"mmap lm "


@dataclass(frozen=True)
class Perplexity:
    """Perplexity of a text, sentence ends counted as words; `oov` of the `words` were unknown."""

    words: int
    oov: int
    perplexity: float
    perplexity_without_oov: float


@dataclass(frozen=True, eq=False)
class WordBlob:
    """A mapped vocabulary: utf-8 words, parted by NUL."""

    text: np.ndarray  # uint8

    def decode(self) -> list[str]:
        return self.text.tobytes().decode("utf-8").split("\0")


class NGramLM:
    """An n-gram language model of words, characters or word pieces; scores are log10, as kenlm's.

        lm = NGramLM.from_text(["play a waltz", "play a march"], order=3)
        lm.score("play a waltz")
        lm.save("lm")
        lm = NGramLM.load("lm")    # or an ARPA file, or a KenLM binary

    A model of characters writes the space as "▁"; one of word pieces scores texts that are split into pieces already
    ("▁the ▁cat s").
    """

    def __init__(
        self, words: Sequence[str] | WordBlob, kernel: Kernel, counts: Sequence[int], *, unit: str = "word"
    ) -> None:
        if unit not in UNITS:
            raise ValueError(f"the unit of a model is one of {', '.join(UNITS)}, got {unit!r}")
        self._words = words
        self.kernel = kernel
        self.counts = tuple(int(count) for count in counts)
        self.unit = unit
        self._file: Path | None = None

    @classmethod
    def from_tables(
        cls, words: Sequence[str], tables: Sequence[NGramTable], *, unit: str = "word", quantize: int | None = None
    ) -> "NGramLM":
        """A model of tables of order 1 to N; `quantize` is the bits of a probability and of a back-off."""
        return cls(words, pack(tables, bits=quantize), [len(table) for table in tables], unit=unit)

    @classmethod
    def from_text(cls, lines: Iterable[str], order: int = 3, **options: Any) -> "NGramLM":
        """Estimate a model from sentences (`hfaudio.ngram.estimate`)."""
        from hfaudio.ngram.estimate import estimate

        model = estimate(lines, order, **options)
        return cls.from_tables(model.words, model.tables, unit=model.unit)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "NGramLM":
        """Open a folder or file of ours, an ARPA file (plain or gzip) or a KenLM binary, told apart by content."""
        file = model_file(Path(path))
        with file.open("rb") as opened:
            start = opened.read(len(MAGIC))
        if MAGIC.startswith(start):  # or a part of it, or nothing
            return cls._map(file)
        if start == KENLM_MAGIC:
            from hfaudio.ngram.kenlm import read_kenlm

            lm = cls(*read_kenlm(file))
            lm._file = file.resolve()
            return lm
        from hfaudio.ngram.arpa import read_arpa

        return cls.from_tables(*read_arpa(file))

    @property
    def order(self) -> int:
        """The words of its longest n-grams."""
        return len(self.counts)

    @cached_property
    def words(self) -> list[str]:
        """Its vocabulary; ids 0, 1 and 2 are <unk>, <s> and </s>."""
        return self._words.decode() if isinstance(self._words, WordBlob) else list(self._words)

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {word: index for index, word in enumerate(self.words)}

    def word_id(self, word: str) -> int:
        """The id of a word, 0 for one that the model does not know."""
        return self._ids.get(word, UNK)

    def __contains__(self, word: str) -> bool:
        return self._ids.get(word, UNK) != UNK

    def tokens(self, sentence: str) -> list[str]:
        """The units of a sentence that the model scores."""
        if self.unit == "char":
            return list(" ".join(sentence.split()).replace(" ", SPACE_MARK))
        # ASCII white space alone, as in estimating: a no-break space is part of a word there, and in lmplz
        return [word.decode("utf-8", "surrogatepass") for word in sentence.encode("utf-8", "surrogatepass").split()]

    def score(self, sentence: str, bos: bool = True, eos: bool = True) -> float:
        """log10 probability of a sentence; `bos` starts it after <s>, `eos` ends it with </s>."""
        return float(self._score_ids(sentence, bos, eos)[1].sum())

    def full_scores(self, sentence: str, bos: bool = True, eos: bool = True) -> list[tuple[float, int, bool]]:
        """log10 probability, order of the n-gram that was found, and whether it is unknown, of every word and </s>."""
        ids, log_probs, lengths = self._score_ids(sentence, bos, eos)
        columns = (log_probs.tolist(), lengths.tolist(), (ids == UNK).tolist())
        return list(zip(*columns, strict=True))

    def _score_ids(self, sentence: str, bos: bool, eos: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        ids = [self.word_id(token) for token in self.tokens(sentence)]
        array = np.array([*ids, EOS] if eos else ids, dtype=np.int64)
        return array, *score_words(self.kernel, self.kernel.start_state if bos else 0, array)

    def perplexity(self, lines: Iterable[str]) -> Perplexity:
        """Perplexity of sentences, with unknown words scored as <unk> and without them.

        Raises:
            ValueError: there is no line.
        """
        words, oov, total, total_oov = 0, 0, 0.0, 0.0
        for line in lines:
            ids, log_probs, _ = self._score_ids(line, True, True)
            words += len(ids)
            oov += int((ids == UNK).sum())
            total += float(log_probs.sum())
            total_oov += float(log_probs[ids == UNK].sum())
        if not words:
            raise ValueError("there is no sentence to compute a perplexity of; is the file empty?")
        return Perplexity(words, oov, 10 ** (-total / words), 10 ** (-(total - total_oov) / max(words - oov, 1)))

    def tables(self) -> list[NGramTable]:
        """The n-grams of order 1 to N; ValueError for a KenLM binary, whose tables hold hashes only."""
        if self.kernel.is_probing:
            raise ValueError("a KenLM probing binary holds hashes of n-grams, not n-grams; use the ARPA file")
        return unpack(self.kernel, self.counts)

    def save(self, path: str | os.PathLike[str], *, quantize: int | None = None) -> Path:
        """Write `lm.ngram` into a folder, or a file that ends in `.ngram`, `.arpa` or `.arpa.gz`; returns the file.

        `quantize` is the bits of a probability and of a back-off, 8 as usual; None keeps float32. A KenLM probing
        binary that is to become `lm.ngram` is copied as `lm.bin` beside that name.
        """
        file = Path(path)
        if self.kernel.is_probing and self._file is not None and file.name == FILE_NAME and quantize is None:
            file = file.with_name("lm.bin")  # hashes cannot be written in our format, but the file can travel
            file.parent.mkdir(parents=True, exist_ok=True)
            if file.resolve() != self._file:
                shutil.copyfile(self._file, file)
            return file
        if file.name.endswith((".arpa", ".arpa.gz")):
            from hfaudio.ngram.arpa import write_arpa

            write_arpa(file, self.words, self.tables())
            return file
        if file.suffix != ".ngram":
            file = file / FILE_NAME
        file.parent.mkdir(parents=True, exist_ok=True)
        tables = self.tables() if quantize is not None or self.kernel.is_probing else []
        kernel = pack(tables, bits=quantize) if tables else self.kernel
        text = "\0".join(self.words).encode("utf-8")
        sections = {
            "data": kernel.data,
            "layout": kernel.layout,
            "codebooks": kernel.codebooks,
            "words": np.frombuffer(text, dtype=np.uint8),
        }
        header: dict[str, Any] = {"unit": self.unit, "counts": self.counts, "sections": {}}
        size = 0
        for name, array in sections.items():
            header["sections"][name] = {"offset": size, "dtype": array.dtype.str, "shape": array.shape}
            size += -(-array.nbytes // ALIGNMENT) * ALIGNMENT
        encoded = json.dumps(header).encode("utf-8")
        prefix = MAGIC + struct.pack("<II", VERSION, len(encoded)) + encoded
        partial = file.with_name(f"{file.name}.partial")
        with partial.open("wb") as opened:  # a reader never sees half a file
            opened.write(prefix.ljust(-(-len(prefix) // ALIGNMENT) * ALIGNMENT, b"\0"))
            for array in sections.values():
                opened.write(array.tobytes())
                opened.write(b"\0" * (-array.nbytes % ALIGNMENT))
        os.replace(partial, file)
        return file

    @classmethod
    def _map(cls, file: Path) -> "NGramLM":
        """Map a file of ours: pages are read when they are asked for, and shared by processes."""
        with file.open("rb") as opened:
            start = opened.read(len(MAGIC) + 8)
            if len(start) < len(MAGIC) + 8:
                raise ValueError(f"{file} is cut off within its header; copy it again")
            version, length = struct.unpack("<II", start[len(MAGIC) :])
            if version > VERSION:
                raise ValueError(f"{file} has format {version}, this hfaudio reads up to {VERSION}; update hfaudio")
            encoded = opened.read(length)
            if len(encoded) < length:
                raise ValueError(f"{file} is cut off within its header; copy it again")
            header = json.loads(encoded)
        first_section = -(-(len(MAGIC) + 8 + length) // ALIGNMENT) * ALIGNMENT
        mapped = np.memmap(file, dtype=np.uint8, mode="r")
        arrays = {}
        for name, section in header["sections"].items():
            dtype, shape = np.dtype(section["dtype"]), tuple(section["shape"])
            first = first_section + section["offset"]
            size = dtype.itemsize * math.prod(shape)
            if first + size > len(mapped):
                raise ValueError(f"{file} is cut off: {len(mapped):,} bytes, {first + size:,} needed; copy it again")
            arrays[name] = np.asarray(mapped[first : first + size]).view(dtype).reshape(shape)
        kernel = kernel_of(arrays["data"], arrays["layout"], arrays["codebooks"], header["counts"])
        lm = cls(WordBlob(arrays["words"]), kernel, header["counts"], unit=header["unit"])
        lm._file = file.resolve()
        return lm

    def __reduce__(self) -> Any:
        """A mapped model travels between processes as its path."""
        if self._file is not None:
            return NGramLM.load, (self._file,)
        return rebuild, (self.words, self.kernel, self.counts, self.unit)


def rebuild(words: list[str], kernel: Kernel, counts: tuple[int, ...], unit: str) -> NGramLM:
    return NGramLM(words, kernel, counts, unit=unit)


def model_file(path: Path) -> Path:
    """The one model file at a path or in a folder; ValueError if there is none, or several."""
    if path.is_file():
        return path
    if not path.is_dir():
        raise ValueError(f"there is no language model {path}; give a folder, an ARPA file or a KenLM binary")
    if (path / FILE_NAME).exists():
        return path / FILE_NAME
    files = sorted(file for file in path.iterdir() if file.name.endswith(LM_ENDINGS))
    if len(files) != 1:
        names = ", ".join(file.name for file in files) or "none"
        raise ValueError(f"{path} must hold {FILE_NAME} or one ARPA or KenLM file, found {names}; give the file")
    return files[0]


@njit(cache=True, nogil=True, error_model="numpy")
def score_words(kernel: Kernel, state: int, words: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """log10 probabilities (n,) of words in a row, and the orders of the n-grams that were found."""
    log_probs, lengths = np.empty(len(words)), np.empty(len(words), np.int64)
    for index in range(len(words)):
        log_probs[index], state, lengths[index] = step_with_length(kernel, state, words[index])
    return log_probs, lengths
