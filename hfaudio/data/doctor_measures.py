"""What the doctor keeps of a split while it reads it: some numbers for each row, counters, the first examples."""

import hashlib
import heapq
from array import array
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hfaudio.data.datasets import REASONS, RowCheck
from hfaudio.data.doctor_audio import SHAPE_SIZE, Clip
from hfaudio.data.doctor_text import composed_and_decomposed, invisible_characters, is_broken, mixed_script_words

EXAMPLES = 10  # rows named by each finding
NAME_LENGTH = 40  # characters kept of an id or a speaker's name; longer ones end in a hash
SNIPPET_LENGTH = 60  # characters shown of a transcript
UNNAMED = "unknown"  # what `load_split` calls the speaker of a row that names none
KEPT_TEXTS = 10_000  # different transcripts of which the words are known, to show the most frequent ones


@dataclass(frozen=True)
class Example:
    """A row that shows what a finding means."""

    split: str
    id: str
    detail: str = ""


@dataclass
class Cases:
    """How many rows show something, and the first of them."""

    count: int = 0
    examples: list[Example] = field(default_factory=list)

    def add(self, example: Example) -> None:
        self.count += 1
        if len(self.examples) < EXAMPLES:
            self.examples.append(example)


class Names:
    """Strings in a row, in their bytes and 8 more for each."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._ends = array("Q")

    def append(self, name: str) -> None:
        self._bytes += name.encode("utf-8", errors="replace")
        self._ends.append(len(self._bytes))

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> str:
        start = self._ends[index - 1] if index else 0
        return self._bytes[start : self._ends[index]].decode("utf-8")


class SplitMeasures:
    """The measures of the rows of one split: arrays with a number for each row, counters, first examples.

    An unreadable row has 0 seconds; `fingerprints` are 0 for it and for silence, `texts` for an empty transcript.
    """

    def __init__(self, name: str, check: RowCheck) -> None:
        self.name = name
        self.check = check
        self.ids = Names()
        self.seconds = array("f")
        self.speech = array("f")  # seconds from the first to the last loud frame
        self.characters = array("I")  # of the normalised transcript
        self.fingerprints = array("Q")  # of the decoded samples
        self.texts = array("Q")  # hashes of the normalised transcripts
        self.spreads = array("f")
        self.shapes = bytearray()  # SHAPE_SIZE for each row
        self.cases: dict[str, Cases] = defaultdict(Cases)  # by reason not to use a row, and by name of a finding
        self.clipped: list[tuple[float, int]] = []  # a heap of the worst: share of samples at full scale, - row
        self.samples = self.full_scale_samples = self.clipped_clips = 0
        self.leading_silence = self.trailing_silence = 0.0
        self.sample_rates: Counter[int] = Counter()
        self.channels: Counter[int] = Counter()
        self.encodings: Counter[str] = Counter()
        self.speakers: Counter[str] = Counter()
        self.alphabet: Counter[str] = Counter()  # of the normalised transcripts, without blanks
        self.first_seen: dict[str, str] = {}  # the id of the first row with a character
        self.known_texts: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self.ids)

    def add(self, row: Mapping[str, Any], clip: Clip | str) -> None:
        """Take in a row and the measures of its audio, or the reason why it cannot be read."""
        self.ids.append(short_name(row["id"]))
        if row.get("speaker", UNNAMED) != UNNAMED:
            self.speakers[short_name(row["speaker"])] += 1
        text = self.check.normalized(row["text"])
        self._add_text(row["text"] or "", text)
        if isinstance(clip, str):
            self.note(clip)
            clip_numbers = (0.0, 0.0, 0, 0.0, bytes(SHAPE_SIZE))
        else:
            if reason := self.check.refusal(row, text, round(clip.seconds * self.check.sample_rate)):
                rate = len(text) / clip.seconds if clip.seconds else 0.0
                self.note(reason, f"{clip.seconds:.2f} s, {rate:.0f} characters a second: {text}")
            clip_numbers = self._add_clip(clip, text)
        seconds, speech, fingerprint, spread, shape = clip_numbers
        self.seconds.append(seconds)
        self.speech.append(speech)
        self.fingerprints.append(fingerprint)
        self.spreads.append(spread)
        self.shapes += shape

    def _add_text(self, raw: str, text: str) -> None:
        self.characters.append(len(text))
        key = hash64(text) if text else 0
        self.texts.append(key)
        if text and len(self.known_texts) < KEPT_TEXTS:
            self.known_texts.setdefault(key, snippet(text))
        characters = Counter(text)
        del characters[" "]
        for char in characters.keys() - self.alphabet.keys():
            self.first_seen[char] = self.ids[len(self.ids) - 1]
        self.alphabet.update(characters)
        if words := mixed_script_words(text):
            self.note("mixed_scripts", ", ".join(map(spelled, words)))
        composed, decomposed = composed_and_decomposed(raw)
        if composed:
            self.note("composed")
        if decomposed:
            self.note("decomposed", raw)
        if names := invisible_characters(raw):
            self.note("invisible_characters", ", ".join(sorted(set(names))))
        if is_broken(raw):
            self.note("broken_encoding", raw)

    def _add_clip(self, clip: Clip, text: str) -> tuple[float, float, int, float, bytes]:
        self.sample_rates[clip.sample_rate] += 1
        self.channels[clip.channels] += 1
        self.encodings[clip.encoding] += 1
        self.samples += clip.samples
        self.full_scale_samples += clip.full_scale_samples
        self.leading_silence += clip.leading_silence
        self.trailing_silence += clip.trailing_silence
        if clip.clipped:
            self.clipped_clips += 1
            heapq.heappush(self.clipped, (clip.full_scale_samples / clip.samples, -len(self) + 1))
            if len(self.clipped) > EXAMPLES:
                heapq.heappop(self.clipped)
        if clip.silent:
            self.note("silent", f"{clip.loudest_db:.0f} dBFS, {clip.seconds:.2f} s: {text}")
        speech = max(0.0, clip.seconds - clip.leading_silence - clip.trailing_silence)
        return clip.seconds, speech, 0 if clip.silent else clip.fingerprint, clip.spread, clip.shape

    def note(self, kind: str, detail: str = "") -> None:
        """Count the row that was added last as a case of this kind."""
        self.cases[kind].add(self.example(len(self) - 1, detail))

    def example(self, row: int, detail: str = "") -> Example:
        return Example(self.name, self.ids[row], snippet(detail))

    @property
    def skipped(self) -> dict[str, int]:
        """Rows that training would not use, by reason."""
        return {reason: self.cases[reason].count for reason in REASONS if reason in self.cases}

    def count(self, *kinds: str) -> int:
        """Cases of these kinds."""
        return sum(self.cases[kind].count for kind in kinds if kind in self.cases)

    def examples(self, *kinds: str) -> list[Example]:
        """The first cases of these kinds."""
        return [example for kind in kinds if kind in self.cases for example in self.cases[kind].examples]


def hash64(text: str) -> int:
    """A hash that is the same in every process."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", errors="replace"), digest_size=8).digest())


def short_name(name: str) -> str:
    """A name of at most NAME_LENGTH characters, different for different names: long ones end in a hash."""
    return name if len(name) <= NAME_LENGTH else f"{name[: NAME_LENGTH - 17]}~{hash64(name):016x}"


def snippet(text: str) -> str:
    """The beginning of a text in one line, as it can be printed."""
    text = " ".join(text.split())
    text = text if len(text) <= SNIPPET_LENGTH else text[: SNIPPET_LENGTH - 1] + "…"
    return "".join(char if char.isprintable() else f"\\u{ord(char):04x}" for char in text)


def spelled(word: str) -> str:
    """A word and, in brackets, the numbers of its letters beyond ASCII."""
    return f"{word} ({' '.join(f'U+{ord(char):04X}' for char in word if not char.isascii())})"


def readable_seconds(split: SplitMeasures) -> np.ndarray:
    """Lengths (N,) of the rows that can be read."""
    seconds = np.asarray(split.seconds)
    return seconds[seconds > 0]


def log_rates(split: SplitMeasures) -> tuple[np.ndarray, np.ndarray]:
    """Rows with sound and text, and the logarithm of their characters per second between the silent ends."""
    speech, characters = np.asarray(split.speech), np.asarray(split.characters)
    rows = np.flatnonzero((speech > 0) & (characters > 0))
    return rows, np.log(characters[rows] / speech[rows])
