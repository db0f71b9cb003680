"""Sentences from text files or standard input, one at a time; nothing is kept in memory."""

import gzip
import io
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, cast

from tqdm import tqdm

from hfaudio.text.normalize import NORMALIZERS, normalize

GZIP_MAGIC = b"\x1f\x8b"
MAX_HELD_OUT = 20_000  # lines; a perplexity of 200,000 words is sure to about one per cent


def text_lines(files: Sequence[str | Path], normalizer: str) -> Iterator[str]:
    """The lines of text files (plain or gzip, "-" for standard input), normalised; a bar counts them.

    Of the characters that end lines for Python, only "\\n" does.

    Raises:
        ValueError: an unknown normaliser, or a file that is not there, before the first line; text that is not UTF-8,
            where it comes.
    """
    if normalizer not in NORMALIZERS:
        raise ValueError(f"the normalizer is one of {', '.join(NORMALIZERS)}; got {normalizer!r}")
    if missing := [str(file) for file in files if str(file) != "-" and not Path(file).is_file()]:
        raise ValueError(f"there is no text file {', '.join(missing)}; check the path")
    lines = (line for file in files for line in file_lines(file))
    return normalized_lines(lines, normalizer)


def file_lines(file: str | Path) -> Iterator[str]:
    """Lines of one file, with their "\\n"."""
    if str(file) == "-":
        yield from decoded(sys.stdin.buffer, "standard input")
        return
    with open(file, "rb") as opened:
        is_gzip = opened.read(2) == GZIP_MAGIC
        opened.seek(0)
        if not is_gzip:
            yield from decoded(opened, str(file))
            return
        with gzip.open(opened) as unpacked:
            yield from decoded(cast(BinaryIO, unpacked), str(file))


def decoded(file: BinaryIO, name: str) -> Iterator[str]:
    """Lines of UTF-8. Of another encoding they would make words that no recogniser can write, so it is an error."""
    text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="\n")
    number = 1
    try:
        for line in text:
            yield line
            number += 1
    except UnicodeDecodeError as error:
        # of the block of the file that could not be decoded; all lines that end before it have come already
        number += error.object.count(b"\n", 0, error.start)
        raise ValueError(
            f"{name}, line {number}: the byte 0x{error.object[error.start]:02x} is not UTF-8; convert the text, as by "
            "iconv -f WINDOWS-1252 -t UTF-8, or drop such bytes by iconv -c -f UTF-8 -t UTF-8"
        ) from error
    finally:
        text.detach()  # the file is closed by whom it was opened


def normalized_lines(lines: Iterable[str], normalizer: str) -> Iterator[str]:
    """The lines, normalised; a bar on a terminal counts them."""
    for line in tqdm(lines, unit=" lines", unit_scale=True, disable=None):
        yield normalize(line, normalizer)


def hold_out(lines: Iterable[str], every: int, held_out: list[str]) -> Iterator[str]:
    """The lines without each `every`-th one, which goes to `held_out`, at most MAX_HELD_OUT of them."""
    for number, line in enumerate(lines, start=1):
        if number % every == 0 and len(held_out) < MAX_HELD_OUT:
            held_out.append(line)
        else:
            yield line
