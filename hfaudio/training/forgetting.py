"""What a tuned recogniser has unlearned: other data, long recordings, timestamps, silence, and how often it loops.

Measured before and after by transformers' own `pipeline()` on the live model, as users will decode: whole windows of
30 s for a Whisper, long recordings window by window.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from tqdm import tqdm
from transformers import pipeline

from hfaudio.data.datasets import DataArguments, RowCheck, SkipRow, load_split
from hfaudio.data.examples import random_rows
from hfaudio.metrics.error_rate import ErrorRate, paired_bootstrap, word_error_rate
from hfaudio.metrics.hallucination import is_loop
from hfaudio.metrics.results import Share, share
from hfaudio.models.modes import evaluating
from hfaudio.text.normalize import normalize
from hfaudio.training.adapters import plain_model

logger = logging.getLogger(__name__)

RATE = 16_000
SILENT_SECONDS = (1.0, 2.0, 5.0, 10.0)
PAUSE_SECONDS = 0.5  # between the clips of a long recording
BATCH_SIZE = 8


@dataclass
class ForgettingArguments:
    """What is measured before and after a training, beside its own data."""

    forgetting_sets: list[str] | None = field(
        default=None,
        metadata={"help": "Other data, as NAME=FOLDER_OR_ID:SPLIT (default: test); columns audio and text."},
    )
    forgetting_examples: int = field(
        default=50, metadata={"help": "Clips of each set, of the validation data, and joined to long form; 0: none."}
    )
    forgetting_long_seconds: float = field(default=120.0, metadata={"help": "Length of the joined recordings."})

    def __post_init__(self) -> None:
        for given in self.forgetting_sets or []:
            name, equals, place = given.partition("=")
            if not (name and equals and place):
                raise ValueError(
                    f"--forgetting_sets takes NAME=FOLDER_OR_ID or NAME=FOLDER_OR_ID:SPLIT; got {given!r}"
                )
        if self.forgetting_examples < 0 or self.forgetting_long_seconds <= 0:
            raise ValueError("--forgetting_examples must not be negative, --forgetting_long_seconds must be above 0")


@dataclass(frozen=True, eq=False)
class Probe:
    """Clips (N,) at 16 kHz with what is said in them, and by whom if that is known; `timed`: decoded with times."""

    name: str
    clips: list[np.ndarray]
    texts: list[str]
    speakers: list[str] | None = None
    timed: bool = False


@dataclass(frozen=True)
class Answer:
    """What a model made of a probe: normalised texts, and whether the times of each were in order."""

    probe: Probe
    texts: list[str]
    well_timed: list[bool]


def open_probes(
    args: ForgettingArguments, rows: Dataset, check: RowCheck, *, has_times: bool, seed: int
) -> list[Probe]:
    """The probes that `args` ask for; `rows` are the (checked) validation rows of the training's own data.

    Without times (models other than Whisper) there is neither long form nor a probe of timestamps.
    """
    count = args.forgetting_examples
    if count == 0:
        return []
    own = read_probe("own data", random_rows(rows, count, seed), check)
    probes = [own]
    for given in args.forgetting_sets or []:
        name, place, split = named_set(given)
        other = load_split(DataArguments(dataset=place, normalizer=check.normalizer), split)
        assert isinstance(other, Dataset)
        probes.append(read_probe(name, random_rows(other, count, seed), check))
    if has_times:
        probes.append(Probe("own data, with times", own.clips, own.texts, own.speakers, timed=True))
        probes.append(joined(own, args.forgetting_long_seconds))
    else:
        logger.info("the model gives no times: neither long form nor timestamps are measured before and after")
    return [*probes, silence(seed)]


def named_set(given: str) -> tuple[str, str, str]:
    """Name, folder or id, and split of "NAME=FOLDER_OR_ID:SPLIT"; without a split it is "test"."""
    name, _, place = given.partition("=")
    folder, colon, split = place.rpartition(":")
    if colon and "/" not in split and "\\" not in split:
        return name, folder, split
    return name, place, "test"


def read_probe(name: str, rows: Dataset, check: RowCheck) -> Probe:
    """The clips of rows that can be used; ValueError if there are none."""
    clips, texts, speakers = [], [], []
    for row in rows:
        try:
            samples, text = check.decode(row)
        except SkipRow:
            continue
        clips.append(samples)
        texts.append(text)
        speakers.append(row.get("speaker"))
    if not clips:
        raise ValueError(f"no row of {name!r} can be used to measure what is unlearned; leave it out")
    return Probe(name, clips, texts, None if None in speakers else speakers)


def joined(probe: Probe, seconds: float) -> Probe:
    """The clips of a probe in recordings of about so many seconds, half a second of silence between them."""
    pause = np.zeros(round(PAUSE_SECONDS * RATE), np.float32)
    clips: list[np.ndarray] = []
    texts: list[str] = []
    parts: list[np.ndarray] = []
    words: list[str] = []
    for clip, text in zip(probe.clips, probe.texts, strict=True):
        parts += [clip, pause]
        words.append(text)
        if sum(map(len, parts)) >= seconds * RATE:
            clips.append(np.concatenate(parts))
            texts.append(" ".join(words))
            parts, words = [], []
    if parts:
        clips.append(np.concatenate(parts))
        texts.append(" ".join(words))
    return Probe(f"long form ({seconds:g} s)", clips, texts, timed=True)


def silence(seed: int) -> Probe:
    """Clips in which nothing is said: digital zeros, quiet white noise, quiet mains hum."""
    rng = np.random.default_rng(seed)
    clips = []
    for seconds in SILENT_SECONDS:
        time = np.arange(round(seconds * RATE)) / RATE
        noise, hum = 1e-3 * rng.standard_normal(len(time)), 3e-3 * np.sin(2 * np.pi * 50 * time)
        clips += [np.zeros(len(time)), noise, hum + 0.1 * noise]
    return Probe("silence", [clip.astype(np.float32) for clip in clips], [""] * len(clips))


def ask(
    model: Any, processor: Any, probes: Sequence[Probe], *, normalizer: str, generate_kwargs: dict[str, Any]
) -> list[Answer]:
    """The answers of a model, which may have adapters and be in the middle of a training, to all probes."""
    if not probes:
        return []
    plain = plain_model(model)
    recognizer: Any = pipeline(  # type: ignore[call-overload]
        "automatic-speech-recognition",
        model=plain,
        tokenizer=processor.tokenizer,
        feature_extractor=processor.feature_extractor,
        device=plain.device,
    )
    answers = []
    bar = tqdm(total=sum(len(probe.clips) for probe in probes), desc="probes", unit="clip")
    with bar, torch.no_grad(), evaluating(plain):
        for probe in probes:
            # In batches, long recordings of unequal length would fall short of a window at their ends.
            batch_size = 1 if any(len(clip) > 30 * RATE for clip in probe.clips) else BATCH_SIZE
            outputs: list[Any] = []
            for start in range(0, len(probe.clips), batch_size):
                clips = [{"raw": clip, "sampling_rate": RATE} for clip in probe.clips[start : start + batch_size]]
                options = {"return_timestamps": True} if probe.timed else {}
                # Any text is wrong on silence: no need to wait for the end of a loop.
                limit = {} if any(probe.texts) else {"max_new_tokens": 20}
                outputs += recognizer(
                    clips, batch_size=batch_size, generate_kwargs={**generate_kwargs, **limit}, **options
                )
                bar.update(len(clips))
            texts = [normalize(output["text"], normalizer) for output in outputs]
            times = [
                is_well_timed(output.get("chunks", []), len(clip) / RATE)
                for output, clip in zip(outputs, probe.clips, strict=True)
            ]
            answers.append(Answer(probe, texts, times))
    return answers


def is_well_timed(chunks: Sequence[dict[str, Any]], seconds: float) -> bool:
    """Whether segments have both times, in order, and end within the recording or at most 1 s behind it."""
    place = 0.0
    for chunk in chunks:
        start, end = chunk["timestamp"]
        if start is None or end is None or not place - 1e-6 <= start <= end <= seconds + 1:
            return False
        place = end
    return bool(chunks)


class ForgettingReport:
    """What was answered before and after.

    Args:
        normalizer: how the references are written for the score.
    """

    def __init__(self, before: Sequence[Answer], after: Sequence[Answer], *, normalizer: str, seed: int = 0) -> None:
        self.pairs = list(zip(before, after, strict=True))
        self.normalizer = normalizer
        self.seed = seed

    def metrics(self) -> dict[str, ErrorRate | Share]:
        """For metrics.json: "forgetting/NAME/wer/before" and ".../after", also of loops, times, text on silence."""
        found: dict[str, ErrorRate | Share] = {}
        for pair in self.pairs:
            for when, answer in zip(("before", "after"), pair, strict=True):
                for kind, value in self.measures(answer).items():
                    found[f"forgetting/{answer.probe.name}/{kind}/{when}"] = value
        return found

    def measures(self, answer: Answer) -> dict[str, ErrorRate | Share]:
        """The figures of one answer."""
        probe, texts = answer.probe, answer.texts
        if not any(probe.texts):
            return {"text": share(sum(map(bool, texts)), len(texts))}
        references = [normalize(text, self.normalizer) for text in probe.texts]
        found: dict[str, ErrorRate | Share] = {
            "wer": word_error_rate(references, texts, groups=probe.speakers, seed=self.seed),
            "loops": share(sum(map(is_loop, texts)), len(texts)),
        }
        return found | ({"well_timed": share(sum(answer.well_timed), len(texts))} if probe.timed else {})

    def table(self) -> str:
        """Markdown: each figure before and after in percent; of error rates the difference with its 95 % interval.

        There is no interval for a single recording or speaker.
        """
        lines = ["| probe | figure | n | before, % | after, % | difference |", "|---|---|---:|---:|---:|---:|"]
        for before, after in self.pairs:
            first, second = self.measures(before), self.measures(after)
            for kind in first:
                old, new = (f"{100 * figures[kind].value:.1f}" for figures in (first, second))
                change = self._difference(before, after) if kind == "wer" else ""
                lines.append(f"| {before.probe.name} | {kind} | {first[kind].n} | {old} | {new} | {change} |")
        return "\n".join(lines) + "\n"

    def _difference(self, before: Answer, after: Answer) -> str:
        references = [normalize(text, self.normalizer) for text in before.probe.texts]
        paired = paired_bootstrap(
            references, before.texts, after.texts, groups=before.probe.speakers, seed=self.seed, num_resamples=1000
        )
        change = f"{100 * paired.value:+.1f}"
        if len(set(before.probe.speakers or range(len(references)))) == 1:
            return change  # resampling one recording or speaker gives an interval of width 0
        return f"{change} ({100 * paired.low:+.1f} to {100 * paired.high:+.1f})"
