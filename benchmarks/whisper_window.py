"""Training steps of a Whisper on clips at their own length against transformers' way, clips padded to 30 s.

    HFAUDIO_REAL=... python benchmarks/whisper_window.py -o whisper_window.json

The peer is the stock encoder on features of 30 s, as in transformers' run_speech_recognition_seq2seq.py; ours is the
same model on the same clips with `crop_encoder`. Forward, backward and AdamW step of the same batches, all weights
trained; batches are those of a training (clips of similar length). Alternating, ratios of each repetition.
"""

import argparse
import json
import os
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSpeechSeq2Seq, AutoProcessor

from hfaudio.data.collate import Seq2SeqCollator
from hfaudio.data.datasets import DataArguments, RowCheck, check_rows, load_split
from hfaudio.data.examples import ExampleEncoder, SpeechExamples
from hfaudio.data.sampler import BucketSampler
from hfaudio.models.seq2seq import crop_encoder
from hfaudio.processing.targets import WhisperTargets


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batches", type=int, default=4, help="training steps in a repetition")
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    root = Path(os.environ["HFAUDIO_REAL"])
    folder = str(root / "models" / "whisper-tiny.en")
    processor: Any = AutoProcessor.from_pretrained(folder)
    check = RowCheck(16_000, "english", max_seconds=30)
    rows = load_split(DataArguments(dataset=str(root / "data" / "speechocean762")), "train").select(range(400))
    rows, _ = check_rows(rows, check)
    targets = WhisperTargets(processor.tokenizer, multilingual=False)
    collate = Seq2SeqCollator(processor, processor.tokenizer.pad_token_id)
    # Each way makes its features as it trains: making them is part of a step.
    ways = {name: SpeechExamples(rows, check, ExampleEncoder(processor, None, targets, seconds), keep_seconds=1e9)
            for name, seconds in (("ours", 0.0), ("peer", 30.0))}  # fmt: skip
    models = {}
    for name in ways:
        models[name] = AutoModelForSpeechSeq2Seq.from_pretrained(folder, dtype=torch.float32).train()
    crop_encoder(models["ours"])
    optimizers = {name: torch.optim.AdamW(model.parameters(), lr=1e-6) for name, model in models.items()}
    chosen = list(BucketSampler(rows["seconds"], None, arguments.batch_size, seed=0))[1::5][: arguments.batches]
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(arguments.repeats):
        for name, examples in ways.items():
            start = time.perf_counter()
            for batch in chosen:
                inputs = collate([examples[row] for row in batch])
                models[name](**inputs).loss.backward()
                optimizers[name].step()
                optimizers[name].zero_grad()
            seconds[name].append(time.perf_counter() - start)
            print(f"{name}: {len(chosen) / seconds[name][-1]:.3f} steps a second")
    ratios = [peer / ours for peer, ours in zip(seconds["peer"], seconds["ours"], strict=True)]
    clips = [rows["seconds"][row] for batch in chosen for row in batch]
    print(f"ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    print(f"clips of {statistics.mean(clips):.1f} s ({min(clips):.1f} to {max(clips):.1f})")
    if arguments.output:
        result = {"seconds": seconds, "ratios": ratios, "clips": clips, "threads": torch.get_num_threads()}
        arguments.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
