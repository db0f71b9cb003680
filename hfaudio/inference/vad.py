"""Where speech is in a recording, and windows of at most 30 s that do not cut through it."""

import importlib.util
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import torch

RATE = 16_000  # Hz, of silero-vad and of all speech models here
Span = tuple[int, int]  # first sample, and the one behind the last

QUIET_SECONDS = 0.1  # a window without VAD is cut in the middle of its quietest 0.1 s
SEARCH_SECONDS = 6.0  # ... among its last 6 s


@lru_cache(maxsize=1)
def _silero() -> Any:
    threads = torch.get_num_threads()
    from silero_vad import load_silero_vad  # optional; brings its weights along, and sets torch to one thread

    model = load_silero_vad()
    torch.set_num_threads(threads)
    return model


def check_installed() -> None:
    """ValueError with the remedy where silero-vad is missing."""
    if importlib.util.find_spec("silero_vad") is None:
        raise ValueError('finding speech (vad) needs silero-vad: pip install "hfaudio[vad]", or leave it out')


def speech_spans(samples: np.ndarray) -> list[Span]:
    """Where samples (N,) at 16 kHz hold speech, in order, by silero-vad (Silero Team 2021, MIT licence)."""
    from silero_vad import get_speech_timestamps

    if not len(samples):
        return []
    found = get_speech_timestamps(torch.from_numpy(samples), _silero(), sampling_rate=RATE, speech_pad_ms=100)
    return [(span["start"], span["end"]) for span in found]


def speech_windows(spans: list[Span], max_samples: int) -> list[Span]:
    """Spans of speech joined to windows of at most `max_samples`; a longer span is cut into equal parts."""
    windows: list[Span] = []
    for start, end in spans:
        parts = -(-(end - start) // max_samples)
        cuts = [start + (end - start) * part // parts for part in range(parts + 1)]
        for first, last in pairwise(cuts):
            if windows and last - windows[-1][0] <= max_samples:
                windows[-1] = (windows[-1][0], last)
            else:
                windows.append((first, last))
    return windows


def quiet_windows(samples: np.ndarray, max_samples: int) -> list[Span]:
    """Windows of at most `max_samples` over all of samples (N,), each cut where its end is quietest."""
    windows: list[Span] = []
    start = 0
    while len(samples) - start > max_samples:
        cut = start + quietest(samples[start : start + max_samples])
        windows.append((start, cut))
        start = cut
    if len(samples) > start:
        windows.append((start, len(samples)))
    return windows


def quietest(samples: np.ndarray) -> int:
    """The middle of the 0.1 s with the least energy among the last 6 s, at most the last half, of samples (N,)."""
    width = min(round(QUIET_SECONDS * RATE), max(1, len(samples) // 4))
    first = len(samples) - min(round(SEARCH_SECONDS * RATE), len(samples) // 2)
    energy = np.concatenate([[0.0], np.cumsum(np.square(samples[first:], dtype=np.float64))])
    return first + int(np.argmin(energy[width:] - energy[:-width])) + width // 2
