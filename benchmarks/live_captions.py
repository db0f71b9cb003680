"""Live captions: how soon text appears, how far it is behind, what it is worth, and whether any sound is lost.

    python benchmarks/live_captions.py              # the bundled model, a minute of bundled prompts
    python benchmarks/live_captions.py --fast       # not in real time: a chunk as soon as the last one is read
    python benchmarks/live_captions.py --model openai/whisper-tiny.en --audio talk.wav --text talk.txt

Somebody hears chunks of half a second, 16-bit at 48 kHz, as a browser's microphone sends them. Parts:

live   fed in real time; beside it the same sound read as a file, in chunks and cut at pauses
slow   the same with a reader that sleeps two seconds for each second of sound that it is given
cold   the same in a process whose numba cache is empty: the beam search is compiled while somebody speaks

The figures go to standard output as JSON.
"""

import argparse
import copy
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hfaudio.audio.io import load_audio
from hfaudio.audio.resample import resample
from hfaudio.data.bundled import path
from hfaudio.data.datasets import DataArguments, load_split
from hfaudio.inference.live import LiveText, LiveTranscriber
from hfaudio.inference.transcribe import CTCRecognizer, Transcriber
from hfaudio.metrics import word_error_rate

RATE = 16_000
MICROPHONE_RATE = 48_000
CHUNK_SECONDS = 0.5
POLL_SECONDS = 0.01
SLEEP = 2.0  # seconds for a second of sound: half of real time
LOUD = 0.02  # of full scale; where speech begins
COLD_SECONDS = 30.0  # of speech in the part "cold"
PARTS = ("live", "slow", "cold")


@dataclass(frozen=True)
class Speech:
    """Samples (n,) at 16 kHz, what is said in them if that is known, and the second at which it begins."""

    samples: np.ndarray
    text: str | None
    begins: float


@dataclass(frozen=True)
class Shown:
    """A text, and when it was first seen, in seconds from the beginning of the sound."""

    at: float
    text: LiveText


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(path("asr")), help="folder or Hub id, CTC or one that generates")
    parser.add_argument("--audio", help="a recording; bundled test prompts by default")
    parser.add_argument("--text", help="file with the text of the recording, for word error rates")
    parser.add_argument("--seconds", type=float, default=60.0, help="of bundled prompts")
    parser.add_argument("--pause", type=float, default=1.0, help="seconds of silence between bundled prompts")
    parser.add_argument("--no_language_model", action="store_true", help="of a CTC model: the best path only")
    parser.add_argument("--fast", action="store_true", help="a chunk as soon as the last one is read")
    parser.add_argument("--no_warm_up", action="store_true", help="what is done once in a process is measured too")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    args = parser.parse_args(argv)

    if args.audio is None:
        speech = bundled_speech(args.seconds, args.pause)
    else:
        samples = load_audio(args.audio, RATE)
        speech = Speech(samples, args.text and Path(args.text).read_text(encoding="utf-8"), first_loud(samples))
    transcriber = Transcriber(args.model, language_model=not args.no_language_model, progress=False)
    figures: dict[str, Any] = {"sound_seconds": len(speech.samples) / RATE}
    if "live" in args.parts:
        if not args.no_warm_up:
            warm_up(transcriber, speech)
        figures["live"] = session(transcriber, speech, fast=args.fast)
        figures["live"] |= file_figures(args.model, speech, language_model=not args.no_language_model)
    if "slow" in args.parts:
        figures["slow"] = session(slowed(transcriber, SLEEP), speech, fast=args.fast)
    if "cold" in args.parts:
        figures["cold"] = cold(args)
    print(json.dumps(figures, indent=2))


def bundled_speech(seconds: float, pause: float) -> Speech:
    """Prompts of the test split with silence before and between them, and half a second at the end."""
    rows = load_split(DataArguments(), "test")
    silence = np.zeros(round(pause * RATE), np.float32)
    parts: list[np.ndarray] = []
    texts: list[str] = []
    while sum(map(len, parts)) < seconds * RATE:
        row = rows[7 * len(texts) % len(rows)]
        parts += [silence, load_audio(row["audio"], RATE)]
        texts.append(row["text"])
    samples = np.concatenate([*parts, np.zeros(RATE // 2, np.float32)])
    return Speech(samples, " ".join(texts), first_loud(samples))


def first_loud(samples: np.ndarray) -> float:
    return float(np.argmax(np.abs(samples) > LOUD) / RATE)


def chunks(samples: np.ndarray) -> list[np.ndarray]:
    """As 16-bit chunks (n,) at 48 kHz."""
    fast = np.clip(resample(samples, RATE, MICROPHONE_RATE) * 32768, -32768, 32767).astype(np.int16)
    size = round(CHUNK_SECONDS * MICROPHONE_RATE)
    return [fast[first : first + size] for first in range(0, len(fast), size)]


def warm_up(transcriber: Transcriber, speech: Speech) -> None:
    """Whatever is done once in a process or for a machine is done."""
    with LiveTranscriber(transcriber) as live:
        live.push(speech.samples[: 5 * RATE], RATE)
        live.finish()


def session(transcriber: Transcriber, speech: Speech, *, fast: bool) -> dict[str, Any]:
    """Figures of one session; latencies and shares of the processor are of interest only in real time."""
    sent = chunks(speech.samples)
    shown: list[Shown] = []
    slowest_push = 0.0
    ended = threading.Event()
    start, processor_start = time.perf_counter(), time.process_time()
    with LiveTranscriber(transcriber) as live:
        watcher = threading.Thread(target=watch, args=(live, shown, start, ended), daemon=True)
        watcher.start()
        for number, chunk in enumerate(sent, 1):
            if fast:
                wait_until(lambda: live.text.decoded_seconds > live.text.heard_seconds - CHUNK_SECONDS / 2)
            else:  # the end of a chunk is spoken before it is sent
                time.sleep(max(0.0, start + number * CHUNK_SECONDS - time.perf_counter()))
            before = time.perf_counter()
            live.push(chunk, MICROPHONE_RATE)
            slowest_push = max(slowest_push, time.perf_counter() - before)
        spoken = time.perf_counter() - start
        processor = time.process_time() - processor_start
        whole = live.finish()
        ended.set()
        watcher.join()
        received = live.received_samples
    latencies = [known.text.latency_seconds for known in shown if known.text.decoded_seconds > speech.begins]
    first = [known for known in shown if shown_text(known.text)]
    figures: dict[str, Any] = {
        "sent_samples": sum(map(len, sent)),
        "received_samples": received,
        "decoded_seconds": whole.decoded_seconds,
        "slowest_push_seconds": slowest_push,
        "changed_after_settled": sum(not begins_with(whole.settled, known.text.settled.split()) for known in shown),
        "latency_median_seconds": float(np.median(latencies)),
        "latency_95_percent_seconds": float(np.quantile(latencies, 0.95)),
        "end_to_whole_text_seconds": time.perf_counter() - start - spoken,
        "seconds": spoken,
        "share_of_one_processor": processor / spoken,
    }
    if not fast:
        stays = [known for known in shown if begins_with(shown_text(known.text), whole.settled.split()[:1])]
        for name, seen in (("first_text_seconds", first), ("first_word_that_stays_seconds", stays)):
            figures |= {name: seen[0].at - speech.begins} if seen else {}
    return figures | error_rate(speech, whole.settled)


def shown_text(text: LiveText) -> str:
    return f"{text.settled} {text.partial}".strip()


def begins_with(text: str, words: Sequence[str]) -> bool:
    """Whether the text begins with these words; half a word is none."""
    return text.split()[: len(words)] == list(words)


def watch(live: LiveTranscriber, shown: list[Shown], start: float, ended: threading.Event) -> None:
    """Notes each new text that is of more sound than the one before."""
    decoded = 0.0
    while not ended.wait(POLL_SECONDS):
        text = live.text
        if text.decoded_seconds > decoded:
            decoded = text.decoded_seconds
            shown.append(Shown(time.perf_counter() - start, text))


def wait_until(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(POLL_SECONDS / 5)


def error_rate(speech: Speech, text: str) -> dict[str, Any]:
    return {} if speech.text is None else {"wer": word_error_rate([speech.text], [text]).value}


def file_figures(model: str, speech: Speech, *, language_model: bool) -> dict[str, Any]:
    """Error rates of the same sound read as a file, by a CTC model also cut at pauses."""
    if speech.text is None:
        return {}
    source = {"array": speech.samples, "sampling_rate": RATE}
    figures = {}
    for name, pause_seconds in (("file", None), ("file_by_pauses", 0.5)):
        reader = Transcriber(model, language_model=language_model, pause_seconds=pause_seconds, progress=False)
        if pause_seconds is None or isinstance(reader.recognizer, CTCRecognizer):
            figures[f"{name}_wer"] = word_error_rate([speech.text], [reader(source).text]).value
    return figures


def slowed(transcriber: Transcriber, factor: float) -> Transcriber:
    """The same, which first sleeps so many seconds for each second of sound that it is to read."""
    recognizer = copy.copy(transcriber.recognizer)
    other = copy.copy(transcriber)
    if isinstance(recognizer, CTCRecognizer):
        forward, rate = recognizer.forward, recognizer.rate

        def slow_forward(clips: Sequence[np.ndarray]) -> np.ndarray:
            time.sleep(factor * sum(map(len, clips)) / rate)
            return forward(clips)

        recognizer.forward = slow_forward  # type: ignore[method-assign]
    else:
        read = recognizer.recognizer

        def slow_read(source: Any) -> Any:
            time.sleep(factor * len(source["array"]) / source["sampling_rate"])
            return read(source)

        recognizer.recognizer = slow_read  # type: ignore[assignment]
    other.recognizer = recognizer
    return other


def cold(args: argparse.Namespace) -> dict[str, Any]:
    """Figures of the part "live" of another process, in which nothing was compiled."""
    command = [sys.executable, __file__, "--parts", "live", "--no_warm_up", "--model", args.model]
    command += ["--seconds", str(COLD_SECONDS), "--pause", str(args.pause)]
    command += ["--no_language_model"] if args.no_language_model else []
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "NUMBA_CACHE_DIR": folder}
        output = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout
    figures: dict[str, Any] = json.loads(output)["live"]
    return figures


if __name__ == "__main__":
    main()
