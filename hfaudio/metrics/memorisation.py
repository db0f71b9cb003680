"""Whether generated music repeats training clips: code by code, and as melody and harmony.

Both are measured of held-out real clips, too, which cannot have been copied: music shares phrases and chords. Needs
librosa: pip install 'hfaudio[music]'.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import librosa
import numpy as np

from hfaudio.audio.resample import resample
from hfaudio.metrics.obedience import CHROMA_HOP, CHROMA_N_FFT, MELODIC, SAMPLE_RATE, pitch_classes

FRAMES_PER_SECOND = SAMPLE_RATE / CHROMA_HOP  # 15.6, of chroma
OVERLAP = round(3.0 * FRAMES_PER_SECOND)  # two clips are alike only if they are for 3 s


@dataclass(frozen=True)
class SharedRun:
    """The longest run of codes that a clip shares with any training clip; of several, the first."""

    frames: int
    start: int
    clip: int  # the training clip, -1 if not one code is shared
    clip_start: int


def longest_shared_runs(clips: Sequence[np.ndarray], training: Sequence[np.ndarray]) -> list[SharedRun]:
    """For each of the clips (T,) of integers, the longest run that is somewhere in the training clips.

    Runs of one length are compared by hashes, length after length, until none is shared: linear in the codes for each
    length. The hash is a polynomial modulo 2^64; what it finds is compared code by code.
    """
    runs = [SharedRun(0, 0, -1, 0)] * len(clips)
    places = _Runs(training)
    asked = _Runs(clips)
    while places.grow() and asked.grow():
        order = np.argsort(places.hashes, kind="stable")
        found = np.searchsorted(places.hashes, asked.hashes, sorter=order).clip(max=len(order) - 1)
        match = order[found]
        shared = places.hashes[match] == asked.hashes
        if not shared.any():
            break
        for number in np.flatnonzero(shared)[::-1]:  # backwards, so that the first one stays
            mine, start = asked.clip[number], asked.start[number]
            other, other_start = places.clip[match[number]], places.start[match[number]]
            length = places.length
            theirs = training[other][other_start : other_start + length]
            if np.array_equal(clips[mine][start : start + length], theirs):
                runs[mine] = SharedRun(length, int(start), int(other), int(other_start))
        asked.keep(shared)  # a longer run begins with a shared one
    return runs


class _Runs:
    """All runs of one length in some clips, by their hashes."""

    BASE = np.uint64(0x9E3779B97F4A7C15)  # odd, so that no power of it vanishes

    def __init__(self, clips: Sequence[np.ndarray]) -> None:
        self.codes = np.concatenate([np.asarray(clip, np.uint64) + np.uint64(1) for clip in clips])
        ends = np.cumsum([len(clip) for clip in clips])
        self.clip = np.repeat(np.arange(len(clips)), [len(clip) for clip in clips])
        self.place = np.arange(len(self.codes))
        self.begin = ends - [len(clip) for clip in clips]
        self.end = ends
        self.hashes = np.zeros(len(self.codes), np.uint64)
        self.length = 0

    @property
    def start(self) -> np.ndarray:
        """Where in their clips the runs begin."""
        return self.place - self.begin[self.clip]

    def grow(self) -> bool:
        """Make all runs longer by a code, without those that reach beyond their clip; whether any is left."""
        self.keep(self.place + self.length < self.end[self.clip])
        with np.errstate(over="ignore"):
            self.hashes = self.hashes * self.BASE + self.codes[self.place + self.length]
        self.length += 1
        return len(self.hashes) > 0

    def keep(self, chosen: np.ndarray) -> None:
        self.hashes, self.clip, self.place = self.hashes[chosen], self.clip[chosen], self.place[chosen]


def chroma_sequence(samples: np.ndarray, sample_rate: int) -> np.ndarray:
    """Pitch classes (T, 12) of mono samples (N,), 15.6 frames a second, each of length 1 or, in silence, 0."""
    x = resample(samples.astype(np.float32), sample_rate, SAMPLE_RATE)
    magnitude = np.abs(librosa.stft(x, n_fft=CHROMA_N_FFT, hop_length=CHROMA_HOP))
    chroma = pitch_classes(magnitude, MELODIC[1]).T
    lengths = np.linalg.norm(chroma, axis=1, keepdims=True)
    return (chroma / np.maximum(lengths, 1e-9) * (lengths > 1e-3)).astype(np.float32)


def chroma_similarity(
    clips: Sequence[np.ndarray], training: Sequence[np.ndarray], overlap: int = OVERLAP
) -> np.ndarray:
    """(len(clips),): how alike each chroma sequence (T, 12) is to the training clip it is most alike to, 0 to 1.

    The mean cosine of frames at the best alignment in time, of those in which at least `overlap` frames meet (or all
    of a shorter clip): a cross-correlation, as of cover songs (Ellis and Poliner 2007,
    doi:10.1109/ICASSP.2007.367348). Keys are not aligned: a copy in another key is not found.
    """
    longest = max(len(clip) for clip in (*clips, *training))
    size = 2 * longest
    spectra = np.stack([np.fft.rfft(clip, size, axis=0) for clip in training]).astype(np.complex64)  # (n, F, 12)
    lengths = np.array([len(clip) for clip in training])
    lags = np.arange(size)
    lags = np.where(lags < longest, lags, lags - size)  # of the clip behind the training clip's beginning
    best = []
    for clip in clips:
        cross = np.einsum("nfc,fc->nf", spectra, np.fft.rfft(clip, size, axis=0).conj().astype(np.complex64))
        sums = np.fft.irfft(cross, size, axis=1)
        met = np.minimum(lengths[:, None], lags + len(clip)) - np.maximum(0, lags)
        enough = met >= np.minimum(overlap, np.minimum(lengths[:, None], len(clip)))
        best.append(np.where(enough, sums / np.maximum(met, 1), 0).max())
    return np.array(best).clip(0, 1)


@dataclass(frozen=True)
class Nearness:
    """One measure of how near clips are to the training clips, of generated and of held-out real ones."""

    generated_median: float
    generated_largest: float
    heldout_median: float
    heldout_99: float  # 99th percentile
    generated_above: float  # share of generated clips above it: 0.01 is expected where nothing is copied


@dataclass(frozen=True)
class MemorisationReport:
    """What is generated beside real clips that were not trained on."""

    run_seconds: Nearness
    chroma: Nearness
    generated: int
    heldout: int
    training: int

    def table(self) -> str:
        """Markdown."""
        lines = [
            f"{self.generated} generated and {self.heldout} held-out real clips against {self.training} training "
            "clips",
            "",
            "| nearest training clip | generated, median | largest | held-out real, median | 99 % | "
            "generated above that |",
            "|---|---:|---:|---:|---:|---:|",
        ]
        for name, near in (("longest equal run of codes, s", self.run_seconds), ("chroma similarity", self.chroma)):
            lines.append(
                f"| {name} | {near.generated_median:.2f} | {near.generated_largest:.2f} | {near.heldout_median:.2f} | "
                f"{near.heldout_99:.2f} | {100 * near.generated_above:.1f} % |"
            )
        return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Music:
    """Clips as their coarsest codes (T,) and their chroma sequences (T, 12)."""

    codes: Sequence[np.ndarray]
    chroma: Sequence[np.ndarray]


def memorisation(generated: Music, heldout: Music, training: Music, *, frame_rate: float) -> MemorisationReport:
    """How near generated and held-out clips come to training clips; `frame_rate` is that of the codes, in Hz."""
    runs = [
        np.array([run.frames / frame_rate for run in longest_shared_runs(part.codes, training.codes)])
        for part in (generated, heldout)
    ]
    alike = [chroma_similarity(part.chroma, training.chroma) for part in (generated, heldout)]
    sizes = (len(generated.codes), len(heldout.codes), len(training.codes))
    return MemorisationReport(nearness(*runs), nearness(*alike), *sizes)


def nearness(generated: np.ndarray, heldout: np.ndarray) -> Nearness:
    limit = float(np.quantile(heldout, 0.99))
    return Nearness(
        float(np.median(generated)),
        float(generated.max()),
        float(np.median(heldout)),
        limit,
        float((generated > limit).mean()),
    )
