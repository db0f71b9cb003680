"""Arrays of the size of a corpus: in memory, or in files of a temporary folder that the system may page out."""

import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

BYTES_A_ROW = 64  # what sorting and merging need at once for a word of the text, or an n-gram


class Scratch:
    """Makes arrays, and says how much of them to work on at once.

    With a budget of bytes, arrays are files, and pieces of them that are worked on keep below it; without one, arrays
    are in memory and in one piece. What lies on disk goes when the block ends.
    """

    def __init__(self, memory: int | None, folder: str | os.PathLike[str] | None = None) -> None:
        if memory is not None and memory < 1 << 20:
            raise ValueError(f"the memory to estimate a model in is at least 1 MiB, got {memory:,} bytes")
        self.rows = memory // BYTES_A_ROW if memory else None
        self._folder = tempfile.TemporaryDirectory(prefix="hfaudio-", dir=folder) if memory else None
        self._files = 0

    def __enter__(self) -> "Scratch":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._folder:
            self._folder.cleanup()

    def _new_file(self) -> Path:
        assert self._folder
        self._files += 1
        return Path(self._folder.name, str(self._files))

    def empty(self, size: int, dtype: Any) -> np.ndarray:
        """An array (size,) of any content."""
        if self._folder is None or size == 0:
            return np.empty(size, dtype)
        return np.memmap(self._new_file(), dtype, mode="w+", shape=(size,))

    def joined(self, parts: Iterable[np.ndarray], dtype: Any) -> np.ndarray:
        """One array of parts that come one by one."""
        if self._folder is None:
            return np.concatenate([np.zeros(0, dtype), *parts])
        file = self._new_file()
        with file.open("wb") as opened:
            for part in parts:
                opened.write(np.ascontiguousarray(part, dtype).data)
        return np.memmap(file, dtype, mode="r+") if file.stat().st_size else np.zeros(0, dtype)

    def kept(self, array: np.ndarray) -> np.ndarray:
        """The array, out of memory if there is a budget."""
        return array if self._folder is None else self.joined([array], array.dtype)

    def pieces(self, size: int) -> Iterator[slice]:
        """The pieces in which `size` rows are worked on."""
        step = self.rows or max(size, 1)
        return (slice(first, min(first + step, size)) for first in range(0, size, step))
