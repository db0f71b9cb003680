"""Lines of a dataset, and pieces of a tokenizer."""

import json
from pathlib import Path

import pytest

from hfaudio.data.text import dataset_lines, piece_splitter
from hfaudio.processing import build_char_tokenizer


@pytest.fixture
def folder(tmp_path: Path) -> str:
    rows = [{"sentence": "One.", "n": 1}, {"sentence": "Two\nlines", "n": 2}, {"sentence": None, "n": 3}]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return str(tmp_path)


def test_a_dataset_is_streamed(folder: str) -> None:
    assert list(dataset_lines(folder, "train", "sentence", "basic")) == ["one", "two", "lines", ""]


def test_splits_and_columns_that_are_not_there(folder: str) -> None:
    with pytest.raises(ValueError, match="the splits train, not 'test'; set --split"):
        dataset_lines(folder, "test", "sentence", "basic")
    with pytest.raises(ValueError, match="the columns sentence, n, not 'text'; set --text_column"):
        dataset_lines(folder, "train", "text", "basic")
    with pytest.raises(ValueError, match="the column 'n' holds '1', not text"):
        list(dataset_lines(folder, "train", "n", "basic"))


def test_pieces_of_a_tokenizer(tmp_path: Path) -> None:
    build_char_tokenizer(["ab c"]).save_pretrained(tmp_path)
    assert piece_splitter(str(tmp_path))("ab c") == ["a", "b", "|", "c"]
    with pytest.raises(ValueError, match="no tokenizer"):
        piece_splitter(str(tmp_path / "nowhere"))
