"""Text of speech while it is spoken: what may still change, and what is settled and never does.

Sound is queued by whoever hears it and decoded by a thread of its own, so that nothing is lost where decoding is
slower than speech; it then catches up in larger pieces. Speech is cut into utterances at pauses (`utterances`).

- A CTC model reads the open utterance anew whenever more of it was heard. Frames with SETTLE_SECONDS of sound behind
  them go into a beam search that is carried on; what all of its beam agrees on is settled. The frames behind them are
  decoded on top of it for the text that may change.
- Of a model that generates, the words that two readings in a row begin with are settled (LocalAgreement-2, Liu et al.
  2020, "Low-latency sequence-to-sequence speech recognition and translation by partial hypothesis selection").
"""

import copy
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any, Protocol

import numpy as np

from hfaudio.audio.resample import resample_blocks
from hfaudio.decoding.beam import BeamSearchDecoder
from hfaudio.decoding.greedy import Word
from hfaudio.inference.long_form import later
from hfaudio.inference.transcribe import CTCRecognizer, GeneratingRecognizer, Transcriber, Transcript
from hfaudio.inference.utterances import CUT_SECONDS, PauseCutter, Utterance
from hfaudio.inference.vad import RATE as SPEECH_RATE

SETTLE_SECONDS = 0.8  # of sound behind a frame, after which a CTC model's opinion of it counts as final
UPDATE_SECONDS = 0.25  # of new sound in an open utterance, before a CTC model reads it again
GENERATE_SECONDS = 1.0  # the same of a model that generates, which costs more

# Sessions take turns: torch uses all processors for one, and transformers' `generate` is not made to be called by two
# threads for one model (of ten Whisper windows read by three threads at once, one got another text).
TURN = threading.Lock()

Reader = Callable[[Any], Transcript]  # of {"array", "sampling_rate"}


@dataclass(frozen=True)
class LiveText:
    """What was said so far."""

    settled: str = ""  # every later one begins with it
    partial: str = ""  # what stands behind it for now
    words: tuple[Word, ...] = ()  # of the utterances that have ended, with seconds from the first sample on
    heard_seconds: float = 0.0  # sound that was received
    decoded_seconds: float = 0.0  # sound that the texts are of
    latency_seconds: float = 0.0  # from the arrival of the last of it to the text


class Listener(Protocol):
    """Reads one utterance while it grows."""

    def hear(self, samples: np.ndarray) -> tuple[str, str]:
        """Settled and partial text of what is known of the utterance (n,)."""
        ...

    def end(self, samples: np.ndarray) -> tuple[str, tuple[Word, ...]]:
        """Text and words, with seconds from the first sample on, of the whole utterance (n,)."""
        ...


class CTCListener:
    """A carried beam search over the frames of a CTC model, at most `settle_seconds` of an utterance."""

    def __init__(self, recognizer: CTCRecognizer, settle_seconds: float) -> None:
        self._recognizer = recognizer
        decoder = recognizer.decoder
        if decoder is None:
            decoder = BeamSearchDecoder(recognizer.labels, blank_id=recognizer.model.config.pad_token_id)
        self._stream = decoder.stream(hotwords=recognizer.hotwords)
        self._pushed = 0  # frames
        self._frame_seconds = recognizer.samples_per_frame / recognizer.rate
        self._behind = round(SETTLE_SECONDS / self._frame_seconds)
        self._last = round(settle_seconds / self._frame_seconds)

    def hear(self, samples: np.ndarray) -> tuple[str, str]:
        log_probs = self._recognizer.forward([samples])[0]
        final = max(self._pushed, min(len(log_probs) - self._behind, self._last))
        stable = self._stream.push(log_probs[self._pushed : final]).stable_text
        self._pushed = final
        settled = stable[: max(0, stable.rfind(" "))]  # its last word may go on, or be dropped where it is none
        return settled, self._stream.peek(log_probs[final:])[len(settled) :].strip()

    def end(self, samples: np.ndarray) -> tuple[str, tuple[Word, ...]]:
        self._stream.push(self._recognizer.forward([samples])[0][self._pushed :])
        hypothesis, seconds = self._stream.finish(), self._frame_seconds
        timed = (replace(word, start=word.start * seconds, end=word.end * seconds) for word in hypothesis.words)
        return hypothesis.text, tuple(timed)


class GeneratingListener:
    """Agreement of two readings in a row, of at most `settle_seconds` of an utterance.

    Args:
        draft: reads an utterance that goes on.
        final: reads it when it has ended.
    """

    def __init__(self, draft: Reader, final: Reader, settle_seconds: float) -> None:
        self._draft, self._final = draft, final
        self._size = round(settle_seconds * SPEECH_RATE)
        self._before: list[str] = []  # words of the last reading
        self._settled: list[str] = []

    def hear(self, samples: np.ndarray) -> tuple[str, str]:
        words = self._draft({"array": samples[: self._size], "sampling_rate": SPEECH_RATE}).text.split()
        agreed = [a for a, _ in takewhile(lambda pair: pair[0] == pair[1], zip(words, self._before, strict=False))]
        self._settled += agreed[len(self._settled) :]
        self._before = words
        return " ".join(self._settled), " ".join(words[same_beginning(self._settled, words) :])

    def end(self, samples: np.ndarray) -> tuple[str, tuple[Word, ...]]:
        transcript = self._final({"array": samples, "sampling_rate": SPEECH_RATE})
        texts, timed = transcript.text.split(), transcript.words
        same = same_beginning(self._settled, texts)
        said = [*self._settled, *texts[same:]]
        if len(timed) != len(texts):
            return " ".join(said), timed
        # Where the reading differs from what was settled before, its times are those of the settled words.
        places = [min(i * same // len(self._settled), len(texts) - 1) for i in range(len(self._settled))]
        order = [*places, *range(same, len(texts))] if texts else []
        return " ".join(said), tuple(
            replace(timed[place], text=text) for place, text in zip(order, said, strict=False)
        )


def same_beginning(settled: Sequence[str], words: Sequence[str]) -> int:
    """How many of the words say what is settled: those of the beginning with the least edit distance to it."""
    costs = list(range(len(words) + 1))
    for text in settled:
        row = [costs[0] + 1]
        for place, word in enumerate(words):
            row.append(min(costs[place] + (word != text), costs[place + 1] + 1, row[-1] + 1))
        costs = row
    return min(range(len(costs)), key=lambda place: (costs[place], abs(place - len(settled))))


def draft_reader(recognizer: GeneratingRecognizer) -> GeneratingRecognizer:
    """The same without a second try at higher temperatures, which takes seconds, and without the times of words."""
    long_form = copy.copy(recognizer.recognizer)
    long_form.settings = replace(long_form.settings, temperatures=(0.0,))
    long_form.places_words = long_form.progress = False
    return GeneratingRecognizer(long_form)


class LiveTranscriber:
    """One session of somebody who speaks; many share one opened model.

        with LiveTranscriber(transcriber) as live:
            for chunk in microphone:
                live.push(chunk, 48_000)
                print(live.text.settled, live.text.partial)
            print(live.finish().settled)

    Args:
        transcriber: its language model, hotwords and settings of the beam are used.
        pause_seconds: silence that ends an utterance.
        max_seconds: an utterance without a pause is cut after that.
    """

    def __init__(self, transcriber: Transcriber, *, pause_seconds: float = 0.5, max_seconds: float = 20.0) -> None:
        recognizer = self._recognizer = transcriber.recognizer
        is_ctc = isinstance(recognizer, CTCRecognizer)
        self._rate = recognizer.rate if isinstance(recognizer, CTCRecognizer) else SPEECH_RATE
        self._step = round((UPDATE_SECONDS if is_ctc else GENERATE_SECONDS) * self._rate)
        self._cutter = PauseCutter(self._rate, pause_seconds=pause_seconds, max_seconds=max_seconds)
        self._settle_seconds = max_seconds - CUT_SECONDS  # what lies behind may belong to the next utterance
        # Shared by both threads, under `_changed`:
        self._changed = threading.Condition()
        self._waiting: list[np.ndarray] = []  # (n,) at the stream's own rate
        self._waiting_since = self._arrived = 0.0  # when the newest of them, and of what is decoded, arrived
        self._is_ended = self._is_closed = False
        self._sample_rate: int | None = None
        self.received_samples = 0
        # Written by the worker:
        self._text = LiveText()
        self._error: Exception | None = None
        self._latency = 0.0  # of the last reading
        self._texts: list[str] = []  # of the utterances that have ended
        self._words: list[Word] = []
        self._listener: Listener | None = None  # of the open utterance
        self._heard = 0  # samples of it that the listener knows
        self._open_text = ("", "")
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def __enter__(self) -> "LiveTranscriber":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def push(self, samples: np.ndarray, sample_rate: int) -> None:
        """Queue samples (n,) or (n, channels), floats or 16-bit integers, and return at once.

        ValueError for another rate than before, and behind the end; an error of the decoding is raised here as well.
        """
        sound = samples.astype(np.float32) / (32768 if samples.dtype.kind == "i" else 1)
        with self._changed:
            if self._error is not None:
                raise self._error
            if self._is_ended:
                raise ValueError("this stream has ended; begin another one")
            if self._sample_rate not in (None, sample_rate):
                raise ValueError(f"the stream began with {self._sample_rate} Hz, got {sample_rate}; begin another one")
            self._sample_rate = sample_rate
            self.received_samples += len(sound)
            self._waiting.append(sound.mean(1, dtype=np.float32) if sound.ndim == 2 else sound)
            self._waiting_since = time.monotonic()
            self._changed.notify()

    @property
    def text(self) -> LiveText:
        """The newest text, without waiting; an error of the decoding is raised here."""
        if self._error is not None:
            raise self._error
        heard = self.received_samples / self._sample_rate if self._sample_rate else 0.0
        return replace(self._text, heard_seconds=heard)

    def finish(self, timeout: float | None = None) -> LiveText:
        """The text of all that was heard, settled; TimeoutError if that takes more than `timeout` seconds."""
        with self._changed:
            self._is_ended = True
            self._changed.notify()
        self._thread.join(timeout)
        if self._thread.is_alive():
            raise TimeoutError(f"decoding has not ended after {timeout:g} s; call finish() again to wait longer")
        return self.text

    def close(self) -> None:
        """End without waiting; what is not decoded yet is let go."""
        with self._changed:
            self._is_ended = self._is_closed = True
            self._waiting.clear()
            self._changed.notify()

    def _work(self) -> None:
        """The thread: resample, cut and decode until the end."""
        try:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._is_ended)
            decoded = 0
            if self._sample_rate is not None:
                for block in resample_blocks(self._blocks(), self._sample_rate, self._rate):
                    for utterance in self._cutter.push(block):
                        self._end(utterance)
                    self._listen()
                    decoded += len(block)
                    self._tell(decoded)
            for utterance in self._cutter.finish():
                self._end(utterance)
            self._tell(decoded)
        except Exception as error:  # raised again by `text` and `finish`, where somebody hears of it
            with self._changed:
                self._error, self._is_ended = error, True
                self._waiting.clear()  # nobody reads it any more

    def _blocks(self) -> Iterator[np.ndarray]:
        """What was queued since the last time, in one piece, until the end."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._is_ended)
                if not self._waiting:
                    return
                block = np.concatenate(self._waiting)
                self._waiting.clear()
                self._arrived = self._waiting_since
            yield block

    def _new_listener(self) -> Listener:
        self._heard = 0
        if isinstance(self._recognizer, CTCRecognizer):
            return CTCListener(self._recognizer, self._settle_seconds)
        return GeneratingListener(draft_reader(self._recognizer), self._recognizer, self._settle_seconds)

    def _listen(self) -> None:
        """Read the open utterance if enough of it is new."""
        utterance = self._cutter.open
        if self._is_closed or utterance is None or len(utterance.samples) < self._heard + self._step:
            return
        self._listener = self._listener or self._new_listener()
        with TURN:
            self._open_text = self._listener.hear(utterance.samples)
        self._heard = len(utterance.samples)
        self._latency = time.monotonic() - self._arrived

    def _end(self, utterance: Utterance) -> None:
        if self._is_closed:
            return
        listener = self._listener or self._new_listener()
        with TURN:
            text, words = listener.end(utterance.samples)
        self._latency = time.monotonic() - self._arrived
        self._texts += [text] if text else []
        self._words += later(words, utterance.start / self._rate)
        self._listener, self._heard, self._open_text = None, 0, ("", "")

    def _tell(self, decoded: int) -> None:
        settled, partial = self._open_text
        self._text = LiveText(
            settled=" ".join([*self._texts, *([settled] if settled else [])]),
            partial=partial,
            words=tuple(self._words),
            decoded_seconds=decoded / self._rate,
            latency_seconds=self._latency,
        )
