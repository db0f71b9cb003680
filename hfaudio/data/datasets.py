"""Speech datasets as rows `{"audio": {"bytes", "path"}, "text", "speaker", "id"}`, wherever they lie.

Audio stays encoded in every row; `RowCheck.decode` is the one place where a row becomes samples. What cannot
be used is skipped with a reason (`REASONS`) and counted: by `check_rows` before training for map-style data
(`SkipCounts`), row by row for streams (`hfaudio.data.stream`).
"""

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Audio, Dataset, Features, IterableDataset, Value, concatenate_datasets, load_dataset
from datasets.distributed import split_dataset_by_node
from huggingface_hub import DatasetCard

from hfaudio.audio.io import AudioError, audio_info, load_audio, stream_audio
from hfaudio.data.bundled import path as bundled_path
from hfaudio.text.normalize import NORMALIZERS, normalize

AUDIO_REASONS = ("corrupt", "empty", "not finite", "unsupported", "missing")  # AudioError.reason
REASONS = (
    *AUDIO_REASONS,
    "too short",
    "too long",
    "empty transcript",
    "label longer than its frames",
    "transcript longer than the decoder",
)

BUNDLED = {"bundled": "speech", "bundled_music": "music"}  # values of --dataset

NO_AUDIO: dict[str, Any] = {"bytes": None, "path": None}  # what a null in the audio column stands for

# The words datasets itself looks for in file names (datasets.data_files.SPLIT_KEYWORDS).
SPLIT_OF_WORD = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}

# What datasets 5.2 raises for a dataset that does not exist (FileNotFoundError, also on the Hub) or cannot be reached,
# a configuration that is not named, and files that are damaged or hold no row (StopIteration: an empty .jsonl).
UNREADABLE = (ValueError, FileNotFoundError, ConnectionError, StopIteration, datasets.exceptions.DatasetsError)

# Shards of a list of local files that is streamed: divides evenly over 2, 4, ... 64 readers (ranks x workers).
PATH_STREAM_SHARDS = 64


@dataclass
class DataArguments:
    """Which recordings and transcripts to use, and which of them to leave out."""

    dataset: str = field(
        default="bundled",
        metadata={
            "help": "'bundled' (spoken music prompts), 'bundled_music', a Hub id, a local folder (audiofolder with "
            "metadata.csv or .jsonl, parquet, webdataset, csv or jsonl manifests), or one such file."
        },
    )
    dataset_config: str | None = field(
        default=None, metadata={"help": "Configuration of the dataset, for example its language, if it has several."}
    )
    train_split: str = field(
        default="train", metadata={"help": "Training split; parts such as 'train[:90%]' unless streamed."}
    )
    eval_split: str = field(default="validation", metadata={"help": "Split to validate and to choose settings on."})
    test_split: str | None = field(
        default=None, metadata={"help": "Split for the final score. If not given: 'test', where the dataset has it."}
    )
    audio_column: str = field(default="audio", metadata={"help": "Column of the recordings: audio, bytes or paths."})
    text_column: str = field(default="text", metadata={"help": "Column of the transcripts."})
    speaker_column: str | None = field(
        default=None, metadata={"help": "Column naming the speaker. If not given: 'speaker', where there is one."}
    )
    id_column: str | None = field(
        default=None,
        metadata={"help": "Column naming the row. If not given: 'id', where there is one, else one is made."},
    )
    duration_column: str | None = field(
        default=None,
        metadata={"help": "Column of the recordings' seconds, for streams. If not given: read from their headers."},
    )
    language_column: str | None = field(
        default=None, metadata={"help": "Column naming the language of each row, for several languages in one run."}
    )
    segments_column: str | None = field(
        default=None, metadata={"help": "Column with a list of {start, end, text}, in seconds, to learn timestamps."}
    )
    previous_text_column: str | None = field(
        default=None, metadata={"help": "Column with what was said before the recording, to learn prompts."}
    )
    fact_columns: list[str] | None = field(
        default=None, metadata={"help": "Columns with facts that captions should name (instrument, tempo, key)."}
    )
    language: str | None = field(default=None, metadata={"help": "Language of the transcripts, such as 'en' or 'hi'."})
    normalizer: str = field(
        default="basic", metadata={"help": f"How transcripts are written: one of {', '.join(NORMALIZERS)}."}
    )
    min_seconds: float = field(default=0.1, metadata={"help": "Shorter recordings are skipped and counted."})
    max_seconds: float = field(default=20.0, metadata={"help": "Longer recordings are skipped and counted."})
    streaming: bool = field(
        default=False, metadata={"help": "Read the training split as a stream instead of preparing it on disk first."}
    )
    shuffle_buffer: int = field(
        default=1000, metadata={"help": "Rows of a stream that each process shuffles together, still encoded."}
    )
    max_broken_share: float = field(
        default=0.05, metadata={"help": "A stream stops if a larger share of its rows holds no readable audio."}
    )
    max_train_examples: int | None = field(default=None, metadata={"help": "Use only the first rows for training."})
    max_eval_examples: int | None = field(
        default=None, metadata={"help": "Use only the first rows of the validation and of the test split."}
    )
    keep_seconds: float = field(
        default=7200.0,
        metadata={"help": "Keep the training audio decoded in memory (230 MB an hour) if it is no longer than this."},
    )
    num_proc: int | None = field(default=None, metadata={"help": "Processes that prepare and check map-style data."})

    def __post_init__(self) -> None:
        if self.normalizer not in NORMALIZERS:
            raise ValueError(f"--normalizer must be one of {', '.join(NORMALIZERS)}; got {self.normalizer!r}")
        if not 0 <= self.min_seconds < self.max_seconds:
            raise ValueError(
                "--min_seconds must be at least 0 and below --max_seconds; "
                f"got {self.min_seconds:g} and {self.max_seconds:g}"
            )
        for option, value in (
            ("--max_train_examples", self.max_train_examples),
            ("--max_eval_examples", self.max_eval_examples),
            ("--num_proc", self.num_proc),
            ("--shuffle_buffer", self.shuffle_buffer),
        ):
            if value is not None and value < 1:
                raise ValueError(f"{option} must be at least 1; got {value}")
        if not 0 <= self.max_broken_share <= 1:
            raise ValueError(f"--max_broken_share must be a share from 0 to 1; got {self.max_broken_share:g}")
        roles = (self.audio_column, self.text_column, *self.optional_columns.values(), self.duration_column)
        named = [column for column in (*roles, *(self.fact_columns or [])) if column is not None]
        if len(set(named)) < len(named):
            raise ValueError(f"each column can have one role; got {', '.join(named)}")

    @property
    def dataset_id(self) -> str | None:
        """The dataset's id on the Hub; None of a folder, a file, and what is bundled."""
        is_here = self.dataset in BUNDLED or Path(self.dataset).expanduser().exists()
        return None if is_here else self.dataset

    @property
    def optional_columns(self) -> dict[str, str | None]:
        """The column that was named for each standard name which not every dataset has."""
        return {
            "speaker": self.speaker_column,
            "id": self.id_column,
            "language": self.language_column,
            "segments": self.segments_column,
            "previous_text": self.previous_text_column,
        }


def load_splits(arguments: DataArguments, *, labelled: bool = True) -> dict[str, Dataset | IterableDataset]:
    """The rows to train, validate and (if there are any) test on, under "train", "validation" and "test".

    With `labelled=False` the rows need no transcripts and have no column `text`.

    Only the training split is ever a stream: a streamed evaluation on two processes counts rows wrong
    (datasets 5.2 with accelerate 1.15), so the others are read into memory, still encoded; bound them with
    `max_eval_examples`. "test" is left out if no `test_split` was named and the dataset has no split "test".
    """
    opened = _open(arguments)
    names = {"train": arguments.train_split, "validation": arguments.eval_split}
    if arguments.test_split is not None or "test" in opened.splits:
        names["test"] = arguments.test_split or "test"
    rows = {
        name: _first(
            _standard_split(arguments, opened, split, labelled=labelled),
            arguments.max_train_examples if name == "train" else arguments.max_eval_examples,
        )
        for name, split in names.items()
    }
    return {
        name: _as_stream(part) if name == "train" and arguments.streaming else _in_memory(part)
        for name, part in rows.items()
    }


def load_split(arguments: DataArguments, split: str, *, labelled: bool = True) -> Dataset | IterableDataset:
    """The rows of one split with the columns `audio`, `text`, `id` and, if known, `speaker`; others are dropped.

    With `labelled=False` the rows need no transcripts and have no column `text`.

    `audio` is `{"bytes", "path"}` as stored, never decoded; the last three are strings. Without an id column the
    id is the row's number, or in a true stream a hash of the encoded audio: the same for every number of workers,
    ranks and whatever the shuffling (two copies of one recording share it). Streams of the Hub, of parquet and of
    webdataset are read as they come; local lists of files (audiofolder, manifests) are small and read whole, so
    split parts and row numbers work for them even with `streaming`.

    Raises ValueError, naming what exists and the option to set, for a dataset, split or column that does not
    exist, an empty split, and columns that do not hold audio or text.
    """
    rows = _standard_split(arguments, _open(arguments), split, labelled=labelled)
    return _as_stream(rows) if arguments.streaming else rows


def own_rows(rows: Dataset | IterableDataset, rank: int, ranks: int) -> Dataset | IterableDataset:
    """The rows of one of several processes, in their order: whole shards of a stream where these divide evenly."""
    return split_dataset_by_node(rows, rank, ranks) if ranks > 1 else rows


def load_each_split(
    arguments: DataArguments, splits: Sequence[str] | None = None
) -> dict[str, Dataset | IterableDataset]:
    """The rows of several splits, or of all, as they are stored: with `streaming` streams, else tables."""
    opened = _open(arguments)
    return {name: _standard_split(arguments, opened, name) for name in splits or opened.splits}


def training_texts(arguments: DataArguments, rows: Dataset | IterableDataset, limit: int) -> list[str]:
    """Normalised transcripts of the training rows, for a vocabulary; of a stream the first `limit` ones.

    Of parquet, here or on the Hub, only the column of the transcripts is read, not the audio beside it.
    """
    if isinstance(rows, Dataset):
        return [normalize(text or "", arguments.normalizer) for text in rows["text"]]
    try:
        stream = _open(arguments, columns=[arguments.text_column]).splits[arguments.train_split]
    except (ValueError, TypeError):  # a format that has no such option
        stream = rows.select_columns("text")
    first = islice(stream, min(limit, arguments.max_train_examples or limit))
    return [normalize(text or "", arguments.normalizer) for row in first for text in row.values()]


# ---------------------------------------------------------------------------------------------------------------
# Where the rows are


@dataclass(frozen=True)
class Source:
    """Arguments of `load_dataset`, and the folder that relative paths start from (None on the Hub)."""

    path: str
    options: dict[str, Any]
    folder: Path | None = None

    @property
    def lists_files(self) -> bool:
        """Whether the dataset is a list of local audio files, cheap to read whole."""
        return self.path in ("audiofolder", "csv", "json")


def locate(arguments: DataArguments) -> Source:
    """The builder and files behind `--dataset`.

    A local folder is the first of these that fits:

    1. `README.md` with `configs:` in its header: as it says (a copy of a Hub repository);
    2. `metadata.csv`, `metadata.jsonl` or `metadata.parquet` anywhere below: audiofolder;
    3. `*.parquet` anywhere below: parquet; 4. `*.tar` anywhere below: webdataset;
    5. `*.csv`, `*.tsv` or `*.jsonl` in the folder itself (one of the three kinds): manifests, whose audio column
       holds paths relative to the folder.

    The split of a parquet, tar or manifest file is read from its name, see `split_of_file`. One file is taken by
    its ending (.parquet, .tar, .csv, .tsv, .jsonl, .json). Anything else is an id on the Hub.
    """
    if arguments.dataset in BUNDLED:
        place = bundled_path(BUNDLED[arguments.dataset])
    else:
        place = Path(arguments.dataset).expanduser()
    if not place.exists():
        return Source(arguments.dataset, {"name": arguments.dataset_config})
    place = place.resolve()
    if place.is_dir() and _card_has_configs(place):
        return Source(str(place), {"name": arguments.dataset_config, "cache_dir": _own_cache(place)}, place)
    if arguments.dataset_config is not None:
        raise ValueError(
            f"{place} has no configurations (no README.md with 'configs:'); leave out "
            f"--dataset_config {arguments.dataset_config}"
        )
    if place.is_file():
        return _files_source(arguments, place.parent, [place])
    if any(place.rglob("metadata.csv")) or any(place.rglob("metadata.jsonl")) or any(place.rglob("metadata.parquet")):
        return Source("audiofolder", {"data_dir": str(place)}, place)
    files = sorted(place.rglob("*.parquet")) or sorted(place.rglob("*.tar"))
    files = files or sorted(file for ending in (".csv", ".tsv", ".jsonl") for file in place.glob(f"*{ending}"))
    if not files:
        raise ValueError(
            f"no dataset in {place}: looked for a README.md with 'configs:', metadata.csv, metadata.jsonl or "
            "metadata.parquet beside the audio, *.parquet, *.tar, and *.csv, *.tsv or *.jsonl in the folder itself; "
            "write a metadata.jsonl with lines such as "
            '{"file_name": "clips/1.wav", "text": "hello"}'
        )
    return _files_source(arguments, place, files)


def split_of_file(file: Path) -> str:
    """The split a file belongs to: `dev/b.parquet` -> "validation", `a-00000-of-00002.parquet` -> "a".

    The name of numbered shards is taken as it stands, as `datasets` does; otherwise the last of the words train,
    training, validation, valid, val, dev, test, testing, eval, evaluation in the path decides, else "train".
    """
    shard = re.fullmatch(r"(.+)-\d{5}-of-\d{5}.*", file.stem)
    if shard:
        return shard[1]
    words = re.split(r"[^a-z]+", str(file.with_suffix("")).lower())
    return next((SPLIT_OF_WORD[word] for word in reversed(words) if word in SPLIT_OF_WORD), "train")


def _files_source(arguments: DataArguments, folder: Path, files: list[Path]) -> Source:
    endings = sorted({file.suffix for file in files})
    if len(endings) > 1:
        raise ValueError(
            f"{folder} holds manifests of several kinds ({', '.join(endings)}); give one file or one kind"
        )
    data_files: dict[str, list[str]] = {}
    for file in files:
        data_files.setdefault(split_of_file(file.relative_to(folder)), []).append(str(file))
    options: dict[str, Any] = {"data_files": data_files}
    match endings[0]:
        case ".parquet":
            return Source("parquet", options, folder)
        case ".tar":
            return Source("webdataset", options, folder)
        case ".jsonl" | ".json":
            return Source("json", options, folder)
        case ".csv" | ".tsv":
            # As written: pandas would read the transcript "007" as 7, and "null" or "nan" as no transcript.
            columns = (arguments.text_column, arguments.speaker_column or "speaker", arguments.id_column or "id")
            options |= {"converters": dict.fromkeys(columns, str), "keep_default_na": False}
            return Source("csv", options | {"sep": "," if endings[0] == ".csv" else "\t"}, folder)
    raise ValueError(
        f"cannot read {files[0]} as a dataset; expected a file ending in .parquet, .tar, .csv, .tsv, .jsonl or .json"
    )


def _card_has_configs(folder: Path) -> bool:
    card = folder / "README.md"
    return card.is_file() and "configs" in DatasetCard.load(card).data.to_dict()


def _own_cache(folder: Path) -> str:
    """A cache folder for this folder as it is now.

    datasets 5.2 keeps what it has prepared of a folder with a card under the folder's name and configuration alone:
    of two folders called "music" the second gives the rows of the first, and so does one whose files have changed.
    """
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    state = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    digest = hashlib.sha256(repr(state).encode()).hexdigest()
    return str(Path(datasets.config.HF_DATASETS_CACHE, f"{folder.name}-{digest[:16]}"))


@dataclass(frozen=True)
class _Opened:
    """Every split of a dataset by name, as it is stored."""

    splits: Mapping[str, Dataset | IterableDataset]
    folder: Path | None


def _open(arguments: DataArguments, columns: list[str] | None = None) -> _Opened:
    source = locate(arguments)
    streaming = arguments.streaming and not source.lists_files
    num_proc = None if streaming else arguments.num_proc
    options = source.options if columns is None else source.options | {"columns": columns}
    try:
        splits = load_dataset(source.path, **options, streaming=streaming, num_proc=num_proc)
    except UNREADABLE as error:
        raise _cannot_open(arguments, source.folder, error) from error
    if streaming and source.path == "parquet":
        for name, files in source.options["data_files"].items():
            _with_known_rows(splits[name], sum(pq.ParquetFile(file).metadata.num_rows for file in files))
    return _Opened(splits, source.folder)


def _cannot_open(arguments: DataArguments, folder: Path | None, error: Exception) -> ValueError:
    reason = error.__cause__ or error  # DatasetGenerationError itself says nothing
    config = f" (configuration {arguments.dataset_config!r}, set by --dataset_config)"
    if folder is None:
        return ValueError(
            f"there is no local folder or file {arguments.dataset!r} (--dataset), and as a dataset of the Hub{config} "
            f"it cannot be opened: {reason}"
        )
    return ValueError(
        f"cannot read the dataset {arguments.dataset!r}{config}; is one of its files empty or damaged? {reason!r}"
    )


# ---------------------------------------------------------------------------------------------------------------
# Rows with the standard columns


def _standard_split(
    arguments: DataArguments, opened: _Opened, split: str, *, labelled: bool = True
) -> Dataset | IterableDataset:
    place = f"split {split!r} of the dataset {arguments.dataset!r}"
    rows = _pick(arguments, opened.splits, split)
    if isinstance(rows, IterableDataset):
        try:
            rows, features = _undecoded(rows)
        except UNREADABLE as error:
            raise _cannot_open(arguments, opened.folder, error) from error
    else:
        features = rows.features if len(rows) else None
    if features is None:
        raise ValueError(f"{place} is empty; choose another one")
    columns = _columns(arguments, features, place, labelled=labelled)
    rows = rows.select_columns(list(columns))
    if isinstance(rows, IterableDataset):
        return _standard_stream(rows, columns, opened.folder)
    return _standard_table(rows.rename_columns(columns), opened.folder)


def _pick(
    arguments: DataArguments, splits: Mapping[str, Dataset | IterableDataset], split: str
) -> Dataset | IterableDataset:
    """The rows of "train", or without streaming also of "train[:90%]" or "train+validation[10:]"."""
    names = [part.partition("[")[0].strip() for part in split.split("+")]
    missing = [name for name in names if name not in splits]
    if missing:
        other = next(iter(splits))
        raise ValueError(
            f"the dataset {arguments.dataset!r} has no split {missing[0]!r}, it has: {', '.join(splits)}; set "
            "--train_split, --eval_split or --test_split; to hold out a part of one (not of a stream), give "
            f"--train_split '{other}[:90%]' --eval_split '{other}[90%:]'"
        )
    if split in splits:
        return splits[split]
    tables = {name: rows for name, rows in splits.items() if isinstance(rows, Dataset)}
    if not tables:
        raise ValueError(f"a stream cannot be cut, got {split!r}; name a whole split or leave out --streaming")
    parts = datasets.ReadInstruction.from_spec(split).to_absolute({name: len(rows) for name, rows in tables.items()})
    chosen = [tables[p.splitname].select(range(p.from_, p.to)) for p in parts if p.from_ < p.to]
    return concatenate_datasets(chosen) if chosen else tables[names[0]].select([])


def _undecoded(stream: IterableDataset) -> tuple[IterableDataset, Features | None]:
    """The stream with encoded audio, and its columns (None if it has no row).

    datasets 5.2 decodes streamed audio folders of the Hub in a step of its own, which only `decode(False)` removes:
    `cast_column("audio", Audio(decode=False))` has no effect there. Streams of csv and json have no features.
    """
    if stream.features is not None:
        stream = stream.decode(False)
    first = next(iter(stream), None)
    if first is None:
        return stream, None
    return stream, stream.features or Features.from_arrow_schema(pa.Table.from_pylist([first]).schema)


def _columns(arguments: DataArguments, features: Features, place: str, *, labelled: bool = True) -> dict[str, str]:
    """Columns to keep and their standard names, checked to exist and to hold audio and (if `labelled`) text."""
    columns = {arguments.audio_column: "audio"} | ({arguments.text_column: "text"} if labelled else {})
    for standard, named in arguments.optional_columns.items():
        found = standard in ("speaker", "id") and standard in features and standard not in columns
        if named is not None or found:
            columns[named or standard] = standard
    columns |= {column: column for column in arguments.fact_columns or []}
    if arguments.duration_column is not None and arguments.streaming:
        columns[arguments.duration_column] = "seconds"
    for column, standard in columns.items():
        if column not in features:
            option = "--fact_columns" if column in (arguments.fact_columns or []) else f"--{standard}_column"
            option = "--duration_column" if standard == "seconds" else option
            raise ValueError(f"{place} has no column {column!r}, it has: {', '.join(features)}; set {option}")
    audio = features[arguments.audio_column]
    text = features[arguments.text_column] if labelled else Value("string")
    kinds = ", ".join(f"{name}: {feature}" for name, feature in features.items())
    if not _holds_audio(audio):
        raise ValueError(
            f"column {arguments.audio_column!r} of {place} holds {audio}, not audio (an Audio column, encoded bytes, "
            f"paths, or both as {{bytes, path}}); set --audio_column; its columns: {kinds}"
        )
    if "segments" in columns.values() and not _holds_segments(features[arguments.segments_column]):
        raise ValueError(
            f"column {arguments.segments_column!r} of {place} holds {features[arguments.segments_column]}, not lists "
            "of {start, end, text}; set or leave out --segments_column"
        )
    seconds = features[arguments.duration_column] if "seconds" in columns.values() else Value("float64")
    if not (isinstance(seconds, Value) and re.match("u?int|float", seconds.dtype)):
        raise ValueError(
            f"column {arguments.duration_column!r} of {place} holds {seconds}, not numbers of seconds; set or leave "
            f"out --duration_column; its columns: {kinds}"
        )
    if not (isinstance(text, Value) and text.dtype in ("string", "large_string", "null")):
        raise ValueError(
            f"column {arguments.text_column!r} of {place} holds {text}, not strings; set --text_column, or if they "
            f'are transcripts of digits write them as strings, in a .jsonl {{"text": "007"}}; its columns: {kinds}'
        )
    return columns


def _holds_segments(feature: Any) -> bool:
    parts = feature[0] if isinstance(feature, list) else getattr(feature, "feature", None)
    return isinstance(parts, dict) and {"start", "end", "text"} <= parts.keys()


def _holds_audio(feature: Any) -> bool:
    if isinstance(feature, Value):
        return feature.dtype in ("string", "large_string", "binary", "large_binary")
    return isinstance(feature, Audio) or (isinstance(feature, dict) and feature.keys() <= {"bytes", "path"})


def _standard_table(rows: Dataset, folder: Path | None) -> Dataset:
    """Undecoded audio and strings. Only small columns are made anew: a map or a cast would copy the audio to disk."""
    if isinstance(rows.features["audio"], Value) and "string" in rows.features["audio"].dtype:
        paths = [_absolute(path, folder) for path in rows["audio"]]
        rows = rows.remove_columns("audio").add_column("audio", paths)
    rows = rows.cast_column("audio", Audio(decode=False))
    ids = rows["id"] if "id" in rows.features else [None] * len(rows)
    names = {"id": [str(number if value is None else value) for number, value in enumerate(ids)]}
    if "speaker" in rows.features:
        names["speaker"] = [_speaker_name(value) for value in rows["speaker"]]
    rows = rows.remove_columns([name for name in names if name in rows.features])
    for name, column in names.items():
        rows = rows.add_column(name, column)
    return rows


def _standard_stream(rows: IterableDataset, columns: dict[str, str], folder: Path | None) -> IterableDataset:
    string = Value("string")
    features = Features({"audio": Audio(decode=False), "id": string})
    if "text" in columns.values():
        features["text"] = string
    if "speaker" in columns.values():
        features["speaker"] = string
    if "seconds" in columns.values():
        features["seconds"] = Value("float64")
    for standard in ("language", "previous_text"):
        if standard in columns.values():
            features[standard] = string
    if "segments" in columns.values():
        features["segments"] = [{"start": Value("float64"), "end": Value("float64"), "text": string}]
    return rows.map(_StreamedRow(columns, folder), remove_columns=list(columns), features=features)


@dataclass(frozen=True)
class _StreamedRow:
    """A row of a stream in standard columns; remote files become bytes, local ones stay paths."""

    columns: dict[str, str]
    folder: Path | None

    def __call__(self, stored: dict[str, Any]) -> dict[str, Any]:
        row = {standard: stored[column] for column, standard in self.columns.items()}
        audio = row["audio"]
        if isinstance(audio, str):
            audio = {"path": _absolute(audio, self.folder)}
        elif isinstance(audio, bytes):
            audio = {"bytes": audio}
        content, path = (audio.get("bytes"), audio.get("path")) if audio else (None, None)
        if content is None and path is not None and "://" in path:  # hf://, zip://...::hf://
            try:
                with fsspec.open(path, "rb") as file:
                    content = file.read()
            except FileNotFoundError:
                pass  # it is counted as missing where rows are read
        row["audio"] = {"bytes": content, "path": path}
        if row.get("id") is None:
            row["id"] = hashlib.blake2b(content or str(path).encode(), digest_size=8).hexdigest()
        row["id"] = str(row["id"])
        return row | ({"speaker": _speaker_name(row["speaker"])} if "speaker" in row else {})


def _absolute(path: str | None, folder: Path | None) -> str | None:
    return path if path is None or folder is None or "://" in path else str(folder / path)


def _speaker_name(value: Any) -> str:
    return "unknown" if value is None else str(value)  # where only some rows name one


def _first(rows: Dataset | IterableDataset, count: int | None) -> Dataset | IterableDataset:
    if count is None:
        return rows
    if isinstance(rows, Dataset):
        return rows.select(range(min(count, len(rows))))
    known = known_rows(rows)
    return rows.take(count) if known is None else _with_known_rows(rows.take(count), min(count, known))


def _as_stream(rows: Dataset | IterableDataset) -> IterableDataset:
    if isinstance(rows, IterableDataset):
        return rows
    stream = rows.to_iterable_dataset(num_shards=min(PATH_STREAM_SHARDS, len(rows)))
    return _with_known_rows(stream, len(rows))


def known_rows(stream: IterableDataset) -> int | None:
    """Rows of a stream as its dataset's card on the Hub or local files tell; None where nothing does."""
    splits, name = stream.info.splits, str(stream.split)
    return splits[name].num_examples or None if splits is not None and name in splits else None


def _with_known_rows(stream: IterableDataset, rows: int) -> IterableDataset:
    name = str(stream.split)
    stream.info.splits = datasets.SplitDict({name: datasets.SplitInfo(name, num_examples=rows)})
    return stream


def _in_memory(rows: Dataset | IterableDataset) -> Dataset:
    if isinstance(rows, Dataset):
        return rows
    read = list(datasets.utils.tqdm(rows, desc="reading an evaluation split"))
    # Cast afterwards: from_list with Audio drops the bytes where the path beside them names a file on this machine.
    stored = Features({**rows.features, "audio": {"bytes": Value("binary"), "path": Value("string")}})
    return Dataset.from_list(read, features=stored).cast_column("audio", Audio(decode=False))


# ---------------------------------------------------------------------------------------------------------------
# Which rows can be used


class SkipRow(Exception):  # noqa: N818  (a signal to go on with the next row, not an error)
    """This row cannot be used; `reason` is one of REASONS."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class CheckedRow:
    """What is known of a row without its samples: `reason` is one of REASONS, or None if the row can be used."""

    reason: str | None
    seconds: float  # 0 if the audio cannot be read
    text: str  # normalised


def header_seconds(row: Mapping[str, Any]) -> float:
    """Seconds by the column `seconds` or by the audio's header, without decoding where the format allows.

    Raises SkipRow for audio that cannot be opened or is empty.
    """
    seconds = row.get("seconds")
    if seconds is None:
        try:
            seconds = audio_info(row["audio"] or NO_AUDIO).seconds
        except AudioError as error:
            raise SkipRow(error.reason) from error
    if not seconds > 0:
        raise SkipRow("empty")
    return float(seconds)


@dataclass(frozen=True)
class RowCheck:
    """Which rows can be used, and the only way from a row to its samples.

    Silence is legal: a recogniser must learn to say nothing, and a silent clip with a transcript fails by its loss.
    An empty transcript is not, because a blank row of a corpus is far more often a fault than a truth.

    Args:
        sample_rate: of the decoded samples, in Hz.
        normalizer: one of `hfaudio.text.normalize.NORMALIZERS`.
        min_seconds, max_seconds: the shortest and the longest recording used, both inclusive.
        min_frames: output frames that a normalised text needs; for CTC its labels plus their repeats.
        num_frames: output frames that the model gives for a number of samples. Without these two every label fits.
        num_tokens: decoder positions that a row with this normalised text takes.
        max_tokens: decoder positions that there are. Without these two every text fits.
        labelled: whether rows need a transcript.
        channels: of the decoded samples: 1 for the mean of all, 2 for stereo.
    """

    sample_rate: int = 16_000
    normalizer: str = "basic"
    min_seconds: float = 0.1
    max_seconds: float = 20.0
    min_frames: Callable[[str], int] | None = None
    num_frames: Callable[[int], int] | None = None
    num_tokens: Callable[[Mapping[str, Any], str], int] | None = None
    max_tokens: int | None = None
    labelled: bool = True
    channels: int = 1

    def __call__(self, row: Mapping[str, Any]) -> CheckedRow:
        """The verdict on a row."""
        text = self.normalized(row.get("text"))
        reason, num_samples = AudioProbe(self.sample_rate).measure(row["audio"])
        return CheckedRow(reason or self.refusal(row, text, num_samples), num_samples / self.sample_rate, text)

    def measure(self, row: Mapping[str, Any]) -> float:
        """Seconds of a row by its column `seconds`, else by its audio's header; SkipRow if it cannot be used.

        What only decoding shows (a damaged file, samples that are not finite) is left to `decode`.
        """
        seconds = header_seconds(row)
        reason = self.refusal(row, self.normalized(row.get("text")), round(seconds * self.sample_rate))
        if reason is not None:
            raise SkipRow(reason)
        return seconds

    def decode(self, row: Mapping[str, Any]) -> tuple[np.ndarray, str]:
        """Samples (N,), or (2, N) with two channels, and normalised text; SkipRow if the row cannot be used.

        At most a second more than `max_seconds` is read, so that a recording of hours does not fill the memory.
        """
        text = self.normalized(row.get("text"))
        try:
            samples = load_audio(
                row["audio"] or NO_AUDIO, self.sample_rate, seconds=self.max_seconds + 1, channels=self.channels
            )
        except AudioError as error:
            raise SkipRow(error.reason) from error
        reason = self.refusal(row, text, samples.shape[-1])
        if reason is not None:
            raise SkipRow(reason)
        return samples, text

    def normalized(self, text: str | None) -> str:
        """The transcript as it is learned and scored; "" for a missing one."""
        return normalize(text or "", self.normalizer)

    def refusal(self, row: Mapping[str, Any], text: str, num_samples: int) -> str | None:
        """The reason not to use readable audio of this length with this normalised text, or None."""
        seconds = num_samples / self.sample_rate
        if seconds < self.min_seconds:
            return "too short"
        if seconds > self.max_seconds:
            return "too long"
        if self.labelled and not text:
            return "empty transcript"
        if self.min_frames and self.num_frames and self.num_frames(num_samples) < self.min_frames(text):
            return "label longer than its frames"
        if self.num_tokens and self.max_tokens is not None and self.num_tokens(row, text) > self.max_tokens:
            return "transcript longer than the decoder"
        return None


@dataclass(frozen=True)
class AudioProbe:
    """Number of samples of a row's audio at `sample_rate`, or the reason why it cannot be read.

    The expensive half of a check and the only one that `datasets` caches: its key holds nothing but the rows and
    the rate, so that other limits, normalisers and models reuse it. Of a long recording two blocks are in memory.
    """

    sample_rate: int

    def measure(self, audio: Mapping[str, Any] | None) -> tuple[str | None, int]:
        """The reason or None, and the number of samples (0 if there is a reason)."""
        try:
            return None, sum(len(block) for block in stream_audio(audio or NO_AUDIO, self.sample_rate))
        except AudioError as error:
            return error.reason, 0

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        reason, num_samples = self.measure(row["audio"])
        return {"reason": reason, "num_samples": num_samples}


def check_rows(dataset: Dataset, row_check: RowCheck, num_proc: int | None = None) -> tuple[Dataset, "SkipCounts"]:
    """The rows that can be used, with `text` normalised and `seconds` added, and the count of the others by reason.

    Each recording is decoded once, and not again by a later run: the lengths are cached where `datasets` caches
    (rows in memory have no cache). A recording that could not be read is tried anew, as it may have been
    repaired. Neither samples nor features are written. Raises ValueError if no row can be used.

    Check before `shuffle`: adding a column to rows in another order makes `datasets` copy the audio to disk.
    """
    probed = dataset.select_columns("audio").map(
        AudioProbe(row_check.sample_rate),
        remove_columns=["audio"],
        features=Features({"reason": Value("string"), "num_samples": Value("int64")}),
        num_proc=num_proc,
        desc="checking audio",
    )
    counts = SkipCounts()
    stored = dataset["text"] if row_check.labelled else [None] * len(dataset)
    texts = [row_check.normalized(text) for text in stored]
    facts = dataset.remove_columns("audio")
    seconds: list[float] = []
    usable: list[int] = []
    for index, (text, found, row) in enumerate(zip(texts, probed, facts, strict=True)):
        reason, num_samples = found["reason"], found["num_samples"]
        if reason is not None:
            reason, num_samples = AudioProbe(row_check.sample_rate).measure(dataset[index]["audio"])
        reason = reason or row_check.refusal(row, text, num_samples)
        seconds.append(num_samples / row_check.sample_rate)
        counts.add(reason)
        if reason is None:
            usable.append(index)
    if not usable:
        raise no_usable_rows(counts, row_check)
    new: dict[str, list[Any]] = {"text": texts} if row_check.labelled else {}
    for column, values in (new | {"seconds": seconds}).items():
        if column in dataset.column_names:
            dataset = dataset.remove_columns(column)
        dataset = dataset.add_column(column, values)
    return dataset.select(usable), counts


def no_usable_rows(counts: "SkipCounts", row_check: RowCheck) -> ValueError:
    """The error for data of which nothing is left, with the remedy for the commonest reason."""
    reason = max(counts.by_reason, key=lambda reason: counts.by_reason[reason])
    if reason == "too short":
        remedy = f"lower --min_seconds (now {row_check.min_seconds:g})"
    elif reason == "too long":
        remedy = f"raise --max_seconds (now {row_check.max_seconds:g})"
    elif reason == "empty transcript":
        remedy = f"check --text_column and --normalizer (now {row_check.normalizer!r})"
    elif reason == "transcript longer than the decoder":
        remedy = f"cut recordings and texts into shorter pieces (the decoder holds {row_check.max_tokens} tokens)"
    elif reason == "label longer than its frames":
        remedy = "check that transcripts belong to their recordings, or take a model with more frames per second"
    else:
        remedy = "check --audio_column and whether one of the files opens with hfaudio.audio.io.load_audio"
    return ValueError(f"no row can be used: {counts}; {remedy}")


@dataclass
class SkipCounts:
    """Rows looked at, and rows skipped by reason."""

    total: int = 0
    by_reason: dict[str, int] = field(default_factory=dict)

    def add(self, reason: str | None) -> None:
        """Count a row: skipped for this reason, or usable if it is None."""
        self.total += 1
        if reason is not None:
            self.by_reason[reason] = self.by_reason.get(reason, 0) + 1

    @property
    def skipped(self) -> int:
        """Rows that were skipped."""
        return sum(self.by_reason.values())

    def __str__(self) -> str:
        commonest = sorted(self.by_reason.items(), key=lambda item: (-item[1], item[0]))
        reasons = ": " + ", ".join(f"{reason} {rows:,}" for reason, rows in commonest) if commonest else ""
        return f"skipped {self.skipped:,} of {self.total:,} rows{reasons}"
