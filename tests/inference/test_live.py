"""Live text: settled text stays, nothing that was heard is lost, and the end is what reading the file gives."""

import itertools
import time
from collections.abc import Iterator

import numpy as np
import pytest

from hfaudio.audio.io import load_audio
from hfaudio.data.bundled import path
from hfaudio.data.datasets import DataArguments, load_split
from hfaudio.decoding.greedy import Word
from hfaudio.inference.live import GeneratingListener, LiveTranscriber
from hfaudio.inference.transcribe import CTCRecognizer, Transcriber, Transcript
from hfaudio.metrics import word_error_rate

RATE = 48_000  # of a browser's microphone


@pytest.fixture(scope="module")
def transcriber() -> Transcriber:
    return Transcriber(path("asr"), device="cpu", pause_seconds=0.5, progress=False)


@pytest.fixture(scope="module")
def spoken() -> tuple[str, np.ndarray]:
    """Texts and samples (N,) at 16 kHz of six bundled prompts, a second of silence before each and at the end."""
    rows = load_split(DataArguments(), "test")
    silence = np.zeros(16_000, np.float32)
    chosen = [rows[7 * number] for number in range(6)]
    clips = [load_audio(row["audio"], 16_000) for row in chosen]
    return " ".join(row["text"] for row in chosen), np.concatenate([s for clip in clips for s in (silence, clip)])


def chunks(samples: np.ndarray, seconds: float = 0.5) -> Iterator[np.ndarray]:
    """16-bit chunks (n,) at 48 kHz, as gradio hands them over."""
    fast = (np.repeat(samples, 3) * 32767).astype(np.int16)
    size = round(seconds * RATE)
    yield from (fast[first : first + size] for first in range(0, len(fast), size))


def wait_until_decoded(live: LiveTranscriber) -> None:
    while live.text.decoded_seconds < live.text.heard_seconds - 0.01:
        time.sleep(0.002)


def test_settled_text_stays_and_grows_while_somebody_speaks(
    transcriber: Transcriber, spoken: tuple[str, np.ndarray]
) -> None:
    text, samples = spoken
    texts = []
    with LiveTranscriber(transcriber) as live:
        for chunk in chunks(samples):
            live.push(chunk, RATE)
            wait_until_decoded(live)
            texts.append(live.text)
        whole = live.finish()
    settled = [known.settled for known in texts] + [whole.settled]
    assert all(later.startswith(earlier) for earlier, later in itertools.pairwise(settled))
    assert any(known.partial for known in texts) and whole.partial == ""
    at_half = texts[len(texts) // 2].settled
    assert len(at_half) > 0.3 * len(whole.settled)  # it does not wait for the end
    # Frames are taken as final 0.8 s behind the newest sound; the file's reader hears each utterance whole.
    at_once = transcriber({"array": samples, "sampling_rate": 16_000})
    rates = [word_error_rate([text], [found]).value for found in (whole.settled, at_once.text)]
    assert rates[0] <= rates[1] + 0.05 and rates[1] < 0.1
    assert [word.text for word in whole.words] == whole.settled.split()
    assert all(a.end <= b.start + 0.05 for a, b in zip(whole.words, whole.words[1:], strict=False))
    assert whole.words[0].start == pytest.approx(1.0, abs=0.4)


def test_a_slow_decoder_loses_nothing(
    transcriber: Transcriber, spoken: tuple[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes twice as long as the sound that comes; in the end all was decoded, to the same text."""
    _, samples = spoken
    samples = samples[: 16_000 * 8]
    with LiveTranscriber(transcriber) as live:
        for chunk in chunks(samples):
            live.push(chunk, RATE)
        fast = live.finish()
    forward = CTCRecognizer.forward

    def slow(recognizer: CTCRecognizer, clips: list[np.ndarray]) -> np.ndarray:
        time.sleep(0.04)
        return forward(recognizer, clips)

    monkeypatch.setattr(CTCRecognizer, "forward", slow)
    with LiveTranscriber(transcriber) as live:
        longest = 0.0
        for chunk in chunks(samples):
            before = time.perf_counter()
            live.push(chunk, RATE)
            longest = max(longest, time.perf_counter() - before)
            time.sleep(0.02)
        assert live.text.decoded_seconds < live.text.heard_seconds
        whole = live.finish()
        assert live.received_samples == 3 * len(samples)
    assert longest < 0.02
    assert whole.decoded_seconds == pytest.approx(8.0, abs=1e-3)
    assert word_error_rate([fast.settled], [whole.settled]).value < 0.1


def test_the_greedy_reader_without_a_language_model_works_as_well(
    transcriber: Transcriber, spoken: tuple[str, np.ndarray]
) -> None:
    text, samples = spoken
    with LiveTranscriber(transcriber.with_decoding(language_model=False)) as live:
        for chunk in chunks(samples):
            live.push(chunk, RATE)
        assert word_error_rate([text], [live.finish().settled]).value < 0.3


def test_stereo_floats_and_other_rates_are_heard_alike(
    transcriber: Transcriber, spoken: tuple[str, np.ndarray]
) -> None:
    _, samples = spoken
    samples = samples[: 16_000 * 5]
    texts = []
    for sound, rate in ((samples, 16_000), (np.stack([samples, samples], 1), 16_000), (np.repeat(samples, 3), RATE)):
        with LiveTranscriber(transcriber) as live:
            live.push(sound, rate)
            texts.append(live.finish().settled)
    assert texts[0] and texts[0] == texts[1] == texts[2]


def test_mistakes_and_errors_are_told(transcriber: Transcriber, monkeypatch: pytest.MonkeyPatch) -> None:
    with LiveTranscriber(transcriber) as live:
        assert live.finish().settled == ""
        with pytest.raises(ValueError, match="has ended"):
            live.push(np.zeros(100, np.float32), 16_000)
    with LiveTranscriber(transcriber) as live:
        live.push(np.zeros(100, np.float32), 16_000)
        with pytest.raises(ValueError, match="began with 16000 Hz, got 8000"):
            live.push(np.zeros(100, np.float32), 8_000)
    monkeypatch.setattr(CTCRecognizer, "forward", lambda *_: 1 / 0)
    with LiveTranscriber(transcriber) as live:
        burst = np.random.default_rng(0).normal(0, 0.1, 48_000) * np.linspace(0, 1, 48_000) ** 4
        live.push(np.concatenate([burst, np.zeros(32_000)]), 16_000)
        with pytest.raises(ZeroDivisionError):
            live.finish()


def test_words_that_two_readings_agree_on_are_settled() -> None:
    readings = iter(["in the", "in a big house", "in a big horse shoe", "in a big horse shoe and more"])

    def reader(source: dict) -> Transcript:
        return Transcript(next(readings), (), 1.0)

    listener = GeneratingListener(reader, reader, settle_seconds=18.0)
    clip = np.zeros(16_000, np.float32)
    assert listener.hear(clip) == ("", "in the")
    assert listener.hear(clip) == ("in", "a big house")
    assert listener.hear(clip) == ("in a big", "horse shoe")
    assert listener.end(clip)[0] == "in a big horse shoe and more"


def test_a_last_reading_with_other_words_neither_repeats_nor_loses_what_follows_the_settled_ones() -> None:
    drafts = iter(["in a big", "in a big house"])
    last = "in big house now"
    timed = tuple(Word(text, float(place), place + 0.5, 1.0) for place, text in enumerate(last.split()))
    listener = GeneratingListener(
        lambda _: Transcript(next(drafts), (), 4.0), lambda _: Transcript(last, timed, 4.0), settle_seconds=18.0
    )
    clip = np.zeros(16_000, np.float32)
    assert listener.hear(clip) == ("", "in a big")
    assert listener.hear(clip) == ("in a big", "house")
    text, words = listener.end(clip)
    assert text == "in a big house now" == " ".join(word.text for word in words)
    assert [word.start for word in words] == [0.0, 0.0, 1.0, 2.0, 3.0]


def test_settled_text_ends_with_whole_words(transcriber: Transcriber, spoken: tuple[str, np.ndarray]) -> None:
    settled = []
    with LiveTranscriber(transcriber) as live:
        for chunk in chunks(spoken[1], 0.3):
            live.push(chunk, RATE)
            wait_until_decoded(live)
            settled.append(live.text.settled.split())
        words = live.finish().settled.split()
    assert all(words[: len(known)] == known for known in settled)


def test_after_an_error_nothing_is_queued(transcriber: Transcriber, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CTCRecognizer, "forward", lambda *_: 1 / 0)
    burst = np.random.default_rng(0).normal(0, 0.1, 16_000) * np.linspace(0, 1, 16_000) ** 4
    with LiveTranscriber(transcriber) as live:
        with pytest.raises(ZeroDivisionError):
            for _ in range(1000):
                live.push(burst, 16_000)
                time.sleep(0.002)
        assert not live._waiting


def test_what_is_closed_reads_nothing_more(transcriber: Transcriber, spoken: tuple[str, np.ndarray]) -> None:
    live = LiveTranscriber(transcriber)
    live.push(np.tile(spoken[1], 20), 16_000)
    live.close()
    start = time.perf_counter()
    live.finish(timeout=5)
    assert time.perf_counter() - start < 2
