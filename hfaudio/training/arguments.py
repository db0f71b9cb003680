"""Options of a recipe: dataclasses, then a YAML file, then flags; each declared once, typos refused."""

import json
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml
from transformers import HfArgumentParser, TrainingArguments


def parse_arguments(*types: type, argv: Sequence[str] | None = None) -> tuple[Any, ...]:
    """One instance of each dataclass type: its defaults, overridden by a YAML file, overridden by flags.

    `argv` (default: the command line) is `[config.yaml] [--flags]`.

    Raises:
        ValueError: for a key or flag that no type declares, or a YAML file that is not a mapping.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = HfArgumentParser(list(types))  # type: ignore[arg-type]
    if arguments and arguments[0].endswith((".yaml", ".yml")):
        settings = read_yaml(Path(arguments.pop(0)))
        known = {f.name for t in types for f in fields(t) if f.init}
        if unknown := sorted(set(settings) - known):
            raise ValueError(f"unknown keys in the config file: {unknown}; `--help` lists the options")
        # As flags in front of the others, so that argparse converts and checks them alike.
        arguments = [word for key, value in settings.items() for word in as_flag(key, value)] + arguments
    return parser.parse_args_into_dataclasses(args=arguments)


def as_flag(key: str, value: Any) -> list[str]:
    """The words of a command line that set an option to a YAML value; none for null, which leaves the default."""
    if value is None:
        return []
    if isinstance(value, list):
        return [f"--{key}", *map(str, value)]
    return [f"--{key}", json.dumps(value) if isinstance(value, dict) else str(value)]


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file (an empty file is an empty mapping), `$NAME` in strings read from the environment."""
    if not path.is_file():
        raise ValueError(f"no config file {path}")
    settings = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    if not isinstance(settings, dict):
        raise ValueError(f"{path} must hold `option: value` lines, got a {type(settings).__name__}")
    return {key: expand(value, path) for key, value in settings.items()}


def expand(value: Any, path: Path) -> Any:
    if isinstance(value, list):
        return [expand(item, path) for item in value]
    if not isinstance(value, str):
        return value
    expanded = os.path.expandvars(value)
    if re.search(r"\$\{?[A-Za-z_]", expanded):
        raise ValueError(f"{path} has {value!r} and that environment variable is not set; set it, or use the flag")
    return expanded


def last_checkpoint(folder: Path, written_last: str = "trainer_state.json") -> Path | None:
    """The newest checkpoint that was written to its end, which a run killed while saving may not have done."""
    whole = [file.parent for file in folder.glob(f"checkpoint-*/{written_last}")]
    return max(whole, key=lambda checkpoint: int(checkpoint.name.split("-")[1]), default=None)


@dataclass
class AudioTrainingArguments(TrainingArguments):
    """`TrainingArguments` of transformers with defaults that are right for audio.

    `train_sampling_strategy` has no effect: training always takes buckets of similar lengths, evaluation keeps the
    dataset's order.
    """

    # The collators choose their columns; with True the Trainer drops `seconds` before its sampler needs it.
    remove_unused_columns: bool = field(default=False, metadata={"help": "Keep False."})
    label_names: list[str] | None = field(
        default_factory=lambda: ["labels"], metadata={"help": "Names of the label columns."}
    )
    # Counts are updated batch by batch and predictions are dropped: memory does not grow with the evaluation set.
    batch_eval_metrics: bool = field(default=True, metadata={"help": "Keep True."})
    # A non-finite loss must be seen, not averaged away.
    logging_nan_inf_filter: bool = field(default=False, metadata={"help": "Hide NaN and infinite losses in the log."})
    # accelerate's default for streams concatenates batches of different lengths and fails.
    accelerator_config: dict | str | None = field(
        default_factory=lambda: {"dispatch_batches": False}, metadata={"help": "Settings of the Accelerator."}
    )
    dataloader_num_workers: int = field(default=2, metadata={"help": "Processes that decode and augment."})
    per_device_train_batch_size: int = field(default=16, metadata={"help": "At most so many clips a step and device."})
    batch_seconds: float | None = field(
        default=None,
        metadata={"help": "At most so many seconds of audio, padding included, a step and device. None: no limit."},
    )
    per_device_eval_batch_size: int = field(default=32, metadata={"help": "Clips a step on each device."})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "Shape of the learning rate over the steps."})
    warmup_steps: float = field(default=0.1, metadata={"help": "Steps, or below 1 a share of all steps."})
    eval_strategy: str = field(default="steps", metadata={"help": "When to evaluate: no, steps or epoch."})
    save_strategy: str = field(default="steps", metadata={"help": "When to save a checkpoint: no, steps or epoch."})
    eval_steps: float | None = field(default=500, metadata={"help": "Evaluate every N steps, and at the last one."})
    save_steps: float = field(default=500, metadata={"help": "Save every N steps, and at the last one."})
    save_total_limit: int | None = field(default=2, metadata={"help": "Checkpoints that are kept."})
    load_best_model_at_end: bool = field(default=True, metadata={"help": "End with the best checkpoint's weights."})
    logging_steps: float = field(default=20, metadata={"help": "Log every N steps."})
    resume_from_checkpoint: str | None = field(
        default=None, metadata={"help": "A checkpoint folder, or 'last' for the newest one in output_dir."}
    )
    push_result: bool = field(init=False, default=False)  # what --push_to_hub asks for

    def __post_init__(self) -> None:
        super().__post_init__()
        folder = Path(self.output_dir or ".")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / ".writable").touch()
            (folder / ".writable").unlink(missing_ok=True)  # another rank may have been faster
        except OSError as error:
            raise ValueError(
                f"cannot write to --output_dir {self.output_dir}: {error}; choose another folder"
            ) from error
        if self.resume_from_checkpoint == "last":
            checkpoint = last_checkpoint(folder)
            if checkpoint is None:
                raise ValueError(f"--resume_from_checkpoint last: no checkpoint in {folder} yet; leave it out")
            self.resume_from_checkpoint = str(checkpoint)
        if self.dataloader_persistent_workers:
            raise ValueError("--dataloader_persistent_workers would repeat the first augmentation; leave it out")
        if self.dataloader_drop_last:
            raise ValueError("--dataloader_drop_last would drop examples; batches are dealt out evenly, leave it out")
        if self.batch_seconds is not None and not self.batch_seconds > 0:
            raise ValueError(f"--batch_seconds must be above 0; got {self.batch_seconds:g}")
        # The Trainer would push checkpoints without the code, language model and results that belong to them: the
        # finished folder is pushed by `hfaudio.hub.publish`, checked.
        self.push_result, self.push_to_hub = self.push_to_hub, False
