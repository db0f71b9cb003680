"""Live captions: sound is counted once however often it is sent, and everybody has a session of their own."""

import base64
import time
from typing import Any

import numpy as np
import pytest

from hfaudio.data.bundled import path
from hfaudio.demo.live import LiveServer, live_html
from hfaudio.demo.settings import Limits, Opened
from hfaudio.inference.live import LiveText
from hfaudio.inference.transcribe import Transcriber

RATE = 16_000


@pytest.fixture(scope="module")
def model() -> Opened[Transcriber]:
    return Opened(lambda: Transcriber(path("asr"), device="cpu", pause_seconds=0.5, progress=False))


def request(session: str, number: int, samples: np.ndarray, **more: Any) -> dict[str, Any]:
    sound = base64.b64encode((samples * 32767).astype("<i2").tobytes()).decode()
    return {"session": session, "number": number, "rate": RATE, "sound": sound, **more}


def end_of(server: LiveServer, last: dict[str, Any]) -> dict[str, Any]:
    """The answer to the last request, which is sent again until all is decoded."""
    answer = server.listen(last)
    while answer.get("again"):
        time.sleep(0.02)
        answer = server.listen(last)
    return answer


def test_requests_that_are_sent_twice_count_once(
    model: Opened[Transcriber], prompts: list[tuple[str, np.ndarray]]
) -> None:
    """As the page does when an answer is lost; the model is opened meanwhile, and nothing is missing."""
    server = LiveServer(model, Limits())
    session = server.open_session()["session"]
    text, clip = prompts[0]
    samples = np.concatenate([clip, np.zeros(RATE, np.float32)])
    parts = [samples[first : first + 4_000] for first in range(0, len(samples), 4_000)]
    for number, part in enumerate(parts):
        for _ in range(2):
            assert "html" in server.listen(request(session, number, part))
    answer = end_of(server, request(session, len(parts), np.zeros(0, np.float32), ended=True))
    assert answer["files"]["txt"] == text + "\n"
    assert f'data-figure="heard">{len(samples) / RATE:.1f}' in answer["html"]
    assert answer["files"]["vtt"].startswith("WEBVTT")
    assert server.listen(request(session, 0, parts[0])) == {"error": "This session has ended; start another one."}


def test_two_who_speak_at_once_do_not_hear_each_other(
    model: Opened[Transcriber], prompts: list[tuple[str, np.ndarray]]
) -> None:
    server = LiveServer(model, Limits())
    silence = np.zeros(RATE, np.float32)
    speakers = [(server.open_session()["session"], np.concatenate([clip, silence])) for _, clip in prompts[:2]]
    for number in range(max(len(samples) for _, samples in speakers) // 4_000 + 1):
        for session, samples in speakers:
            server.listen(request(session, number, samples[4_000 * number : 4_000 * (number + 1)]))
    for (session, _), (text, _) in zip(speakers, prompts[:2], strict=True):
        answer = end_of(server, request(session, 10**6, np.zeros(0, np.float32), ended=True))
        assert answer["files"]["txt"] == text + "\n"


def test_limits_and_nonsense_are_told(model: Opened[Transcriber], monkeypatch: pytest.MonkeyPatch) -> None:
    server = LiveServer(model, Limits(live_minutes=0.05))
    session = server.open_session()["session"]
    assert "at most 0.05 minutes" in server.listen(request(session, 0, np.zeros(4 * RATE, np.float32)))["error"]
    session = server.open_session()["session"]
    for wrong in ({}, {"session": session}, {"session": session, "number": 0, "rate": RATE, "sound": "?"}, None):
        assert server.listen(wrong) == {"error": "The request is not what this page sends."}  # type: ignore[arg-type]
    monkeypatch.setattr("hfaudio.demo.live.MAX_CHARS", 8)
    assert "at most 8" in server.listen(request(session, 0, np.zeros(100, np.float32)))["error"]
    monkeypatch.undo()
    assert "not between" in server.listen(request(session, 0, np.zeros(10, np.float32)) | {"rate": 3})["error"]
    assert "has ended" in server.listen(request("somebody else", 0, np.zeros(10, np.float32)))["error"]


def test_idle_sessions_make_room_and_there_is_no_more_room_than_there_is(
    model: Opened[Transcriber], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hfaudio.demo.live.MAX_SESSIONS", 2)
    server = LiveServer(model, Limits())
    assert "session" in server.open_session() and "session" in server.open_session()
    assert "2 people are speaking already" in server.open_session()["error"]
    monkeypatch.setattr("hfaudio.demo.live.IDLE_SECONDS", 0.0)
    assert "session" in server.open_session()


def test_what_is_said_cannot_change_the_page() -> None:
    shown = live_html(LiveText(settled="<script>", partial="<b>", heard_seconds=3.0, decoded_seconds=1.0))
    assert "&lt;script&gt;" in shown and "&lt;b&gt;" in shown and "<b>2.0</b>" in shown
