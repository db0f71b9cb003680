"""Recordings of any length to text and words with times.

A CTC model reads a long recording in overlapping chunks. They are joined as log-probabilities, not as text:

    chunk 0   |-------------.....|              . = stride, read for its context and cut off
    chunk 1             |.....-------.....|
    chunk 2                        |.....-------|
    result    |-------------|-------|-----------|

Chunks begin on whole logit frames, so for a model whose context is shorter than the stride the result is that of one
pass over the whole recording. What sees the whole clip (attention, LSTM layers, features normalised per clip) sees
the chunk instead: an approximation, and often the better one, as such models were trained on clips of that length.

Models that generate (Whisper and its like) are in `hfaudio.inference.long_form`.
"""

import copy
import dataclasses
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm
from transformers import (
    MODEL_FOR_CTC_MAPPING,
    AutoConfig,
    AutoFeatureExtractor,
    AutoModelForCTC,
    AutoModelForSpeechSeq2Seq,
    AutoProcessor,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import find_adapter_config_file

import hfaudio.auto  # noqa: F401, folders of our own models open below
from hfaudio.audio.io import Source, stream_audio
from hfaudio.decoding.beam import BeamSearchDecoder
from hfaudio.decoding.greedy import GreedyPath, Word, greedy_path, words_with_times
from hfaudio.inference.long_form import LongFormRecognizer, LongFormSettings, TimedText, later, recording_bar
from hfaudio.inference.utterances import utterances
from hfaudio.models.frames import FrameCount, logit_lengths
from hfaudio.processing.language_model import find_language_model, open_decoder
from hfaudio.processing.tokenizer import ctc_labels

Hotwords = Sequence[str] | Mapping[str, float]
SHORTEST_SECONDS = 0.1  # zeros are appended to shorter clips; the convolutions of wav2vec2 need 0.025 s for a frame
BLOCK_SECONDS = 1.0  # read at once where utterances are looked for


@dataclass(frozen=True)
class Transcript:
    """What was said in a recording of `seconds`; `words` is empty where the model cannot place them in time.

    `segments` are what a model that generates has set times for; a CTC model has none but those of its words.
    """

    text: str
    words: tuple[Word, ...]
    seconds: float
    segments: tuple[TimedText, ...] = ()


def transcribe(model: "str | os.PathLike[str] | Transcriber", source: Source, **options: Any) -> Transcript:
    """The transcript of one recording; `options` are those of `Transcriber`.

    `model` is a folder or a Hub id, which is opened anew in every call, or a `Transcriber`.
    """
    if isinstance(model, Transcriber):
        if options:
            raise ValueError(f"{', '.join(options)} must be given where the Transcriber is made, not for a recording")
        return model(source)
    return Transcriber(model, **options)(source)


class Transcriber:
    """A speech recogniser opened once, for many recordings: `Transcriber("my_model")("talk.mp3").text`.

    Args:
        model: a folder or Hub id that `pipeline("automatic-speech-recognition")` opens.
        device: "cpu", "cuda", "cuda:1"...; the accelerator where there is one if not given.
        dtype: of the weights, "float16" or `torch.float16`; "auto" is as they were saved.
        language_model: decode with the one in the model's folder, where there is one.
        hotwords: words or phrases to prefer, or {phrase: weight}; of a model with a language model.
        trust_remote_code: run the code that a model folder brings; not needed for the models of hfaudio.
        chunk_seconds: what a CTC model reads at once, context included; a shorter recording is read whole.
        stride_seconds: context on both sides of a chunk, read twice.
        pause_seconds: read a CTC model's recordings utterance by utterance, cut at pauses of so many seconds, instead
            of in chunks: right for a model that was trained on single utterances, and for the LM of such sentences.
        batch_size: chunks in one forward pass of a CTC model. Results do not depend on it: chunks are of one length,
            and the last, shorter one goes alone, so nothing is ever padded.
        progress: show a bar for recordings that take more than some seconds.
        long_form: of a model that generates; `LongFormSettings` tells all there is to set.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        device: str | None = None,
        dtype: str | torch.dtype = "auto",
        trust_remote_code: bool = False,
        language_model: bool = True,
        hotwords: Hotwords | None = None,
        chunk_seconds: float = 20.0,
        stride_seconds: float = 3.0,
        pause_seconds: float | None = None,
        batch_size: int = 4,
        progress: bool = True,
        long_form: LongFormSettings | None = None,
    ) -> None:
        config = load_config(model, trust_remote_code=trust_remote_code)
        device = choose_device(device)
        options: dict[str, Any] = {"dtype": dtype, "trust_remote_code": trust_remote_code}
        self.recognizer: CTCRecognizer | GeneratingRecognizer
        if is_ctc(config) and long_form is not None:
            raise ValueError("long_form is for models that generate; a CTC model reads chunks (chunk_seconds)")
        if is_ctc(config):
            tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=trust_remote_code)
            folder = find_language_model(model) if language_model else None
            if hotwords is not None and folder is None:
                raise ValueError("hotwords need a model with a language_model/ that is used; this one has none")
            self.recognizer = CTCRecognizer(
                AutoModelForCTC.from_pretrained(model, **options).to(device),
                AutoFeatureExtractor.from_pretrained(model, trust_remote_code=trust_remote_code),
                tokenizer,
                decoder=None if folder is None else open_decoder(folder, tokenizer),
                hotwords=hotwords,
                chunk_seconds=chunk_seconds,
                stride_seconds=stride_seconds,
                pause_seconds=pause_seconds,
                batch_size=batch_size,
                progress=progress,
            )
        else:
            if hotwords is not None:
                raise ValueError("hotwords are for CTC models with a language_model/; this model generates")
            self.recognizer = GeneratingRecognizer(
                LongFormRecognizer(
                    AutoModelForSpeechSeq2Seq.from_pretrained(model, **options).to(device),
                    AutoProcessor.from_pretrained(model, trust_remote_code=trust_remote_code),
                    long_form or LongFormSettings(batch_size=batch_size),
                    progress=progress,
                )
            )

    def __call__(self, source: Source) -> Transcript:
        """The transcript of what `hfaudio.audio.io.load_audio` opens: a path, bytes, a file or a row.

        Raises AudioError for a recording that cannot be read.
        """
        return self.recognizer(source)

    @property
    def has_language_model(self) -> bool:
        """Whether it decodes with a language model, which hotwords and settings of the beam need."""
        return isinstance(self.recognizer, CTCRecognizer) and self.recognizer.decoder is not None

    def with_decoding(
        self, *, language_model: bool = True, hotwords: Hotwords | None = None, **settings: Any
    ) -> "Transcriber":
        """The same opened model, decoding otherwise; it shares the weights, so it costs little.

        `settings` are fields of `BeamSettings`, such as `beam_width`. ValueError for hotwords or settings where no
        language model is used.
        """
        if (hotwords or settings) and not (language_model and self.has_language_model):
            raise ValueError("hotwords and settings of the beam need a model with a language_model/ that is used")
        if not isinstance(self.recognizer, CTCRecognizer) or self.recognizer.decoder is None:
            return self
        recognizer, other = copy.copy(self.recognizer), copy.copy(self)
        recognizer.decoder = self.recognizer.decoder.with_settings(**settings) if language_model else None
        recognizer.hotwords = hotwords
        other.recognizer = recognizer
        return other

    def log_probs(self, source: Source) -> np.ndarray:
        """Natural-log probabilities (T, V) float32 of a whole recording by a CTC model, stitched from its chunks.

        Raises ValueError for a model that is not CTC.
        """
        return np.concatenate([piece for piece, _ in self.log_prob_pieces(source)])

    def log_prob_pieces(self, source: Source) -> Iterator[tuple[np.ndarray, float]]:
        """The same in consecutive pieces (t, V), each with the second at which it ends; memory stays bounded."""
        if not isinstance(self.recognizer, CTCRecognizer):
            raise ValueError("this model is not a CTC model, it has no probabilities per frame; only call it")
        return self.recognizer.log_prob_pieces(source)


def load_config(model: str | os.PathLike[str], *, trust_remote_code: bool) -> PretrainedConfig:
    """The config of a model folder or Hub id, of an adapter that of its base; ValueError if there is none."""
    try:
        adapter = find_adapter_config_file(os.fspath(model))
    except OSError:  # no id of the Hub, which is said below
        adapter = None
    if adapter is not None and not Path(adapter).with_name("config.json").exists():
        base = json.loads(Path(adapter).read_text(encoding="utf-8"))["base_model_name_or_path"]
        config = load_config(base, trust_remote_code=trust_remote_code)
        facts = Path(adapter).with_name("adapter_base.json")  # what hfaudio.training.adapters writes beside it
        if facts.exists():
            config.text_normalizer = json.loads(facts.read_text(encoding="utf-8"))["text_normalizer"]
        return config
    if Path(model).is_dir() and not Path(model, "config.json").exists():
        raise ValueError(f"{os.fspath(model)} is no model folder: it has no config.json; give the folder that has")
    try:
        return AutoConfig.from_pretrained(model, trust_remote_code=trust_remote_code)
    except OSError as error:
        raise ValueError(
            f"there is no folder {os.fspath(model)!r}, and as a model of the Hub it cannot be opened: {error}"
        ) from error


def is_ctc(config: PretrainedConfig) -> bool:
    """Whether `AutoModelForCTC` opens models with this config."""
    return type(config) in MODEL_FOR_CTC_MAPPING or "AutoModelForCTC" in config.to_dict().get("auto_map", {})


def choose_device(name: str | None) -> str:
    """The named device, or without a name the accelerator of this machine, if any; ValueError if it is not here."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    here = ["cpu"] if accelerator is None else [accelerator.type, "cpu"]
    if name is not None and name.partition(":")[0] not in here:
        raise ValueError(f"there is no device {name!r} here; choose from {', '.join(here)}")
    return name or here[0]


class CTCRecognizer:
    """Greedy decoding of stitched chunks, or beam search where there is a decoder with a language model."""

    def __init__(
        self,
        model: PreTrainedModel,
        extractor: Any,  # the base class of feature extractors declares neither its call nor its rate
        tokenizer: PreTrainedTokenizerBase,
        *,
        decoder: BeamSearchDecoder | None = None,
        hotwords: Hotwords | None = None,
        chunk_seconds: float,
        stride_seconds: float,
        pause_seconds: float | None = None,
        batch_size: int,
        progress: bool,
    ) -> None:
        self.model = model.eval()
        self.extractor = extractor
        self.rate: int = extractor.sampling_rate
        self.labels = ctc_labels(tokenizer)
        if len(self.labels) < model.config.vocab_size:
            raise ValueError(
                f"the model has {model.config.vocab_size} outputs and its tokenizer {len(self.labels)} tokens; "
                "save the tokenizer that the model was trained with into the folder"
            )
        self.samples_per_frame = self._measured_samples_per_frame()
        self.chunk = round(chunk_seconds * self.rate / self.samples_per_frame)  # frames
        self.stride = round(stride_seconds * self.rate / self.samples_per_frame)
        # wav2vec2's convolutions give a frame less than there are strides in a chunk: it must lie in what is cut off.
        if not (self.stride >= 1 and self.chunk > 2 * self.stride):
            raise ValueError(
                f"stride_seconds must be at least {self.samples_per_frame / self.rate:g} (a frame of this model) and "
                f"chunk_seconds more than twice that, got {stride_seconds:g} and {chunk_seconds:g}"
            )
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.decoder = decoder
        self.hotwords = hotwords
        self.pause_seconds = pause_seconds
        self.batch_size = batch_size
        self.progress = progress

    def __call__(self, source: Source) -> Transcript:
        return self.whole(source) if self.pause_seconds is None else self._by_pauses(source, self.pause_seconds)

    def whole(self, source: Source) -> Transcript:
        """Of a recording as one text."""
        return self._greedy(source) if self.decoder is None else self._with_lm(source, self.decoder)

    def _by_pauses(self, source: Source, pause_seconds: float) -> Transcript:
        """Of a recording as the texts of its utterances."""
        words: list[Word] = []
        heard = 0

        def counted(bar: tqdm) -> Iterator[np.ndarray]:
            nonlocal heard
            for block in stream_audio(source, self.rate, block_seconds=BLOCK_SECONDS):
                heard += len(block)
                bar.update(round(heard / self.rate) - bar.n)
                yield block

        longest = self.chunk * self.samples_per_frame / self.rate
        with recording_bar(source, show=self.progress) as bar:
            for part in utterances(counted(bar), self.rate, pause_seconds=pause_seconds, max_seconds=longest):
                said = self.whole({"array": part.samples, "sampling_rate": self.rate})
                words += later(said.words, part.start / self.rate)
        return Transcript(" ".join(word.text for word in words), tuple(words), heard / self.rate)

    def _with_lm(self, source: Source, decoder: BeamSearchDecoder) -> Transcript:
        stream, seconds = decoder.stream(hotwords=self.hotwords), 0.0
        for piece, seconds in self.log_prob_pieces(source):  # noqa: B007, the last end is the length
            stream.push(piece)
        scale = self.samples_per_frame / self.rate
        words = tuple(
            dataclasses.replace(word, start=min(word.start * scale, seconds), end=min(word.end * scale, seconds))
            for word in stream.finish().words
        )
        return Transcript(" ".join(word.text for word in words), words, seconds)

    def _greedy(self, source: Source) -> Transcript:
        ids, log_probs, seconds = [], [], 0.0
        for piece, seconds in self.log_prob_pieces(source):  # noqa: B007, the last end is the length
            ids.append(piece.argmax(1))
            log_probs.append(piece.max(1))
        path = greedy_path(np.concatenate(ids), np.exp(np.concatenate(log_probs)), self.model.config.pad_token_id)
        words = path_words(path, self.labels, frame_seconds=self.samples_per_frame / self.rate, seconds=seconds)
        return Transcript(" ".join(word.text for word in words), words, seconds)

    def log_prob_pieces(self, source: Source) -> Iterator[tuple[np.ndarray, float]]:
        """Consecutive natural-log probabilities (t, V), each piece with the second at which it ends."""
        size, margin = self.chunk * self.samples_per_frame, self.stride * self.samples_per_frame
        chunks = chunked(stream_audio(source, self.rate), size=size, step=size - 2 * margin)
        with recording_bar(source, show=self.progress) as bar:
            for batch in in_batches(chunks, self.batch_size):
                for chunk, log_probs in zip(batch, self.forward([chunk.samples for chunk in batch]), strict=True):
                    first = 0 if chunk.start == 0 else self.stride
                    end = None if chunk.is_last else self.chunk - self.stride
                    seconds = (chunk.start + len(chunk.samples) - (0 if chunk.is_last else margin)) / self.rate
                    bar.update(round(seconds) - bar.n)
                    yield log_probs[first:end], seconds

    @torch.inference_mode()
    def forward(self, clips: Sequence[np.ndarray]) -> np.ndarray:
        """Log-probabilities (B, T, V) of clips of one length."""
        shortest = round(SHORTEST_SECONDS * self.rate)
        clips = [np.pad(clip, (0, max(0, shortest - len(clip)))) for clip in clips]
        inputs = self.extractor(clips, sampling_rate=self.rate, return_tensors="pt")
        inputs = inputs.to(self.model.device, dtype=self.model.dtype)
        logits = self.model(**inputs).logits
        if "attention_mask" in inputs:
            # Parakeet's and w2v-BERT's extractors append frames that they mark as padding.
            mask = inputs["attention_mask"]
            length = logit_lengths(self.model, mask.sum(-1), mask.shape[-1], logits.shape[1])[0]
            logits = logits[:, :length]
        return logits.float().log_softmax(-1).cpu().numpy()

    def _measured_samples_per_frame(self) -> int:
        samples = FrameCount.of(self.model, self.extractor).samples_per_frame
        if not samples.is_integer():
            raise ValueError(
                f"the model gives a frame for {samples:g} samples, not for a whole number of them; its chunks cannot "
                "be joined, use pipeline() on short clips"
            )
        return int(samples)


class GeneratingRecognizer:
    """The segments of a model that generates, as one transcript."""

    def __init__(self, recognizer: LongFormRecognizer) -> None:
        self.recognizer = recognizer

    def __call__(self, source: Source) -> Transcript:
        segments, seconds = self.recognizer(source)
        text = " ".join(" ".join(segment.text for segment in segments).split())
        words = tuple(word for segment in segments for word in segment.words)
        return Transcript(text, words, seconds, tuple(segments))


@dataclass(frozen=True, eq=False)
class Chunk:
    """Samples (n,) of a recording from sample `start` on."""

    samples: np.ndarray
    start: int
    is_last: bool


def chunked(blocks: Iterable[np.ndarray], *, size: int, step: int) -> Iterator[Chunk]:
    """Overlapping chunks of `size` samples, one every `step`; the last one, up to the end, has size - step to size."""
    waiting = np.zeros(0, dtype=np.float32)
    start = 0
    for block in blocks:
        waiting = np.concatenate([waiting, block])
        while len(waiting) > size:  # not >=: a chunk that reaches the end must be known as the last one
            yield Chunk(waiting[:size], start, is_last=False)
            waiting, start = waiting[step:], start + step
    yield Chunk(waiting, start, is_last=True)


def in_batches(chunks: Iterable[Chunk], batch_size: int) -> Iterator[list[Chunk]]:
    """Up to `batch_size` chunks of one length; so the last chunk of a recording usually goes alone."""
    batch: list[Chunk] = []
    for chunk in chunks:
        if batch and (len(batch) == batch_size or len(chunk.samples) != len(batch[0].samples)):
            yield batch
            batch = []
        batch.append(chunk)
    yield batch


def path_words(path: GreedyPath, labels: Sequence[str], *, frame_seconds: float, seconds: float) -> tuple[Word, ...]:
    """Words of a path; their times end with the recording, though its last frame may reach beyond it.

    `labels` are those of `ctc_labels`: a label that is or begins with a blank ends the word before it.
    """
    tokens, frames = [], []
    for index, token in enumerate(path.tokens):
        label = labels[token]
        parts = [" ", label[1:]] if label.startswith(" ") else [label]
        for part in filter(None, parts):
            tokens.append(part)
            frames.append(index)
    words = words_with_times(
        tokens,
        path.starts[frames],
        path.ends[frames],
        path.confidences[frames],
        frame_seconds=frame_seconds,
        delimiter=" ",
    )
    return tuple(
        dataclasses.replace(word, start=min(word.start, seconds), end=min(word.end, seconds)) for word in words
    )
