"""Sentences from a text dataset, and word pieces from a tokenizer, for n-gram language models."""

from collections.abc import Callable, Iterator

from datasets import IterableDataset, IterableDatasetDict, load_dataset
from transformers import AutoTokenizer

from hfaudio.text.lines import normalized_lines
from hfaudio.text.normalize import NORMALIZERS


def dataset_lines(
    dataset: str, split: str, text_column: str, normalizer: str, *, config: str | None = None
) -> Iterator[str]:
    """The lines of a text column, streamed from the Hub or a local folder, normalised; a bar counts them.

    Raises:
        ValueError: no such dataset, split, or column of text.
    """
    if normalizer not in NORMALIZERS:
        raise ValueError(f"the normalizer is one of {', '.join(NORMALIZERS)}; got {normalizer!r}")
    try:
        splits = load_dataset(dataset, config, streaming=True)
    except FileNotFoundError as error:
        raise ValueError(f"there is no dataset {dataset!r}: {error}; give a folder or an id on the Hub") from error
    assert isinstance(splits, IterableDatasetDict)
    if split not in splits:
        raise ValueError(
            f"the dataset {dataset} has the splits {', '.join(map(str, splits))}, not {split!r}; set --split"
        )
    rows = splits[split]
    columns = rows.column_names or list(next(iter(rows)))
    if text_column not in columns:
        raise ValueError(
            f"the dataset {dataset} has the columns {', '.join(columns)}, not {text_column!r}; set --text_column"
        )
    return normalized_lines(column_lines(rows, text_column), normalizer)


def column_lines(rows: IterableDataset, column: str) -> Iterator[str]:
    for row in rows.select_columns(column):
        text = row[column] or ""
        if not isinstance(text, str):
            raise ValueError(f"the column {column!r} holds {str(text)[:40]!r}, not text; set --text_column")
        yield from text.split("\n")


def piece_splitter(tokenizer: str) -> Callable[[str], list[str]]:
    """A function from a sentence to its word pieces, by the tokenizer in a folder or on the Hub."""
    try:
        return AutoTokenizer.from_pretrained(tokenizer).tokenize
    except OSError as error:
        raise ValueError(f"there is no tokenizer {tokenizer!r}; give a folder or an id on the Hub") from error
