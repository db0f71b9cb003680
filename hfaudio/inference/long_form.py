"""Recordings of any length by models that generate: Whisper window by window, or any model in batches of windows.

sequential   Whisper's own way (arXiv:2212.04356, section 4.5): the next window begins where the last finished segment
             ended; a window whose text is improbable or repeats itself is tried again at higher temperatures.
chunked      windows cut at silences and decoded in batches: faster on a GPU, and one bad window does not spoil the
             next. Segments have times, words share them.

Audio is read in pieces of ten minutes, so memory does not grow with the recording. A piece ends with the last segment
that ended 30 s before its end, and the next begins with the one behind it. That is nearly one pass: windows begin at
other places behind a border, the floor of the features follows the loudest sound of a piece, and the previous text,
where windows are conditioned on it, is not carried over.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from tqdm import tqdm
from transformers import PreTrainedModel, ProcessorMixin
from transformers.models.whisper.tokenization_whisper import _combine_tokens_into_words

from hfaudio.audio.io import Source, audio_info, stream_audio
from hfaudio.decoding.greedy import Word
from hfaudio.inference.vad import Span, check_installed, quiet_windows, speech_spans, speech_windows
from hfaudio.inference.whisper_windows import decode_windows
from hfaudio.models.seq2seq import generate
from hfaudio.processing.targets import TIME_STEP

WINDOW_SECONDS = 30.0
PIECE_SECONDS = 600.0
GAP_SECONDS = 3.0  # with VAD, longer silences are left out between windows
BAR_DELAY = 2.0  # seconds of work before a progress bar appears
WAYS = ("sequential", "chunked")


@dataclass(frozen=True)
class TimedText:
    """What was said between two times, in seconds; `words` with their own times, where the model can place them."""

    text: str
    start: float
    end: float
    words: tuple[Word, ...] = ()


@dataclass(frozen=True)
class LongFormSettings:
    """How long recordings are decoded.

    Args:
        way: "sequential" (Whisper only) or "chunked"; by default the first for a Whisper, the second for others.
        vad: leave out what silero-vad takes for no speech.
        temperatures: tried one after the other while a window's text fails a threshold (Whisper); (0.0,) for none.
        compression_ratio_threshold: a text that repeats itself more than this fails. transformers compresses token
            ids, which are denser than text: its 1.35 stands for the 2.4 of OpenAI's code.
        logprob_threshold: a text whose tokens have a lower mean log-probability fails.
        no_speech_threshold: a failed window whose probability of "no speech" is higher is left empty.
        condition_on_previous_text: give each window the text before it; better names, but errors carry on.
        language, task: of a multilingual Whisper; without a language it is detected.
        word_times: place words in time by attention, where the model can (sequential).
        batch_size: windows decoded together when chunked.
        seed: of the sampling at temperatures above 0.
    """

    way: str | None = None
    vad: bool = False
    temperatures: tuple[float, ...] = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    compression_ratio_threshold: float = 1.35
    logprob_threshold: float = -1.0
    no_speech_threshold: float = 0.6
    condition_on_previous_text: bool = False
    language: str | None = None
    task: str | None = None
    word_times: bool = True
    batch_size: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        if self.way is not None and self.way not in WAYS:
            raise ValueError(f"long_form must be one of {', '.join(WAYS)}; got {self.way!r}")
        if not self.temperatures or min(self.temperatures) < 0 or list(self.temperatures) != sorted(self.temperatures):
            raise ValueError(f"temperatures must be at least 0 and rise, got {self.temperatures}")
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}")
        if self.condition_on_previous_text and self.way == "chunked":
            raise ValueError("condition_on_previous_text is for long_form='sequential'; windows of a batch have none")
        if self.vad:
            check_installed()


class LongFormRecognizer:
    """A model with a decoder for recordings of any length.

    Raises:
        ValueError: for a language or task of a model that has none, or the sequential way without timestamps.
    """

    def __init__(
        self, model: PreTrainedModel, processor: ProcessorMixin, settings: LongFormSettings, *, progress: bool
    ) -> None:
        self.model: Any = model.eval()
        self.processor: Any = processor
        self.settings = settings
        self.progress = progress
        self.rate: int = self.processor.feature_extractor.sampling_rate
        self.is_whisper = model.config.model_type == "whisper"
        facts = self.model.generation_config.to_dict()
        given = {"language": settings.language, "task": settings.task}
        self.asked = {name: value for name, value in given.items() if value is not None}
        if self.asked and not (self.is_whisper and facts.get("is_multilingual")):
            name, value = next(iter(self.asked.items()))
            raise ValueError(f"{name} {value!r}: {type(model).__name__} here knows one language; leave it out")
        self.way = settings.way or ("sequential" if self.is_whisper else "chunked")
        if self.way == "sequential" and not self.is_whisper:
            raise ValueError(
                f"long_form='sequential' follows Whisper's timestamps, a {model.config.model_type} has none; take "
                "'chunked'"
            )
        self.places_words = settings.word_times and self.is_whisper and "alignment_heads" in facts

    def __call__(self, source: Source) -> tuple[list[TimedText], float]:
        """Segments in order, and the seconds of the recording. Raises AudioError for one that cannot be read."""
        device = self.model.device
        with torch.random.fork_rng([] if device.type == "cpu" else [device], device_type=accelerator_type(device)):
            torch.manual_seed(self.settings.seed)
            return self._read(source)

    def _read(self, source: Source) -> tuple[list[TimedText], float]:
        blocks, ended = stream_audio(source, self.rate), False
        samples, start = np.zeros(0, np.float32), 0
        found: list[TimedText] = []
        with recording_bar(source, show=self.progress) as bar:
            while not ended:
                while not ended and len(samples) < PIECE_SECONDS * self.rate:
                    block = next(blocks, None)
                    ended = block is None
                    samples = samples if block is None else np.concatenate([samples, block])
                texts, used = self._piece(samples, is_last=ended)
                found += [moved(text, start / self.rate) for text in texts]
                samples, start = samples[used:], start + used
                bar.update(round(start / self.rate) - bar.n)
        return found, start / self.rate

    def _piece(self, samples: np.ndarray, *, is_last: bool) -> tuple[list[TimedText], int]:
        """Segments of a piece of samples (N,), and how many of its samples they deal with: all of the last piece."""
        spans = speech_spans(samples) if self.settings.vad else None
        if self.way == "chunked":
            size = round(WINDOW_SECONDS * self.rate)
            windows = quiet_windows(samples, size) if spans is None else speech_windows(spans, size)
            used = len(samples)
            if not is_last and windows and windows[-1][1] > len(samples) - self.rate:
                used = windows.pop()[0]  # it may go on in the next piece
            return self._chunked(samples, windows), used
        texts = []
        for start, end in [(0, len(samples))] if spans is None else regions(spans, round(GAP_SECONDS * self.rate)):
            texts += [moved(text, start / self.rate) for text in self._sequential(samples[start:end])]
        if is_last:
            return texts, len(samples)
        latest = len(samples) / self.rate - WINDOW_SECONDS
        kept = [text for text in texts if text.end <= latest]
        # What is not kept is read again; behind the last segment there was nothing to be heard.
        resumed = texts[len(kept)].start if len(kept) < len(texts) else latest
        return kept, max(1, round(resumed * self.rate))

    def _sequential(self, samples: np.ndarray) -> list[TimedText]:
        """Whisper's segments of samples (N,), of any length that fits into memory."""
        if not len(samples):
            return []
        is_short = len(samples) <= WINDOW_SECONDS * self.rate
        inputs = self.processor.feature_extractor(
            samples,
            sampling_rate=self.rate,
            truncation=False,
            padding="max_length" if is_short else "longest",
            return_attention_mask=True,
            return_tensors="pt",
        )
        condition = {"condition_on_prev_tokens": self.settings.condition_on_previous_text}
        found = self._whisper(inputs, **condition)[0]
        seconds = len(samples) / self.rate
        texts = []
        for segment in found:
            times = segment["token_timestamps"].tolist() if self.places_words else None
            text = self._text(
                segment["tokens"].tolist(), times, float(segment["start"]), float(segment["end"]), seconds
            )
            texts += [text] if text.text else []
        return texts

    def _chunked(self, samples: np.ndarray, windows: list[Span]) -> list[TimedText]:
        texts: list[TimedText] = []
        waiting = list(windows)
        while waiting:
            batch, waiting = waiting[: self.settings.batch_size], waiting[self.settings.batch_size :]
            clips = [samples[start:end] for start, end in batch]
            if self.is_whisper:
                found, rest = self._windows_with_times(clips, batch)
                waiting += rest
            else:
                found = self._windows_without_times(clips, batch)
            texts += found
        return sorted(texts, key=lambda text: text.start)

    def _windows_with_times(self, clips: list[np.ndarray], windows: list[Span]) -> tuple[list[TimedText], list[Span]]:
        """Whisper's segments, and what it has left for another window."""
        settings = self.settings
        inputs = self.processor.feature_extractor(clips, sampling_rate=self.rate, return_tensors="pt")
        found = decode_windows(
            self.model,
            inputs["input_features"],
            language=settings.language,
            task=settings.task,
            temperatures=settings.temperatures,
            compression_ratio_threshold=settings.compression_ratio_threshold,
            logprob_threshold=settings.logprob_threshold,
            no_speech_threshold=settings.no_speech_threshold,
        )
        texts: list[TimedText] = []
        rest: list[Span] = []
        for (start, end), ids in zip(windows, found, strict=True):
            texts += [moved(text, start / self.rate) for text in self._split(ids, (end - start) / self.rate)]
            stopped = start + round(self._stopped(ids) * self.rate)
            if start + self.rate <= stopped <= end - self.rate:
                rest.append((stopped, end))
        return texts, rest

    def _whisper(self, inputs: Any, **options: Any) -> Any:
        """A list of segments for each row of features (B, n_mels, T)."""
        settings = self.settings
        inputs = inputs.to(self.model.device, dtype=self.model.dtype)
        with torch.no_grad():
            output = self.model.generate(
                **inputs,
                **self.asked,
                **options,
                return_timestamps=True,
                return_segments=True,
                return_token_timestamps=self.places_words,
                temperature=settings.temperatures,
                compression_ratio_threshold=settings.compression_ratio_threshold,
                logprob_threshold=settings.logprob_threshold,
                no_speech_threshold=settings.no_speech_threshold,  # has an effect only beside logprob_threshold
            )
        return output["segments"]

    def _windows_without_times(self, clips: list[np.ndarray], windows: list[Span]) -> list[TimedText]:
        extractor, config = self.processor.feature_extractor, self.model.generation_config
        inputs = extractor(
            clips, sampling_rate=self.rate, padding=True, return_attention_mask=True, return_tensors="pt"
        )
        inputs = inputs.to(self.model.device, dtype=self.model.dtype)
        prompt = torch.full((len(clips), 1), config.decoder_start_token_id, device=self.model.device)
        ids = generate(self.model, dict(inputs), prompt).ids
        tokenizer = self.processor.tokenizer
        texts = tokenizer.batch_decode(ids.masked_fill(ids < 0, config.pad_token_id), skip_special_tokens=True)
        found = zip(texts, windows, strict=True)
        return [TimedText(t.strip(), a / self.rate, b / self.rate) for t, (a, b) in found if t.strip()]

    def _split(self, ids: list[int], seconds: float) -> list[TimedText]:
        """The segments between the time tokens of one window's ids; the last one may lack its end."""
        first_time = self.model.generation_config.no_timestamps_token_id + 1
        texts, start, place = [], 0.0, 0
        for index, token in enumerate([*ids, None]):
            if token is not None and token < first_time:
                continue
            end = seconds if token is None else (token - first_time) * TIME_STEP
            text = self._text(ids[place:index], None, start, end, seconds)
            texts += [text] if text.text else []
            start, place = end, index + 1
        return texts

    def _stopped(self, ids: list[int]) -> float:
        """Where a window's text ends with two time tokens, in seconds: more is to come from there on. Else 0."""
        config = self.model.generation_config
        first_time = config.no_timestamps_token_id + 1
        said = [token for token in ids if token != config.eos_token_id]
        two = len(said) >= 2 and min(said[-2:]) >= first_time
        return (said[-1] - first_time) * TIME_STEP if two else 0.0

    def _text(self, ids: list[int], times: list[float] | None, start: float, end: float, seconds: float) -> TimedText:
        tokenizer = self.processor.tokenizer
        end = min(end, seconds)
        text = tokenizer.decode(ids, skip_special_tokens=True).strip()
        words = () if times is None or not text else self._words(ids, times, end)
        return TimedText(text, min(start, end), end, words)

    def _words(self, ids: list[int], times: list[float], end: float) -> tuple[Word, ...]:
        """Words of text ids with the times at which attention places their tokens; a word ends with the next one."""
        tokenizer = self.processor.tokenizer
        special, first_time = set(tokenizer.all_special_ids), self.model.generation_config.no_timestamps_token_id + 1
        pairs = [(id_, time) for id_, time in zip(ids, times, strict=True) if id_ < first_time and id_ not in special]
        # The grouping of byte-level tokens to words that transformers' own word times use.
        words, _, indices = _combine_tokens_into_words(
            tokenizer, [token for token, _ in pairs], self.settings.language
        )
        starts = [min(pairs[group[0]][1], end) for group in indices]
        ends = [*starts[1:], end][: len(starts)]
        return tuple(
            Word(word.strip(), first, max(first, last), confidence=float("nan"))
            for word, first, last in zip(words, starts, ends, strict=True)
            if word.strip()
        )


def recording_bar(source: Source, *, show: bool) -> tqdm:
    """A bar of a recording's seconds, for those who wait."""
    if not show:
        return tqdm(disable=True)
    seconds = round(audio_info(source).seconds)
    return tqdm(total=seconds, unit="s", desc="transcribing", delay=BAR_DELAY, leave=False)


def accelerator_type(device: torch.device) -> str:
    """For `fork_rng`, which knows accelerators only."""
    return "cuda" if device.type == "cpu" else device.type


def moved(text: TimedText, seconds: float) -> TimedText:
    """The same, so many seconds later."""
    return TimedText(text.text, text.start + seconds, text.end + seconds, tuple(later(text.words, seconds)))


def later(words: Iterable[Word], seconds: float) -> list[Word]:
    """The same words, so many seconds later."""
    return [replace(word, start=word.start + seconds, end=word.end + seconds) for word in words]


def regions(spans: list[Span], gap: int) -> list[Span]:
    """Spans of speech joined where less than `gap` samples lie between them."""
    joined: list[Span] = []
    for start, end in spans:
        if joined and start - joined[-1][1] < gap:
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
    return joined
