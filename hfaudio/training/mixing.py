"""What share of an epoch each language has, and another dataset replayed so that it is not unlearned."""

import dataclasses
from dataclasses import dataclass, field

from datasets import Dataset, concatenate_datasets

from hfaudio.data.datasets import DataArguments, RowCheck, SkipCounts, check_rows, load_split
from hfaudio.data.mixture import Mixture, replay_mixture, temperature_mixture


@dataclass
class MixingArguments:
    """Rows of several languages, and of a second dataset, in one training."""

    language_temperature: float = field(
        default=1.0,
        metadata={"help": "Above 1 small languages of --language_column come more often: share ~ rows ** (1 / T)."},
    )
    replay_dataset: str | None = field(
        default=None, metadata={"help": "A dataset mixed into the training so that it is not unlearned."}
    )
    replay_config: str | None = field(default=None, metadata={"help": "Its configuration, if it has several."})
    replay_split: str = field(default="train", metadata={"help": "Its split."})
    replay_rate: float = field(default=0.2, metadata={"help": "Its share of all training clips."})

    def __post_init__(self) -> None:
        if self.language_temperature < 1:
            raise ValueError(f"--language_temperature must be at least 1; got {self.language_temperature:g}")
        if not 0 < self.replay_rate < 1:
            raise ValueError(f"--replay_rate must be above 0 and below 1; got {self.replay_rate:g}")


def check_mixing(args: MixingArguments, data: DataArguments) -> None:
    """ValueError for options that would have no effect on this dataset."""
    if data.streaming and (args.replay_dataset or args.language_temperature != 1):
        raise ValueError("--replay_dataset and --language_temperature need all rows at hand; leave out --streaming")
    if args.language_temperature != 1 and data.language_column is None:
        raise ValueError("--language_temperature needs a --language_column")
    if args.language_temperature != 1 and args.replay_dataset:
        raise ValueError("--language_temperature and --replay_dataset exclude each other; put all into one dataset")


def mix_languages(rows: Dataset, args: MixingArguments, seed: int) -> Mixture | None:
    """How often each language comes, if that is not as often as it stands in the data."""
    if args.language_temperature == 1:
        return None
    return temperature_mixture(rows["language"], args.language_temperature, seed)


def mix_replay(
    rows: Dataset, args: MixingArguments, data: DataArguments, check: RowCheck, seed: int
) -> tuple[Dataset, Mixture, SkipCounts]:
    """The rows with those of the replayed dataset behind them, how both are mixed, and which were skipped.

    The second dataset has its columns under the names `audio` and `text`, and `speaker` and `id` where it has them.
    """
    assert args.replay_dataset is not None
    columns = {column: None for column in ("speaker_column", "id_column", "segments_column", "previous_text_column")}
    source = dataclasses.replace(
        data,
        dataset=args.replay_dataset,
        dataset_config=args.replay_config,
        audio_column="audio",
        text_column="text",
        **columns,  # type: ignore[arg-type]
    )
    other = load_split(source, args.replay_split)
    assert isinstance(other, Dataset)
    other, counts = check_rows(other, check, data.num_proc)
    for name in set(rows.column_names) - set(other.column_names):
        other = other.add_column(name, [None] * len(other), feature=rows.features[name])  # type: ignore[call-arg]
    other = other.select_columns(rows.column_names).cast(rows.features)
    return concatenate_datasets([rows, other]), replay_mixture(len(rows), len(other), args.replay_rate, seed), counts
