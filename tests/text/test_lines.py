"""Lines of files as they were written, whatever holds them."""

import gzip
import io
import sys
from pathlib import Path

import numpy as np
import pytest

from hfaudio.text.lines import hold_out, text_lines


def test_files_gzip_and_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt").write_bytes("\ufeffÀ  b\r\n\nc\u2028d\re".encode())
    (tmp_path / "b.gz").write_bytes(gzip.compress(b"zipped\n"))
    (tmp_path / "zipped.txt").write_bytes(gzip.compress(b"by its content\n"))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"piped\ntwice\n")))
    files = [tmp_path / "a.txt", tmp_path / "b.gz", "-", tmp_path / "zipped.txt"]
    expected = ["À b", "", "c d e", "zipped", "piped", "twice", "by its content"]
    assert list(text_lines(files, "none")) == expected
    assert not sys.stdin.buffer.closed


def test_text_is_normalised(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Hello, World! [noise]\n")
    assert list(text_lines([tmp_path / "a.txt"], "basic")) == ["hello world"]


@pytest.mark.parametrize("name", ["a.txt", "a.gz", "-"])
def test_text_that_is_not_utf8_is_refused_where_it_is(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Line 9,001 is far beyond the first block that is read; the line before it still comes."""
    good = "".join(f"café {number}\n" for number in range(1, 9001)).encode()
    content = b"\xef\xbb\xbf" + good + b"\ncaf\xe9 ok\nmore\n"
    (tmp_path / name).write_bytes(gzip.compress(content) if name == "a.gz" else content)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    lines = text_lines(["-" if name == "-" else tmp_path / name], "none")
    with pytest.raises(ValueError, match=r"(a\.txt|a\.gz|standard input), line 9002: the byte 0xe9 is not UTF-8"):
        for number, line in enumerate(lines, start=1):
            assert line == ("" if number == 9001 else f"café {number}")
    assert number > 8000 and not sys.stdin.buffer.closed


def test_the_line_of_a_byte_is_counted_in_every_block(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for _ in range(100):
        rows = [b"x" * int(length) for length in rng.integers(0, 3000, 30)]
        bad = int(rng.integers(30))
        rows[bad] += "é".encode()[:1]  # cut off: the decoder waits for more
        (tmp_path / "a.txt").write_bytes(b"\n".join(rows))
        with pytest.raises(ValueError, match=f"line {bad + 1}: "):
            list(text_lines([tmp_path / "a.txt"], "none"))


def test_mistakes_are_said_before_the_first_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no text file .*nowhere\.txt"):
        text_lines([tmp_path / "nowhere.txt"], "none")
    with pytest.raises(ValueError, match="one of none, basic, english; got 'upper'"):
        text_lines([], "upper")


def test_one_line_in_so_many_is_held_out() -> None:
    held_out: list[str] = []
    assert list(hold_out("abcdefgh", 3, held_out)) == ["a", "b", "d", "e", "g", "h"]
    assert held_out == ["c", "f"]
