"""Label recordings that have no transcripts with a trained recogniser, and keep what is probably right.

    accelerate launch recipes/pseudo_label.py --teacher my_model --dataset user/recordings --streaming \\
        --output_dir labelled
    accelerate launch recipes/asr_seq2seq.py --model openai/whisper-small --dataset labelled ...

The result is a folder of parquet files with audio, text, speaker and the two scores, which the recipes open. A run
that was stopped goes on where it was. Several processes share the rows. rejected-*.jsonl holds what was left out, and
why; labels.json counts it.
"""

import itertools
import json
import logging
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from accelerate import PartialState
from tqdm import tqdm

from hfaudio.audio.io import AudioError, load_audio
from hfaudio.data.datasets import DataArguments, load_split, own_rows
from hfaudio.inference.teacher import Teacher
from hfaudio.metrics.results import command_line
from hfaudio.training.arguments import parse_arguments

logger = logging.getLogger(__name__)


@dataclass
class LabelArguments:
    teacher: str = field(metadata={"help": "Folder or Hub id of the recogniser; an adapter opens with its base."})
    output_dir: str = field(default="output/pseudo_labels", metadata={"help": "Where the labelled rows go."})
    min_log_prob: float = field(default=-0.5, metadata={"help": "Least mean log-probability of a token."})
    min_agreement: float = field(default=0.8, metadata={"help": "Least agreement of two hearings (1 - error rate)."})
    part_rows: int = field(default=256, metadata={"help": "Rows between two places to go on from."})
    batch_size: int = field(default=16, metadata={"help": "Clips that are decoded together."})
    device: str | None = field(default=None, metadata={"help": "cpu, cuda ...; default: the accelerator, if any."})

    def __post_init__(self) -> None:
        if self.part_rows < 1 or self.batch_size < 1:
            raise ValueError("--part_rows and --batch_size must be at least 1")
        if self.min_log_prob > 0 or not 0 <= self.min_agreement <= 1:
            raise ValueError("--min_log_prob must not be above 0, --min_agreement must be from 0 to 1")


ARGUMENTS = (LabelArguments, DataArguments)


def main(argv: list[str] | None = None) -> dict[str, Any]:
    start = time.time()
    args, data_args = parse_arguments(*ARGUMENTS, argv=argv)
    state = PartialState(cpu=args.device == "cpu")
    rank, ranks = state.process_index, state.num_processes
    logging.basicConfig(level=logging.INFO if rank == 0 else logging.WARNING)

    # Rows of this process, from where an earlier run had come.
    output = Path(args.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    settings = {"dataset": data_args.dataset, "split": data_args.train_split, "ranks": ranks, **vars(args)}
    check_settings(output / "settings.json", settings, is_main=rank == 0)
    state.wait_for_everyone()
    done = len(list(output.glob(f"train-{rank}-*.parquet")))
    rows = own_rows(load_split(data_args, data_args.train_split, labelled=False), rank, ranks)
    rows = rows.skip(done * args.part_rows)

    # Part by part: decode, label, keep or reject; a part counts when its file has its final name.
    teacher = Teacher(
        args.teacher,
        language=data_args.language,
        normalizer=data_args.normalizer,
        device=args.device or str(state.device),
        batch_size=args.batch_size,
    )
    bar = tqdm(desc="labelling", unit="clip", disable=rank != 0)
    iterator = iter(rows)
    for part in itertools.count(done):
        chunk = list(itertools.islice(iterator, args.part_rows))
        if not chunk:
            break
        kept, rejected = label_rows(chunk, teacher, data_args, args)
        with open(output / f"rejected-{rank}-{part:05}.jsonl", "w", encoding="utf-8") as file:
            file.writelines(json.dumps(entry, ensure_ascii=False) + "\n" for entry in rejected)
        unfinished = output / f"unfinished-{rank}.tmp"
        pq.write_table(pa.Table.from_pylist(kept, schema=SCHEMA), unfinished)
        unfinished.rename(output / f"train-{rank}-{part:05}.parquet")
        bar.update(len(chunk))
    bar.close()

    # Figures of all parts and ranks.
    state.wait_for_everyone()
    if rank != 0:
        return {}
    reasons: Counter[str] = Counter()
    for file in output.glob("rejected-*.jsonl"):
        reasons.update(json.loads(line)["reason"] for line in file.read_text(encoding="utf-8").splitlines())
    kept_rows = sum(pq.ParquetFile(file).metadata.num_rows for file in output.glob("train-*.parquet"))
    results = {
        "kept": kept_rows,
        "rejected": dict(reasons.most_common()),
        "settings": settings,
        "command": command_line(),
        "seconds": round(time.time() - start, 1),
    }
    (output / "labels.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    logger.info("kept %d rows, rejected %s", kept_rows, dict(reasons))
    return results


SCHEMA = pa.schema(
    [
        ("audio", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        ("text", pa.string()),
        ("speaker", pa.string()),
        ("id", pa.string()),
        ("log_prob", pa.float64()),
        ("agreement", pa.float64()),
    ]
)


def label_rows(
    rows: list[dict[str, Any]], teacher: Teacher, data_args: DataArguments, args: LabelArguments
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows to train on, with their audio as it was stored, and what is left out with its reason."""
    kept, rejected, readable, clips = [], [], [], []
    for row in rows:
        try:
            samples = load_audio(row["audio"], teacher.rate, seconds=data_args.max_seconds + 1)
        except AudioError as error:
            rejected.append({"id": row["id"], "reason": error.reason})
            continue
        seconds = len(samples) / teacher.rate
        if not data_args.min_seconds <= seconds <= data_args.max_seconds:
            rejected.append({"id": row["id"], "reason": "too short or too long", "seconds": round(seconds, 2)})
            continue
        readable.append(row)
        clips.append(samples)
    for row, samples, label in zip(readable, clips, teacher(clips), strict=True):
        scores = {"text": label.text, "log_prob": label.log_prob, "agreement": label.agreement}
        reason = label.refusal(
            len(samples) / teacher.rate, min_log_prob=args.min_log_prob, min_agreement=args.min_agreement
        )
        if reason is not None:
            rejected.append({"id": row["id"], "reason": reason, **scores})
            continue
        content = row["audio"]["bytes"] or Path(row["audio"]["path"]).read_bytes()
        audio = {"bytes": content, "path": Path(row["audio"]["path"] or f"{row['id']}").name}
        kept.append({"audio": audio, "speaker": row.get("speaker"), "id": row["id"], **scores})
    return kept, rejected


def check_settings(file: Path, settings: dict[str, Any], *, is_main: bool) -> None:
    """ValueError if the folder holds the labels of another run; else what this run is, is written down."""
    if file.exists():
        before = json.loads(file.read_text(encoding="utf-8"))
        changed = sorted(name for name in settings if before.get(name) != settings[name])
        if changed:
            name = changed[0]
            raise ValueError(
                f"--output_dir {file.parent} was begun with another {name} ({before.get(name)}, now "
                f"{settings[name]}); choose another folder, or the settings in its settings.json"
            )
    elif is_main:
        file.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
