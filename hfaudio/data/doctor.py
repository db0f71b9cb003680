"""A report on a speech dataset before training: what is in it, and what must or should be repaired.

Every row is read and decoded once. What is kept of it are 130 bytes (hashes, lengths, a fingerprint, its id), so that
a million rows take about 130 MB, streamed or not.
"""

from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from itertools import islice, pairwise
from os import cpu_count
from typing import Any

import numpy as np
from datasets import Dataset, IterableDataset
from tqdm import tqdm

from hfaudio.audio.io import AudioError
from hfaudio.data.datasets import DataArguments, RowCheck, load_each_split
from hfaudio.data.doctor_audio import Clip, measure_clip
from hfaudio.data.doctor_checks import CHECKS, Finding, Severity, is_training
from hfaudio.data.doctor_measures import EXAMPLES, SplitMeasures, log_rates, readable_seconds

SCHEMA = 1  # of the JSON file; raised when a key changes its meaning or goes
HISTOGRAM_BINS = 30
READ_AHEAD = 4  # encoded rows in memory for each thread

# wav2vec2, HuBERT and WavLM give a frame for 20 ms (exactly (N - 400) // 320 + 1 of N samples at 16 kHz, which is one
# frame fewer than 50 a second for every fourth clip); Whisper's encoder too.
FRAMES_PER_SECOND = 50.0

SPEECH_RATE = 16_000  # Hz, what pre-trained speech models read


@dataclass(frozen=True)
class Report:
    """What `examine` found. `splits` holds the measures of each split as plain values."""

    dataset: str
    settings: dict[str, Any]
    splits: dict[str, dict[str, Any]]
    findings: tuple[Finding, ...]

    @property
    def verdict(self) -> Severity:
        """The worst severity of the findings that were not accepted."""
        severities = {finding.severity for finding in self.findings if not finding.accepted}
        return "fix" if "fix" in severities else "look" if "look" in severities else "fine"

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON values."""
        return {"schema": SCHEMA, "verdict": self.verdict, **asdict(self)}


def examine(
    arguments: DataArguments,
    *,
    splits: list[str] | None = None,
    max_rows: int | None = None,
    frames_per_second: float = FRAMES_PER_SECOND,
    accept: tuple[str, ...] = (),
    threads: int | None = None,
) -> Report:
    """Read the splits of a dataset (by default all) and judge them.

    Args:
        max_rows: read only so many rows of each split, from its beginning.
        frames_per_second: output frames of the model that is to be trained; labels are counted in characters.
        accept: names of findings (one of CHECKS) that are known and do not count for the verdict.
        threads: that decode; by default one for each processor.

    Raises ValueError for a dataset, split or column that does not exist or a split without rows, and for options out
    of their range.
    """
    _check_options(max_rows, frames_per_second, accept, threads)
    rows = load_each_split(arguments, splits)
    names = sorted(rows, key=lambda name: not is_training(name))
    check = RowCheck(
        SPEECH_RATE,
        arguments.normalizer,
        arguments.min_seconds,
        arguments.max_seconds,
        min_frames=character_frames,
        num_frames=lambda samples: int(samples / SPEECH_RATE * frames_per_second),
    )
    measured = {}
    for name in names:
        measured[name] = SplitMeasures(name, check)
        for row, clip in measured_rows(rows[name], name, max_rows, threads or cpu_count() or 1):
            measured[name].add(row, clip)
    settings = {
        "normalizer": arguments.normalizer,
        "min_seconds": arguments.min_seconds,
        "max_seconds": arguments.max_seconds,
        "frames_per_second": frames_per_second,
        "max_rows": max_rows,
    }
    findings = (check_splits(measured) for check_splits in CHECKS.values())
    return Report(
        dataset=arguments.dataset,
        settings=settings,
        splits={name: split_facts(split) for name, split in measured.items()},
        findings=tuple(replace(finding, accepted=finding.name in accept) for finding in findings),
    )


def _check_options(
    max_rows: int | None, frames_per_second: float, accept: tuple[str, ...], threads: int | None
) -> None:
    for option, value in (("--max_rows", max_rows), ("--threads", threads)):
        if value is not None and value < 1:
            raise ValueError(f"{option} must be at least 1; got {value}")
    if not frames_per_second > 0:
        raise ValueError(f"--frames_per_second must be above 0; got {frames_per_second:g}")
    if unknown := [name for name in accept if name not in CHECKS]:
        raise ValueError(f"--accept takes names of findings ({', '.join(CHECKS)}); got {', '.join(unknown)}")


def character_frames(text: str) -> int:
    """Frames that CTC needs for a text in characters: one each, and a blank between two that are equal."""
    return len(text) + sum(a == b for a, b in pairwise(text))


def measured_rows(
    rows: Dataset | IterableDataset, name: str, max_rows: int | None, threads: int
) -> Iterator[tuple[dict[str, Any], Clip | str]]:
    """Rows in their order, each with the measures of its audio or the reason (AUDIO_REASONS) why there are none.

    Threads decode, as libsndfile and NumPy's FFT leave Python's lock; at most READ_AHEAD rows for each are in memory.
    """
    total = len(rows) if isinstance(rows, Dataset) else None
    if max_rows is not None:
        total = max_rows if total is None else min(total, max_rows)
    waiting: deque[tuple[dict[str, Any], Future[Clip | str]]] = deque()
    with ThreadPoolExecutor(threads) as pool, tqdm(total=total, desc=name, unit=" rows") as progress:
        for row in islice(rows, max_rows):
            waiting.append((row, pool.submit(_clip_or_reason, row["audio"])))
            if len(waiting) == READ_AHEAD * threads:
                done, future = waiting.popleft()
                progress.update()
                yield done, future.result()
        for done, future in waiting:
            progress.update()
            yield done, future.result()


def _clip_or_reason(audio: Mapping[str, Any] | None) -> Clip | str:
    try:
        return measure_clip(audio)
    except AudioError as error:
        return error.reason


def split_facts(split: SplitMeasures) -> dict[str, Any]:
    """The measures of a split as JSON values; lengths in seconds."""
    seconds = readable_seconds(split)
    rates = np.exp(log_rates(split)[1])
    total = max(float(seconds.sum()), 1e-9)
    texts, counts = np.unique(np.asarray(split.texts), return_counts=True)
    texts, counts = texts[texts > 0], counts[texts > 0]
    most = [i for i in np.argsort(-counts, kind="stable")[:EXAMPLES] if counts[i] > 1]
    return {
        "rows": len(split),
        "usable_rows": len(split) - sum(split.skipped.values()),
        "skipped": split.skipped,
        "hours": float(seconds.sum()) / 3600,
        "seconds": quantiles(seconds),
        "seconds_histogram": histogram(seconds),
        "characters_per_second": quantiles(rates),
        "characters_per_second_histogram": histogram(rates),
        "silence": {
            "silent_clips": split.count("silent"),
            "leading_share": split.leading_silence / total,
            "trailing_share": split.trailing_silence / total,
        },
        "clipping": {
            "clips": split.clipped_clips,
            "sample_share": split.full_scale_samples / max(split.samples, 1),
        },
        "sample_rates": {str(rate): n for rate, n in sorted(split.sample_rates.items())},
        "channels": {str(channels): n for channels, n in sorted(split.channels.items())},
        "encodings": dict(split.encodings.most_common()),
        "speakers": len(split.speakers) or None,
        "different_transcripts": len(texts),
        "most_frequent_transcripts": [
            {"text": split.known_texts.get(int(texts[i])), "rows": int(counts[i])} for i in most
        ],
        "alphabet": dict(sorted(split.alphabet.items(), key=lambda item: (-item[1], item[0]))),
    }


def histogram(values: np.ndarray) -> dict[str, list[float]]:
    """Edges of equal bins from 0 to the 99.5 % quantile, and counts; what lies above is in the last bin."""
    top = float(np.quantile(values, 0.995)) if len(values) else 1.0
    edges = np.linspace(0, max(top, 1e-3), HISTOGRAM_BINS + 1)
    return {"edges": edges.tolist(), "counts": np.histogram(np.minimum(values, edges[-1]), edges)[0].tolist()}


def quantiles(values: np.ndarray) -> dict[str, float] | None:
    """Least, 5 %, median, 95 % and largest value; None of nothing."""
    if not len(values):
        return None
    names = ("min", "5%", "50%", "95%", "max")
    return dict(zip(names, np.quantile(values, [0, 0.05, 0.5, 0.95, 1]).tolist(), strict=True))
