"""What the demo shows, what it allows, and the models that its users share."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

import gradio as gr
import numpy as np

from hfaudio.audio.io import AudioError, audio_info, load_audio
from hfaudio.data.bundled import place_of
from hfaudio.decoding.beam import BeamSearchDecoder
from hfaudio.inference.generate import MusicGenerator
from hfaudio.inference.transcribe import CTCRecognizer, Transcriber, choose_device

T = TypeVar("T")

PAUSE_SECONDS = 0.5  # at which CTC models cut what is said
SPEECH_RATE = 16_000  # Hz, of recordings that are kept in memory

# What the page offers to choose; what a file holds is found out from its first bytes.
MEDIA_TYPES = [".wav", ".flac", ".ogg", ".opus", ".mp3", ".m4a", ".aac", ".mp4", ".mov", ".webm", ".mkv"]


@dataclass(frozen=True)
class Limits:
    """What one request may ask for."""

    file_mb: float = 100.0
    file_minutes: float = 60.0
    live_minutes: float = 30.0
    prompt_chars: int = 300
    music_seconds: float = 30.0
    variants: int = 4
    queue_size: int = 40  # requests that wait; a further one is told that the queue is full
    keep_minutes: float = 60.0  # uploads and results are deleted after that, and when the demo ends

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise ValueError(f"{name} must be above 0, got {value}")


@dataclass(frozen=True)
class DemoSettings:
    """Models are folders, Hub ids or "bundled"; None leaves the tabs of a model out."""

    asr: str | None = "bundled"
    music: str | None = "bundled"
    describe: str | None = None  # a model trained by recipes/asr_seq2seq.py --target caption
    adapters: dict[str, str] = field(default_factory=dict)  # of the music model: name -> folder or Hub id
    device: str | None = None  # the accelerator where there is one
    trust_remote_code: bool = False
    limits: Limits = Limits()

    def __post_init__(self) -> None:
        if not (self.asr or self.music or self.describe):
            raise ValueError("the demo has no model: give asr, music or describe, such as 'bundled'")
        if self.adapters and not self.music:
            raise ValueError("adapters are of the music model, and there is none; give music as well")


class Opened(Generic[T]):
    """A model that is opened when it is first called, by whoever is first, and shared from then on."""

    def __init__(self, open_model: Callable[[], T]) -> None:
        self._open = open_model
        self._lock = threading.Lock()
        self._model: T | None = None

    @property
    def is_open(self) -> bool:
        return self._model is not None

    def __call__(self) -> T:
        with self._lock:
            if self._model is None:
                self._model = self._open()
            return self._model


def speech_model(settings: DemoSettings, model: str) -> Opened[Transcriber]:
    """The recogniser of a folder, Hub id or "bundled"."""

    def open_model() -> Transcriber:
        transcriber = Transcriber(
            place_of(model, "asr"),
            device=settings.device,
            trust_remote_code=settings.trust_remote_code,
            pause_seconds=PAUSE_SECONDS,
        )
        if isinstance(transcriber.recognizer, CTCRecognizer) and transcriber.recognizer.decoder is not None:
            warm_up(transcriber.recognizer.decoder)
        return transcriber

    return Opened(open_model)


def warm_up(decoder: BeamSearchDecoder) -> None:
    """Compile the search, which takes 11 s in an environment that never did, before somebody waits for a text."""
    frame = np.full((1, len(decoder.labels)), -np.log(len(decoder.labels)), np.float32)
    stream = decoder.stream()
    stream.push(frame)
    stream.peek(frame)
    stream.finish()
    decoder.decode(frame)


def music_model(settings: DemoSettings, model: str, adapter: str | None) -> Opened[MusicGenerator]:
    """The generator of a folder, Hub id or "bundled", with an adapter merged into it."""
    return Opened(lambda: MusicGenerator(model, adapter=adapter, device=choose_device(settings.device)))


def upload(limits: Limits, elem_id: str) -> gr.File:
    """Where one drops a recording."""
    return gr.File(
        label=f"Audio or video, at most {limits.file_mb:g} MB and {limits.file_minutes:g} minutes",
        file_types=MEDIA_TYPES,
        height=150,
        elem_id=elem_id,
    )


def check_recording(path: str | Path, minutes: float) -> None:
    """gradio.Error for a recording that cannot be read or lasts longer."""
    try:
        seconds = audio_info(path).seconds
    except AudioError as error:
        raise readable(error) from error
    if seconds > 60 * minutes:
        raise gr.Error(
            f"The recording lasts {seconds / 60:.0f} minutes, at most {minutes:g} are allowed here. Cut it into parts."
        )


def readable(error: AudioError) -> gr.Error:
    """What a user is told: the detail of an unreadable file without its place on the server."""
    return gr.Error(f"This file cannot be read ({error.reason}): {error.detail}.", title="Not readable")


def take_recording(path: str | Path, limits: Limits) -> np.ndarray:
    """Samples (N,) at 16 kHz of what a microphone recorded; its file is deleted, whether it can be read or not."""
    try:
        check_recording(path, limits.live_minutes)
        return load_audio(path, SPEECH_RATE)
    except AudioError as error:
        raise readable(error) from error
    finally:
        Path(path).unlink(missing_ok=True)
