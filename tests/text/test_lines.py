"""Lines of files as they were written, whatever holds them."""

import gzip
import io
import sys
from pathlib import Path

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


def test_broken_utf8_is_kept(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"caf\xe9 ok\n")
    (line,) = text_lines([tmp_path / "a.txt"], "none")
    assert line.encode("utf-8", "surrogateescape") == b"caf\xe9 ok"


def test_mistakes_are_said_before_the_first_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no text file .*nowhere\.txt"):
        text_lines([tmp_path / "nowhere.txt"], "none")
    with pytest.raises(ValueError, match="one of none, basic, english; got 'upper'"):
        text_lines([], "upper")


def test_one_line_in_so_many_is_held_out() -> None:
    held_out: list[str] = []
    assert list(hold_out("abcdefgh", 3, held_out)) == ["a", "b", "d", "e", "g", "h"]
    assert held_out == ["c", "f"]
