"""Error rates of Whisper checkpoints and adapters on speechocean762, adults and children apart, and on other sets.

    HFAUDIO_REAL=... python benchmarks/whisper_groups.py MODEL [MODEL ...] --windows 10 30 --sets read=FOLDER:test

Each model decodes greedily in windows of so many seconds (30 is Whisper's own), both sides written by the normaliser
"english", with 95 % intervals over speakers; the difference of each model to the first, and of each window to the
last, is tested by a paired bootstrap. Prints a table and writes JSON (-o).
"""

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from tqdm import tqdm
from transformers import AutoModelForSpeechSeq2Seq, AutoProcessor

from hfaudio.data.collate import Seq2SeqCollator
from hfaudio.data.datasets import DataArguments, RowCheck, load_split
from hfaudio.data.examples import ExampleEncoder
from hfaudio.metrics.error_rate import paired_bootstrap, word_error_rate
from hfaudio.metrics.hallucination import is_loop
from hfaudio.models.seq2seq import crop_encoder, generate
from hfaudio.processing.targets import WhisperTargets
from hfaudio.text.normalize import normalize
from hfaudio.training.forgetting import named_set

ADULT = 16  # years


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", help="folders or Hub ids, the first is compared with")
    parser.add_argument("--windows", type=float, nargs="+", default=[10.0], help="seconds that clips are padded to")
    parser.add_argument("--sets", nargs="*", default=[], help="NAME=FOLDER:SPLIT beside the validation split")
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--max_rows", type=int, help="of the validation split, chosen at random")
    parser.add_argument("--max_new_tokens", type=int, default=120, help="where loops are cut off")
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    sets = speechocean(Path(os.environ["HFAUDIO_REAL"]), arguments.max_rows)
    for given in arguments.sets:
        name, place, split = named_set(given)
        sets[name] = read(load_split(DataArguments(dataset=place), split))
    results: list[dict[str, Any]] = []
    texts: dict[tuple[str, float, str], list[str]] = {}
    for model in arguments.models:
        for window in arguments.windows:
            decoder = Decoder(model, window, arguments.batch_size, arguments.max_new_tokens)
            for name, clips in sets.items():
                start = time.time()
                found = decoder([clip["samples"] for clip in clips], name)
                seconds = time.time() - start
                texts[model, window, name] = found
                results += rows_of(model, window, name, clips, found, seconds)
    for row in results:
        print(
            f"{row['model']} | {row['window']:g} s | {row['set']} | {100 * row['wer']:.2f} ({100 * row['low']:.2f} to "
            f"{100 * row['high']:.2f}) | n = {row['n']} | loops {row['loops']} | {row['seconds']:.0f} s"
        )
    comparisons = compare(arguments, sets, texts)
    if arguments.output:
        arguments.output.write_text(json.dumps({"rows": results, "differences": comparisons}, indent=2) + "\n")


def speechocean(root: Path, max_rows: int | None) -> dict[str, list[dict[str, Any]]]:
    """The validation split of speechocean762; its ages come from the column that the loader leaves out."""
    folder = str(root / "data" / "speechocean762")
    rows = load_split(DataArguments(dataset=folder), "validation")
    files = sorted(map(str, Path(folder).rglob("*validation*.parquet")))
    ages = datasets.load_dataset("parquet", data_files=files, split="train", columns=["age"])["age"]
    if max_rows is not None:
        chosen = np.sort(np.random.default_rng(0).choice(len(rows), max_rows, replace=False))
        rows, ages = rows.select(chosen), [ages[index] for index in chosen]
    clips = read(rows)
    for clip, age in zip(clips, ages, strict=True):
        clip["group"] = "adults" if age >= ADULT else "children"
    return {"validation": clips}


def read(rows: datasets.Dataset) -> list[dict[str, Any]]:
    check = RowCheck(16_000, "english", max_seconds=30)
    clips = []
    for row in rows:
        samples, text = check.decode(row)
        clips.append({"samples": samples, "text": text, "speaker": row.get("speaker"), "group": None})
    return clips


class Decoder:
    """A model and a window: clips to normalised texts."""

    def __init__(self, model: str, window: float, batch_size: int, max_new_tokens: int) -> None:
        self.model = AutoModelForSpeechSeq2Seq.from_pretrained(model, dtype=torch.float32).eval()
        crop_encoder(self.model)
        processor: Any = AutoProcessor.from_pretrained(model)
        self.tokenizer = processor.tokenizer
        targets = WhisperTargets(self.tokenizer, multilingual=False)
        self.prompt_length = targets.prompt_length
        self.encode = ExampleEncoder(processor, None, targets, window)
        self.collate = Seq2SeqCollator(processor, self.tokenizer.pad_token_id)
        self.batch_size = batch_size
        self.max_new_tokens = max_new_tokens

    def __call__(self, clips: list[np.ndarray], name: str) -> list[str]:
        order = sorted(range(len(clips)), key=lambda index: len(clips[index]))
        texts: dict[int, str] = {}
        for first in tqdm(range(0, len(order), self.batch_size), desc=name):
            chosen = order[first : first + self.batch_size]
            batch = self.collate([self.encode(clips[index], "", {"id": ""}, epoch=0) for index in chosen])
            inputs = {"input_features": batch["input_features"]}
            prompt = batch["decoder_input_ids"][:, : self.prompt_length]
            ids = generate(self.model, inputs, prompt, max_new_tokens=self.max_new_tokens).ids
            ids = ids.masked_fill(ids < 0, self.tokenizer.pad_token_id)
            decoded = self.tokenizer.batch_decode(ids, skip_special_tokens=True)
            texts |= {index: normalize(text, "english") for index, text in zip(chosen, decoded, strict=True)}
        return [texts[index] for index in range(len(clips))]


def rows_of(
    model: str, window: float, name: str, clips: list[dict[str, Any]], texts: list[str], seconds: float
) -> list[dict[str, Any]]:
    rows = []
    for group in dict.fromkeys([None, *(clip["group"] for clip in clips)]):
        members = [index for index, clip in enumerate(clips) if group in (None, clip["group"])]
        speakers = [clips[index]["speaker"] for index in members]
        rate = word_error_rate(
            [clips[index]["text"] for index in members],
            [texts[index] for index in members],
            groups=None if None in speakers else speakers,
        )
        rows.append(
            {
                "model": model,
                "window": window,
                "set": name if group is None else f"{name}, {group}",
                "wer": rate.value,
                "low": rate.low,
                "high": rate.high,
                "n": rate.n,
                "loops": sum(is_loop(texts[index]) for index in members),
                "seconds": seconds,
            }
        )
    return rows


def compare(
    arguments: argparse.Namespace, sets: dict[str, Any], texts: dict[tuple[str, float, str], list[str]]
) -> list[dict[str, Any]]:
    """Paired differences to the first model at the same window, and to the last window of the same model."""
    found = []
    for (model, window, name), hypotheses in texts.items():
        others = {(arguments.models[0], window, name), (model, arguments.windows[-1], name)} - {(model, window, name)}
        for other in sorted(others):
            speakers = [clip["speaker"] for clip in sets[name]]
            paired = paired_bootstrap(
                [clip["text"] for clip in sets[name]],
                texts[other],
                hypotheses,
                groups=None if None in speakers else speakers,
                num_resamples=2000,
            )
            print(
                f"{model} {window:g} s minus {other[0]} {other[1]:g} s on {name}: {100 * paired.value:+.2f} "
                f"({100 * paired.low:+.2f} to {100 * paired.high:+.2f}), p = {paired.p_value:.4f}"
            )
            found.append({"model": model, "window": window, "other": other, "set": name, **vars(paired)})
    return found


if __name__ == "__main__":
    main()
