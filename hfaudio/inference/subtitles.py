"""Words with times to subtitles: readable segments, SubRip (.srt), WebVTT (.vtt), plain text and JSON.

Limits are those of broadcasters' guides (BBC, Netflix): two lines of 42 characters, at least a second on the screen.
"""

import dataclasses
import json
import math
import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Any

from hfaudio.decoding.greedy import Word
from hfaudio.inference.transcribe import Transcript

LINE_CHARS = 42
SHORTEST_SECONDS = 1.0
ONE_PICTURE = 0.04  # at 25 pictures a second: what a segment gets at least when words are given equal times


@dataclass(frozen=True)
class Segment:
    """What is on the screen from `start` to `end` seconds: one or two lines, and the words in them."""

    text: str
    start: float
    end: float
    words: tuple[Word, ...]


def segment_words(transcript: Transcript) -> tuple[Word, ...]:
    """Words of a transcript of which only segments have times: these are shared out by characters."""
    words = []
    for segment in transcript.segments:
        seconds_each = (segment.end - segment.start) / max(1, len(segment.text))
        for match in re.finditer(r"\S+", segment.text):
            start, end = (segment.start + place * seconds_each for place in match.span())
            words.append(Word(match[0], start, end, math.nan))
    return tuple(words)


def segments(
    words: Sequence[Word],
    *,
    line_chars: int = LINE_CHARS,
    max_seconds: float = 6.0,
    pause_seconds: float = 0.8,
) -> list[Segment]:
    """Segments of at most two lines that do not overlap, in the order of the words.

    A segment ends before a pause of `pause_seconds`, before its words last longer than `max_seconds` (one word alone
    may), and when its lines are full. It stays a second where the next one leaves the room. Words longer than a line
    (a Chinese sentence is one word) are cut, their time in proportion.
    """
    groups: list[list[Word]] = []
    for piece in chain.from_iterable(_cut(word, line_chars) for word in words):
        if groups and _belongs(piece, groups[-1], line_chars, max_seconds, pause_seconds):
            groups[-1].append(piece)
        else:
            groups.append([piece])
    starts: list[float] = []
    for group in groups:
        # Words of a Whisper may begin at the same time, or before those in front of them.
        earliest = starts[-1] + ONE_PICTURE if starts else 0.0
        starts.append(max(group[0].start, earliest))
    found = []
    for group, (start, following) in zip(groups, pairwise([*starts, math.inf]), strict=True):
        end = min(max(start + SHORTEST_SECONDS, *(word.end for word in group)), following)
        found.append(Segment("\n".join(_lines(group, line_chars)), start, end, tuple(group)))
    return found


def to_srt(subtitles: Sequence[Segment]) -> str:
    """SubRip: numbered segments, times such as 00:01:02,345."""
    return "\n".join(
        f"{number}\n{_clock(segment.start, ',')} --> {_clock(segment.end, ',')}\n{segment.text}\n"
        for number, segment in enumerate(subtitles, 1)
    )


def to_vtt(subtitles: Sequence[Segment]) -> str:
    """WebVTT: times such as 00:01:02.345, and "&", "<" and ">" escaped, as they would begin markup."""
    cues = (
        f"\n{_clock(segment.start, '.')} --> {_clock(segment.end, '.')}\n{_escaped(segment.text)}\n"
        for segment in subtitles
    )
    return "WEBVTT\n" + "".join(cues)


def to_txt(transcript: Transcript) -> str:
    """The text on one line."""
    return transcript.text + "\n"


def to_json(transcript: Transcript) -> str:
    """`{"text", "seconds", "words": [{"text", "start", "end", "confidence"}]}`, null for an unknown confidence.

    Of a model that generates with "segments": [{"text", "start", "end"}].
    """
    words = [
        {
            "text": word.text,
            "start": round(word.start, 3),
            "end": round(word.end, 3),
            "confidence": None if math.isnan(word.confidence) else round(word.confidence, 4),  # JSON has no NaN
        }
        for word in transcript.words
    ]
    content: dict[str, Any] = {"text": transcript.text, "seconds": round(transcript.seconds, 3), "words": words}
    if transcript.segments:
        content["segments"] = [
            {"text": segment.text, "start": round(segment.start, 3), "end": round(segment.end, 3)}
            for segment in transcript.segments
        ]
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def _belongs(word: Word, group: list[Word], line_chars: int, max_seconds: float, pause_seconds: float) -> bool:
    """Whether the word goes on with this group."""
    return (
        word.start - group[-1].end < pause_seconds
        and word.end - group[0].start <= max_seconds
        and len(_lines([*group, word], line_chars)) <= 2
    )


def _lines(words: Sequence[Word], line_chars: int) -> list[str]:
    """The words in as few lines as they need; two are about equally long, which reads faster than 40 + 2."""
    text = " ".join(word.text for word in words)
    lines = textwrap.wrap(text, line_chars, break_long_words=False, break_on_hyphens=False)
    if len(lines) != 2:
        return lines
    breaks = [index for index, char in enumerate(text) if char == " "]
    middle = min(breaks, key=lambda index: max(index, len(text) - index - 1))
    return [text[:middle], text[middle + 1 :]]


def _cut(word: Word, line_chars: int) -> Iterator[Word]:
    """The word in pieces of at most a line, all of its time shared out by their characters."""
    seconds_each = (word.end - word.start) / max(1, len(word.text))
    for first in range(0, len(word.text), line_chars):
        text = word.text[first : first + line_chars]
        start = word.start + first * seconds_each
        yield dataclasses.replace(word, text=text, start=start, end=start + len(text) * seconds_each)


def _clock(seconds: float, decimal: str) -> str:
    """Hours, minutes, seconds and thousandths: 3723.4 -> 01:02:03,400."""
    total, thousandths = divmod(round(seconds * 1000), 1000)
    return f"{total // 3600:02d}:{total // 60 % 60:02d}:{total % 60:02d}{decimal}{thousandths:03d}"


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
