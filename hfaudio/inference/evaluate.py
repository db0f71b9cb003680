"""Error rates of any model that `pipeline("automatic-speech-recognition")` opens, ours or not, on a dataset split."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import datasets
import numpy as np
import torch
from tqdm import tqdm
from transformers import pipeline

from hfaudio.data.datasets import DataArguments, RowCheck, SkipCounts, SkipRow, load_split, no_usable_rows
from hfaudio.inference.transcribe import choose_device, load_config
from hfaudio.metrics.error_rate import ErrorTally
from hfaudio.metrics.results import command_line, error_table, split_rates, write_results
from hfaudio.text.normalize import normalize

BATCHES_SORTED_TOGETHER = 8  # clips of similar length share a batch; at most so many batches of audio are in memory
WORST = 50

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Clip:
    """Samples (N,) of a row that can be used, its normalised transcript and its speaker, if known."""

    samples: np.ndarray
    text: str
    speaker: str | None


def evaluate(
    model: str,
    arguments: DataArguments,
    *,
    split: str = "test",
    output: Path,
    errors: Path | None = None,
    batch_size: int = 1,
    device: str | None = None,
    trust_remote_code: bool = False,
    language_model: bool = True,
    seed: int = 0,
    progress: bool = True,
) -> dict[str, Any]:
    """What it writes to `output`: rates `{split}/wer/greedy`, cer, mer and the WER of each speaker, with the facts.

    Models with a language model have "lm" in place of "greedy", models that generate (Whisper) "generate".
    Hypotheses and transcripts are both written by the normaliser that the model was trained with
    (`config.text_normalizer`), or if it names none by that of the `arguments`. Rows that cannot be used, or are
    outside the duration limits of the `arguments`, are skipped and counted by reason.

    Args:
        model: a folder or Hub id.
        errors: a Markdown file for the worst utterances.
        batch_size: clips in one forward pass. At 1 every clip gets the answer that `pipeline()` gives it alone; more
            is faster on a GPU, but padding then changes the answers of models that see it, such as wav2vec2-base.
        language_model: decode with the one in the model's folder, where there is one.
        seed: of the intervals' bootstrap.

    Raises:
        ValueError: no such model, dataset, split or column, or no row that can be used.
    """
    start = time.time()
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    device = choose_device(device)
    config = load_config(model, trust_remote_code=trust_remote_code)
    normalizer = config.to_dict().get("text_normalizer", arguments.normalizer)
    rows = load_split(arguments, split)
    if arguments.max_eval_examples is not None:
        rows = rows.take(arguments.max_eval_examples)
    recognizer: Any = pipeline(
        "automatic-speech-recognition", model=model, device=device, trust_remote_code=trust_remote_code
    )
    if not language_model:
        recognizer.lm_decoder = None
    rate = recognizer.feature_extractor.sampling_rate
    check = RowCheck(rate, normalizer, arguments.min_seconds, arguments.max_seconds)
    files = [output] if errors is None else [output, errors]
    for file in files:  # a place that cannot be written must show before the work, not after it
        file.parent.mkdir(parents=True, exist_ok=True)
        file.open("a").close()
    skipped, tally = SkipCounts(), ErrorTally()
    audio_seconds = recognition_seconds = 0.0
    for clips in blocks(usable_clips(rows, check, skipped, progress=progress), BATCHES_SORTED_TOGETHER * batch_size):
        before = time.time()
        hypotheses = recognize(recognizer, [clip.samples for clip in clips], batch_size)
        recognition_seconds += time.time() - before
        for clip, hypothesis in zip(clips, hypotheses, strict=True):
            audio_seconds += len(clip.samples) / rate
            tally.add(clip.text, normalize(hypothesis, normalizer), clip.speaker)
    if not len(tally):
        raise no_usable_rows(skipped, check)
    if errors is not None:
        errors.write_text(error_table(tally.worst(WORST)), encoding="utf-8")
    return write_results(
        output,
        split_rates(tally, split, variant_name(recognizer), seed=seed),
        seed=seed,
        seconds=time.time() - start,
        command=command_line(),
        model=model,
        dataset=arguments.dataset,
        split=split,
        normalizer=normalizer,
        skipped=skipped.by_reason,
        device=device_name(device),
        batch_size=batch_size,
        audio_seconds=round(audio_seconds, 1),
        recognition_seconds=round(recognition_seconds, 1),
        rtfx=round(audio_seconds / recognition_seconds, 2),  # seconds of audio in a second, without reading it
    )


def variant_name(recognizer: Any) -> str:
    """How an open pipeline decodes, the last part of a metric's name."""
    if recognizer.type != "ctc":
        return "generate"
    return "greedy" if recognizer.lm_decoder is None else "lm"


def usable_clips(
    rows: datasets.Dataset | datasets.IterableDataset, check: RowCheck, skipped: SkipCounts, *, progress: bool
) -> Iterator[Clip]:
    """The rows that can be used, decoded; every row is counted in `skipped`."""
    total = len(rows) if isinstance(rows, datasets.Dataset) else None
    for row in tqdm(rows, total=total, desc="evaluating", unit="clip", disable=not progress):
        try:
            samples, text = check.decode(row)
        except SkipRow as skip:
            skipped.add(skip.reason)
            continue
        skipped.add(None)
        yield Clip(samples, text, row.get("speaker"))


def blocks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of `size` items, the last one shorter."""
    iterator = iter(items)
    while block := list(islice(iterator, size)):
        yield block


def recognize(recognizer: Any, clips: list[np.ndarray], batch_size: int) -> list[str]:
    """Texts by an open pipeline of clips (N,) at its own rate, in their order; similar lengths share a batch."""
    rate = recognizer.feature_extractor.sampling_rate
    order = sorted(range(len(clips)), key=lambda index: len(clips[index]))
    inputs = [{"raw": clips[index], "sampling_rate": rate} for index in order]
    outputs = recognizer(inputs, batch_size=batch_size)
    texts = {index: output["text"] for index, output in zip(order, outputs, strict=True)}
    return [texts[index] for index in range(len(clips))]


def device_name(device: str) -> str:
    """What a speed was measured on: the name of a GPU, or "cpu (2 threads)"."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return f"{device} ({torch.get_num_threads()} threads)"
