"""Cutting a recording, or sound that is still coming, into utterances at its pauses.

Models that were trained on single utterances read these better than chunks of a fixed length, in which several are
normalised together and an n-gram model takes them for one sentence.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby

import numpy as np

FRAME_SECONDS = 0.02
MARGIN_SECONDS = 0.3  # kept around what is loud
CUT_SECONDS = 2.0  # at the end of an utterance that is too long, in which a quiet place to cut it is looked for
SHORTEST_SECONDS = 0.08  # of loud frames in a row, somewhere in an utterance; less are clicks and keys
SPREAD = 3.0  # dB between its louder and its softer frames: 1 dB is a noise that has begun, speech has 10 and more
JUDGED_SECONDS = 0.3  # of an open utterance; shorter ones are judged when they end
SLICE_SECONDS = 1.0  # looked at together, so that the time for a long block grows with its length, not its square
FLOOR_SECONDS = 5.0  # in which the quietest frames are looked for
DECAY = 1.0  # dB a second by which the level of speech is forgotten: a quieter speaker is heard after a loud one
FIRST_PEAK = -30.0  # dB of full scale: speech is taken to be so loud until it was heard
# A frame is loud if it is so many dB above the noise, which alone never is, and not so many below the loudest speech.
ABOVE_FLOOR, LOWEST = 6.0, -30.0
SILENCE = -70.0  # dB; quieter is never speech


@dataclass(frozen=True, eq=False)
class Utterance:
    """Samples (n,) from sample `start` of the whole on."""

    samples: np.ndarray
    start: int


class PauseCutter:
    """Finds utterances in blocks of samples; loudness decides, so that it works for every language and needs no model.

    Args:
        sample_rate: Hz.
        pause_seconds: silence that ends an utterance.
        max_seconds: a longer utterance is cut where it is quietest in its last CUT_SECONDS.
    """

    def __init__(self, sample_rate: int, *, pause_seconds: float = 0.5, max_seconds: float = 20.0) -> None:
        if not pause_seconds > 0 or not max_seconds > 2 * CUT_SECONDS:
            raise ValueError(
                f"pause_seconds must be above 0 and max_seconds above {2 * CUT_SECONDS:g}, got {pause_seconds:g} and "
                f"{max_seconds:g}"
            )
        self.frame = round(FRAME_SECONDS * sample_rate)
        self._pause = max(1, round(pause_seconds / FRAME_SECONDS))
        self._margin = min(round(MARGIN_SECONDS / FRAME_SECONDS), self._pause)
        self._longest = round(max_seconds / FRAME_SECONDS)
        self._judged = round(JUDGED_SECONDS / FRAME_SECONDS)
        self._slice = round(SLICE_SECONDS * sample_rate)
        self._held = np.zeros(0, np.float32)  # from frame `_first` on: the open utterance, or a margin of silence
        self._first = 0
        self._levels: list[float] = []  # dB, of the frames in `_held` that are judged
        self._loud: list[bool] = []
        self._recent: list[float] = []  # dB, of the last FLOOR_SECONDS
        self._peak = FIRST_PEAK
        self._is_speech = False  # the open utterance; once it is, it stays so, as somebody may have read it

    @property
    def open(self) -> Utterance | None:
        """The utterance that has begun and not ended, as far as it is known."""
        begin = self._begin()
        if begin is None or not self._is_speech:
            return None
        return Utterance(self._held[begin * self.frame :], (self._first + begin) * self.frame)

    def push(self, block: np.ndarray) -> list[Utterance]:
        """Utterances that end within these further samples (n,)."""
        ended = []
        for first in range(0, len(block), self._slice):
            self._held = np.concatenate([self._held, block[first : first + self._slice]])
            while (len(self._levels) + 1) * self.frame <= len(self._held):
                at = len(self._levels) * self.frame
                self._judge(self._held[at : at + self.frame])
                utterance = self._ended()
                if utterance is not None:
                    ended.append(utterance)
        return ended

    def finish(self) -> list[Utterance]:
        """What is open when the sound ends."""
        self._is_speech = self._is_speech or self._sounds_spoken()
        last = self.open
        self._held, self._levels, self._loud = np.zeros(0, np.float32), [], []
        return [] if last is None else [last]

    def _judge(self, frame: np.ndarray) -> None:
        level = 10 * math.log10(float(np.square(frame, dtype=np.float64).mean()) + 1e-10)
        self._peak = max(level, self._peak - DECAY * FRAME_SECONDS)
        self._recent = [*self._recent, level][-round(FLOOR_SECONDS / FRAME_SECONDS) :]
        floor = sorted(self._recent)[len(self._recent) // 10]
        threshold = max(floor + ABOVE_FLOOR, self._peak + LOWEST, SILENCE)
        self._levels.append(level)
        self._loud.append(level > threshold)

    def _sounds_spoken(self) -> bool:
        """Whether something held is loud for longer than a click, and the levels change as those of syllables do."""
        longest = max((sum(1 for _ in run) for is_loud, run in groupby(self._loud) if is_loud), default=0)
        if longest * FRAME_SECONDS < SHORTEST_SECONDS:
            return False
        last = len(self._loud) - self._loud[::-1].index(True)
        softer, louder = np.quantile(self._levels[self._loud.index(True) : last], (0.1, 0.9))
        return bool(louder - softer > SPREAD)

    def _begin(self) -> int | None:
        """The first frame held of the open utterance."""
        return max(0, self._loud.index(True) - self._margin) if True in self._loud else None

    def _ended(self) -> Utterance | None:
        """The open utterance if the last frame ends it; silence before it is let go."""
        begin, count = self._begin(), len(self._loud)
        if begin is None:
            self._drop(count - self._margin)
            return None
        if count - self._loud.index(True) >= self._judged:
            self._is_speech = self._is_speech or self._sounds_spoken()
        quiet = self._loud[::-1].index(True)
        if quiet >= self._pause:
            end = count - quiet + self._margin
        elif count - begin >= self._longest:
            last = count - round(CUT_SECONDS / FRAME_SECONDS)
            end = last + int(np.argmin(self._levels[last:])) + 1
        else:
            return None
        utterance = Utterance(self._held[begin * self.frame : end * self.frame], (self._first + begin) * self.frame)
        is_speech, self._is_speech = self._is_speech or self._sounds_spoken(), False
        self._drop(end)
        return utterance if is_speech else None

    def _drop(self, frames: int) -> None:
        if frames > 0:
            self._held = self._held[frames * self.frame :].copy()
            self._levels, self._loud = self._levels[frames:], self._loud[frames:]
            self._first += frames


def utterances(blocks: Iterable[np.ndarray], sample_rate: int, **settings: float) -> Iterator[Utterance]:
    """The utterances of a recording that comes in blocks (n,), in memory that does not grow with its length."""
    cutter = PauseCutter(sample_rate, **settings)
    for block in blocks:
        yield from cutter.push(block)
    yield from cutter.finish()
