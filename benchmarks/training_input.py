"""Training input and one training epoch: ours against the way of transformers' own CTC example, in one run.

    python benchmarks/training_input.py -o training_input.json

The peer does what examples/pytorch/speech-recognition/run_speech_recognition_ctc.py of transformers does: a `map`
decodes every clip and writes its features to Arrow, `Trainer` draws clips at random, a collator pads them. Ours
writes lengths only, batches clips of similar length, and decodes them in the loader's workers or ("ours_kept", the
recipe's way up to --keep_seconds) once into memory. All have the same clips, features, initial weights, batch size,
workers and steps, and no augmentation. A repetition starts from a cold `datasets` cache and takes each phase for all
sides in turn, every second time in reverse, so that other load meets them all; ratios are taken within repetitions.
The peer is spared torchcodec, as it wants FFmpeg (soundfile reads its clips, too), and the copy of all encoded audio
that the example writes when it cleans transcripts; its Arrow files are still in the page cache.
"""

import copy
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from shutil import copytree
from statistics import median
from time import perf_counter
from typing import Any

import torch
from datasets import Dataset
from transformers import PrinterCallback, Trainer, TrainingArguments, Wav2Vec2Processor, set_seed

from hfaudio.audio.io import load_audio
from hfaudio.data.collate import IGNORED_LABEL, CTCCollator
from hfaudio.data.datasets import DataArguments, RowCheck, check_rows, load_split
from hfaudio.data.examples import ExampleEncoder, SpeechExamples
from hfaudio.metrics.results import command_line, write_results
from hfaudio.models import LstmCTCConfig, LstmForCTC
from hfaudio.models.frames import FrameCount
from hfaudio.processing import SpectralFeatureExtractor, build_char_tokenizer, ctc_labels
from hfaudio.processing.tokenizer import LabelFrames
from hfaudio.training.arguments import AudioTrainingArguments, parse_arguments
from hfaudio.training.scoring import CTCScorer
from hfaudio.training.trainer import CTCTrainer


@dataclass
class BenchmarkArguments:
    batch_size: int = field(default=16, metadata={"help": "Clips a step."})
    workers: int = field(default=2, metadata={"help": "Processes of each data loader."})
    epochs: int = field(default=20, metadata={"help": "Preparation and so many epochs are computed from one."})
    repetitions: int = field(default=3, metadata={"help": "How often everything is measured."})
    output: str = field(default="training_input.json", metadata={"aliases": ["-o"], "help": "Where figures go."})


@dataclass(frozen=True)
class Task:
    """What all sides share beside the rows."""

    processor: Wav2Vec2Processor
    model: LstmForCTC
    check: RowCheck
    num_proc: int | None


def peer_features(task: Task, rows: Dataset) -> Dataset:
    """Features, label ids and length of every clip, written to disk; of these the clips of a legal length."""
    extractor, tokenizer = task.processor.feature_extractor, task.processor.tokenizer
    rate = extractor.sampling_rate
    shortest, longest = task.check.min_seconds * rate, task.check.max_seconds * rate

    def prepare(row: dict[str, Any]) -> dict[str, Any]:
        samples = load_audio(row["audio"], rate)
        features = extractor(samples, sampling_rate=rate)["input_features"][0]
        return {"input_features": features, "input_length": len(samples), "labels": tokenizer(row["text"]).input_ids}

    rows = rows.map(prepare, remove_columns=rows.column_names, num_proc=task.num_proc)
    return rows.filter(lambda n: shortest <= n <= longest, input_columns=["input_length"], num_proc=task.num_proc)


def peer_batch(processor: Wav2Vec2Processor, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
    """Features and label ids, both padded to the longest."""
    features = [{"input_features": row["input_features"]} for row in rows]
    batch = processor.feature_extractor.pad(features, return_tensors="pt")
    labels = processor.tokenizer.pad([{"input_ids": row["labels"]} for row in rows], return_tensors="pt")
    return {**batch, "labels": labels["input_ids"].masked_fill(labels["attention_mask"] == 0, IGNORED_LABEL)}


def our_examples(task: Task, rows: Dataset, keep: bool = False) -> SpeechExamples:
    rows, _ = check_rows(rows, task.check, task.num_proc)
    return SpeechExamples(rows, task.check, ExampleEncoder(task.processor), keep_seconds=float("inf") if keep else 0)


SIDES: dict[str, Any] = {"peer": peer_features, "ours": our_examples, "ours_kept": partial(our_examples, keep=True)}


def trainer_of(task: Task, data: Dataset | SpeechExamples, settings: dict[str, Any]) -> Trainer:
    options: dict[str, Any] = {"model": copy.deepcopy(task.model), "train_dataset": data}
    if isinstance(data, SpeechExamples):
        options |= {"args": AudioTrainingArguments(**settings), "data_collator": CTCCollator(task.processor)}
        scorer = CTCScorer(ctc_labels(task.processor.tokenizer), task.processor.tokenizer.pad_token_id)
        return CTCTrainer(processor=task.processor, scorer=scorer, **options)
    options |= {"args": TrainingArguments(**settings), "data_collator": partial(peer_batch, task.processor)}
    return Trainer(processing_class=task.processor.feature_extractor, **options)


def measure(task: Task, stored: Path, sides: Sequence[str], settings: dict[str, Any]) -> dict[str, Any]:
    """One repetition on the rows in the folder `stored`: figures of each side, the sides in this order."""
    found: dict[str, dict[str, float]] = {side: {} for side in sides}
    trainers = {}
    with tempfile.TemporaryDirectory(dir=stored.parent) as work:
        for side in sides:
            # `datasets` writes its cache beside the rows: in a folder of its own no side finds what another left.
            folder = copytree(stored, Path(work) / side, copy_function=os.link)
            rows, start = Dataset.load_from_disk(folder), perf_counter()
            data = SIDES[side](task, rows)
            found[side]["preparation_seconds"] = perf_counter() - start
            found[side]["bytes_written"] = sum(f.stat().st_size for f in folder.glob("cache-*"))
            trainers[side] = trainer_of(task, data, settings)
            trainers[side].remove_callback(PrinterCallback)
        for side in sides:
            start = perf_counter()
            masks = [batch["attention_mask"] for batch in trainers[side].get_train_dataloader()]
            found[side]["input_seconds"] = perf_counter() - start
            found[side]["padding_share"] = 1 - sum(int(m.sum()) for m in masks) / sum(m.numel() for m in masks)
        for side in sides:
            start = perf_counter()
            trainers[side].train()
            found[side]["epoch_seconds"] = perf_counter() - start
    return found


def ratios_to_peer(runs: Sequence[Mapping[str, Any]], side: str) -> dict[str, dict[str, float]]:
    """How many times faster than the peer this side was, in everything that is counted in seconds."""
    names = [name for name in runs[0][side] if name.endswith("_seconds")]
    times = {name: [run["peer"][name] / run[side][name] for run in runs] for name in names}
    return {name: {"min": min(t), "median": median(t), "max": max(t)} for name, t in times.items()}


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    data_args, args = parse_arguments(DataArguments, BenchmarkArguments, argv=argv)
    start, load = perf_counter(), os.getloadavg()[0]
    # Model, vocabulary and checks at the defaults of recipes/asr_ctc.py, and no augmentation
    set_seed(0)
    rows = load_split(replace(data_args, streaming=False), data_args.train_split)
    rows = rows.select(range(min(len(rows), data_args.max_train_examples or len(rows))))
    check = RowCheck(16_000, data_args.normalizer, data_args.min_seconds, data_args.max_seconds)
    tokenizer = build_char_tokenizer([check.normalized(text) for text in rows["text"]])
    extractor = SpectralFeatureExtractor()  # log-mel
    model = LstmForCTC(LstmCTCConfig(vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id))
    check = replace(check, min_frames=LabelFrames(tokenizer), num_frames=FrameCount.of(model, extractor))
    task = Task(Wav2Vec2Processor(extractor, tokenizer), model, check, data_args.num_proc)
    rows, _ = check_rows(rows, check, task.num_proc)  # the peer would stop at a row that cannot be used
    audio_seconds = sum(rows["seconds"])

    with tempfile.TemporaryDirectory() as work:
        settings = {"output_dir": f"{work}/output", "num_train_epochs": 1, "report_to": "none", "disable_tqdm": True}
        settings |= {"per_device_train_batch_size": args.batch_size, "dataloader_num_workers": args.workers, "seed": 0}
        settings |= dict.fromkeys(("eval_strategy", "save_strategy", "logging_strategy"), "no")
        settings |= {"load_best_model_at_end": False}
        rows.remove_columns("seconds").save_to_disk(stored := Path(work) / "rows")
        runs = [measure(task, stored, list(SIDES)[:: (-1) ** number], settings) for number in range(args.repetitions)]

    for side in (side for run in runs for side in run.values()):
        for phase in ("input", "epoch"):
            side[f"{phase}_audio_seconds_per_second"] = audio_seconds / side[f"{phase}_seconds"]
        for n in (1, args.epochs):
            side[f"preparation_and_{n}_epochs_seconds"] = side["preparation_seconds"] + n * side["epoch_seconds"]
    ratios = {side: ratios_to_peer(runs, side) for side in SIDES if side != "peer"}
    print(f"{'median':36}", *(f"{side:>12}" for side in SIDES), *(f"{f'peer / {side}':>24}" for side in ratios))
    for name in runs[0]["peer"]:
        medians = (f"{median(run[side][name] for run in runs):12,.5g}" for side in SIDES)
        found = (ratio[name] for ratio in ratios.values() if name in ratio)
        print(f"{name:36}", *medians, *(f"{r['median']:9.2f} ({r['min']:5.2f} - {r['max']:5.2f})" for r in found))
    machine = f"{os.cpu_count()} cores, {torch.get_num_threads()} of them for torch, load average {load:.1f} before"
    facts = {"ratios": ratios, "runs": runs, "clips": len(rows), "audio_seconds": audio_seconds, "machine": machine}
    seconds = perf_counter() - start
    return write_results(Path(args.output), {}, seed=0, seconds=seconds, command=command_line(), **facts)


if __name__ == "__main__":
    main()
