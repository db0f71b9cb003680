"""The tab of live captions: sound is queued as it comes, the text follows as fast as it is decoded."""

import base64
import binascii
import html
import secrets
import threading
import time
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from hfaudio.demo.captions import caption_texts
from hfaudio.demo.settings import DemoSettings, Limits, Opened
from hfaudio.inference.live import LiveText, LiveTranscriber
from hfaudio.inference.transcribe import Transcriber, Transcript

SCRIPT = Path(__file__).with_name("live.js").read_text(encoding="utf-8")
MAX_SESSIONS = 40  # at once
IDLE_SECONDS = 60.0  # after which a session is given up whose page is silent
MAX_CHARS = 64_000_000  # of a request's sound: eight minutes at 48 kHz that could not be sent before
WAIT_SECONDS = 0.2  # for the end of a session in one request
RATES = (8_000, 192_000)  # Hz

PAGE = Path(__file__).with_name("live.html").read_text(encoding="utf-8")


class LiveSession:
    """What one listener has said so far. Sound is taken from its first moment on, also while the model is opening."""

    def __init__(self, model: Opened[Transcriber], limits: Limits) -> None:
        self.last_heard = time.monotonic()
        self._model = model
        self._limits = limits
        self._number = 0  # of the next request
        self._seconds = 0.0
        self._waiting: list[tuple[np.ndarray, int]] = []
        self._live: LiveTranscriber | None = None
        if not model.is_open:
            threading.Thread(target=model, daemon=True).start()

    def hear(self, number: int, sample_rate: int, samples: np.ndarray) -> None:
        """Queue the samples (n,) of a request, once however often it is sent; ValueError beyond the limits."""
        self.last_heard = time.monotonic()
        if number != self._number:
            return
        self._number += 1
        self._seconds += len(samples) / sample_rate
        if self._seconds > 60 * self._limits.live_minutes:
            raise ValueError(f"A session lasts at most {self._limits.live_minutes:g} minutes; start another one.")
        if len(samples):
            self._waiting.append((samples, sample_rate))
        if self._model.is_open:
            self._pass_on()

    def _pass_on(self) -> None:
        if self._live is None:
            self._live = LiveTranscriber(self._model())
        for samples, sample_rate in self._waiting:
            self._live.push(samples, sample_rate)
        self._waiting.clear()

    @property
    def text(self) -> LiveText | None:
        """The newest text; None while the model is opening."""
        return None if self._live is None else self._live.text

    def finish(self) -> LiveText | None:
        """The whole text, or None while it is being decoded."""
        if not self._model.is_open:
            return None
        self._pass_on()
        assert self._live is not None
        try:
            return self._live.finish(WAIT_SECONDS)
        except TimeoutError:
            return None

    def close(self) -> None:
        if self._live is not None:
            self._live.close()


def live_html(text: LiveText | None) -> str:
    """The text so far, what may still change in grey, and how far it is behind."""
    if text is None:
        return '<span class="waiting">Opening the speech model …</span>'
    settled, partial = html.escape(text.settled), html.escape(text.partial)
    words = f'{settled} <span class="partial">{partial}</span>' if settled or partial else ""
    behind = max(0.0, text.heard_seconds - text.decoded_seconds)
    return (
        f"<p>{words or '<span class=waiting>Listening …</span>'}</p>"
        '<div class="figures" aria-hidden="true">'
        f'<span>heard <b data-figure="heard">{text.heard_seconds:.1f}</b> s</span>'
        f'<span>latency <b data-figure="latency">{text.latency_seconds:.2f}</b> s</span>'
        f"<span>waiting to be decoded <b>{behind:.1f}</b> s</span></div>"
    )


class LiveServer:
    """The sessions of all pages, each known by a random name that only its page has."""

    def __init__(self, model: Opened[Transcriber], limits: Limits) -> None:
        self._model = model
        self._limits = limits
        self._sessions: dict[str, LiveSession] = {}
        self._lock = threading.Lock()

    def open_session(self) -> dict[str, str]:
        """{"session": name}, or {"error": why there is none}."""
        now = time.monotonic()
        with self._lock:
            for name, session in list(self._sessions.items()):
                if now - session.last_heard > IDLE_SECONDS:
                    session.close()
                    del self._sessions[name]
            if len(self._sessions) >= MAX_SESSIONS:
                return {"error": f"{MAX_SESSIONS} people are speaking already; try again in a minute."}
            name = secrets.token_urlsafe(16)
            self._sessions[name] = LiveSession(self._model, self._limits)
        return {"session": name}

    def listen(self, request: dict[str, Any]) -> dict[str, Any]:
        """Take the sound of a page: {"session", "number", "rate", "sound": base64 of 16-bit samples, "ended"}.

        Gives {"html"}, in the end {"html", "files"}, {"again": True} while the end is being decoded, or {"error"}.
        """
        try:
            name, number, rate = str(request["session"]), int(request["number"]), int(request["rate"])
            if len(request["sound"]) > MAX_CHARS:
                return {"error": f"{len(request['sound'])} characters of sound in a request, at most {MAX_CHARS}."}
            samples = np.frombuffer(base64.b64decode(request["sound"], validate=True), "<i2")
        except (KeyError, TypeError, ValueError, binascii.Error):
            return {"error": "The request is not what this page sends."}
        session = self._sessions.get(name)
        if session is None:
            return {"error": "This session has ended; start another one."}
        if not RATES[0] <= rate <= RATES[1]:
            return {"error": f"A rate of {rate} Hz is not between {RATES[0]} and {RATES[1]}."}
        try:
            session.hear(number, rate, samples)
            if not request.get("ended"):
                return {"html": live_html(session.text)}
            text = session.finish()
            if text is None:
                return {"html": live_html(session.text), "again": True}
        except ValueError as error:
            self._drop(name)
            return {"error": str(error)}
        self._drop(name)
        transcript = Transcript(text.settled, text.words, text.heard_seconds)
        return {"html": live_html(text), "files": caption_texts(transcript)}

    def _drop(self, name: str) -> None:
        with self._lock:
            session = self._sessions.pop(name, None)
        if session is not None:
            session.close()


def live_tab(settings: DemoSettings, model: Opened[Transcriber]) -> None:
    """The tab's contents."""
    live = LiveServer(model, settings.limits)

    # Functions, as gradio marks what it lets pages call, and methods take no marks.
    def open_session(_: None) -> dict[str, str]:  # gradio always hands over one value
        return live.open_session()

    def listen(request: dict[str, Any]) -> dict[str, Any]:
        return live.listen(request)

    gr.HTML(
        PAGE.replace("MINUTES", f"{settings.limits.live_minutes:g}"),
        js_on_load=SCRIPT,
        server_functions=[open_session, listen],
        elem_id="live",
    )
