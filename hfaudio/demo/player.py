"""The player of captions as HTML: sound or pictures, waveform, confidence of each word, and the text that follows."""

import base64
import html
import io
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from urllib.parse import quote

import numpy as np
import soundfile

from hfaudio.decoding.greedy import Word
from hfaudio.inference.subtitles import Segment, to_vtt

COLUMNS = 600  # of the waveform picture
HEIGHT = 110  # pixels; the words' band takes the lowest 14
VIDEO_TYPES = (".mp4", ".mov", ".webm", ".mkv")
SURE, FAIR = 0.8, 0.5  # confidences (calibrated: shares of words that are right) at which the colour changes

SCRIPT = Path(__file__).with_name("player.js").read_text(encoding="utf-8")


def player(media: str, subtitles: Sequence[Segment], peaks: np.ndarray, seconds: float, *, is_video: bool) -> str:
    """HTML of a recording at the address `media`, with its subtitles and the waveform's peaks (COLUMNS,)."""
    tag = "video" if is_video else "audio"
    track = "data:text/vtt;base64," + base64.b64encode(to_vtt(subtitles).encode()).decode()
    return (
        '<div class="player">'
        f'<{tag} controls preload="metadata" src="{html.escape(media)}" aria-label="The recording">'
        f'<track kind="captions" label="Captions" src="{track}" default></{tag}>'
        f"{waveform(peaks, [word for cue in subtitles for word in cue.words], seconds)}"
        f'<ol class="cues" aria-label="Captions, in the order of time">{"".join(map(cue, subtitles))}</ol></div>'
    )


def cue(segment: Segment) -> str:
    """A line of the text behind its time, which one can go to."""
    clock = f"{int(segment.start) // 60}:{int(segment.start) % 60:02d}"
    words = " ".join(
        f'<span class="{word_class(word)}" data-start="{word.start:.2f}" data-end="{word.end:.2f}">'
        f"{html.escape(word.text)}</span>"
        for word in segment.words
    )
    return (
        f'<li><button type="button" data-start="{segment.start:.2f}" aria-label="Play from {clock}">{clock}</button>'
        f"<span>{words}</span></li>"
    )


def word_class(word: Word) -> str:
    return "w unsure-word" if word.confidence < FAIR else "w"  # an unknown confidence is NaN, which is not below


def level(confidence: float) -> str:
    """The class of a confidence: its colour."""
    return "sure" if confidence >= SURE else "fair" if confidence >= FAIR else "unsure"


def waveform(peaks: np.ndarray, words: Sequence[Word], seconds: float) -> str:
    """A picture of the loudest samples (COLUMNS,) over time, and below it a band for each word."""
    middle, tallest = (HEIGHT - 14) / 2, (HEIGHT - 22) / 2
    scale = tallest / max(float(peaks.max(initial=0.0)), 0.05)  # silence stays a line
    x = np.linspace(0, 1000, len(peaks))
    upper = [f"{a:.1f},{middle - scale * p - 0.5:.1f}" for a, p in zip(x, peaks, strict=True)]
    lower = [f"{a:.1f},{middle + scale * p + 0.5:.1f}" for a, p in zip(x[::-1], peaks[::-1], strict=True)]
    rated = [word for word in words if not math.isnan(word.confidence)]
    bands = "".join(
        f'<rect class="{level(word.confidence)}" x="{1000 * word.start / seconds:.1f}" y="{HEIGHT - 11}" '
        f'width="{max(1.5, 1000 * (word.end - word.start) / seconds - 1):.1f}" height="8" rx="2">'
        f"<title>{html.escape(word.text)}: {word.confidence:.0%}</title></rect>"
        for word in rated
    )
    counts = {name: sum(level(word.confidence) == name for word in rated) for name in ("sure", "fair", "unsure")}
    names = {"sure": f"{SURE:.0%} or more", "fair": f"{FAIR:.0%} to {SURE:.0%}", "unsure": f"below {FAIR:.0%}"}
    legend = "".join(f'<span><i class="{n}"></i>{names[n]}: {counts[n]} words</span>' for n in names)
    caption = f"<figcaption><span>Confidence of the words</span>{legend}</figcaption>" if rated else ""
    return (
        f'<figure><svg viewBox="0 0 1000 {HEIGHT}" preserveAspectRatio="none" role="img" '
        f'aria-label="Waveform of {seconds:.1f} seconds with {len(words)} words">'
        f'<polygon class="wave" points="{" ".join(upper + lower)}"/>{bands}'
        f'<line class="at" x1="0" x2="0" y1="0" y2="{HEIGHT}"/></svg>{caption}</figure>'
    )


def envelope(blocks: Iterable[np.ndarray], total: int) -> np.ndarray:
    """Largest magnitudes (COLUMNS,) of consecutive samples, `total` in all: what a waveform shows."""
    peaks, position = np.zeros(COLUMNS), 0
    for block in blocks:
        columns = np.minimum((position + np.arange(len(block))) * COLUMNS // max(1, total), COLUMNS - 1)
        np.maximum.at(peaks, columns, np.abs(block))
        position += len(block)
    return peaks


def file_address(path: str | Path) -> str:
    """Where gradio serves an upload, seen from the page."""
    return f"gradio_api/file={quote(str(path))}"


def mp3_address(samples: np.ndarray, sample_rate: int) -> str:
    """Mono samples (N,) as an address that holds them, so that no file is left on the server."""
    file = io.BytesIO()
    soundfile.write(file, samples, sample_rate, format="MP3")
    return "data:audio/mpeg;base64," + base64.b64encode(file.getvalue()).decode()
