"""Texts for unlabelled recordings by a trained recogniser, with what tells good ones from bad ones."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCTC, AutoModelForSpeechSeq2Seq, AutoProcessor

import hfaudio.auto  # noqa: F401, folders of our own models open below
from hfaudio.audio.augment import add_silence, change_speed
from hfaudio.data.collate import Seq2SeqCollator
from hfaudio.data.examples import ExampleEncoder
from hfaudio.decoding.greedy import collapse
from hfaudio.inference.transcribe import choose_device, is_ctc, load_config
from hfaudio.metrics.error_rate import count_word_errors
from hfaudio.metrics.hallucination import is_loop
from hfaudio.models.frames import logit_lengths
from hfaudio.models.seq2seq import crop_encoder, decoder_positions, generate
from hfaudio.processing.targets import PlainTargets, WhisperTargets
from hfaudio.processing.tokenizer import ctc_labels, label_text
from hfaudio.text.normalize import normalize

WINDOW_SECONDS = 10.0  # shorter clips are padded: a Whisper repeats itself in short windows
SECOND_SPEED, SECOND_SILENCE = 1.05, 0.3  # what the second hearing changes
FASTEST = 35.0  # characters a second; hurried speech has some 20


@dataclass(frozen=True)
class Label:
    """A text and signs of its quality.

    `log_prob`: mean natural log-probability of its tokens. `agreement`: 1 minus the match error rate between it and
    the text of a second hearing (the clip 5 % faster, behind 0.3 s of silence); 1 if both are empty.
    """

    text: str
    log_prob: float
    agreement: float

    def refusal(self, seconds: float, *, min_log_prob: float, min_agreement: float) -> str | None:
        """Why not to train on it, or None."""
        if not self.text:
            return "no text"
        if is_loop(self.text):
            return "loop"
        if len(self.text) > FASTEST * seconds:
            return "too many characters a second"
        if self.log_prob < min_log_prob:
            return "low confidence"
        if self.agreement < min_agreement:
            return "two hearings disagree"
        return None


class Teacher:
    """A recogniser, CTC or with a decoder, opened from a folder or Hub id; adapters open with their base.

    Args:
        language: of a multilingual Whisper.
        normalizer: how texts are written; "none" is as the model writes.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        language: str | None = None,
        normalizer: str = "none",
        device: str | None = None,
        batch_size: int = 16,
        trust_remote_code: bool = False,
    ) -> None:
        config = load_config(model, trust_remote_code=trust_remote_code)
        self.is_ctc = is_ctc(config)
        opener: Any = AutoModelForCTC if self.is_ctc else AutoModelForSpeechSeq2Seq
        self.model = opener.from_pretrained(model, dtype=torch.float32, trust_remote_code=trust_remote_code).eval()
        self.model.to(choose_device(device))
        self.processor = AutoProcessor.from_pretrained(model, trust_remote_code=trust_remote_code)
        self.rate: int = self.processor.feature_extractor.sampling_rate
        self.normalizer = normalizer
        self.batch_size = batch_size
        tokenizer = self.processor.tokenizer
        if self.is_ctc:
            self.labels = ctc_labels(tokenizer)
            return
        crop_encoder(self.model)
        if config.model_type == "whisper":
            multilingual = bool(self.model.generation_config.to_dict().get("is_multilingual"))
            self.targets: Any = WhisperTargets(tokenizer, multilingual=multilingual, language=language)
        else:
            generation = self.model.generation_config
            self.targets = PlainTargets(
                tokenizer, start_id=generation.decoder_start_token_id, end_id=generation.eos_token_id
            )
        self.encode = ExampleEncoder(self.processor, None, self.targets, WINDOW_SECONDS)
        self.collate = Seq2SeqCollator(self.processor, tokenizer.pad_token_id)

    def __call__(self, clips: Sequence[np.ndarray]) -> list[Label]:
        """Labels of clips (N,) at `rate`, each of at most 30 s for a Whisper, in their order."""
        first = self._hear(clips)
        silence = round(SECOND_SILENCE * self.rate)
        second = self._hear([change_speed(add_silence(clip, silence, 0), SECOND_SPEED) for clip in clips])
        return [
            Label(text, log_prob, 1.0 - count_word_errors(text, other).mer)
            for (text, log_prob), (other, _) in zip(first, second, strict=True)
        ]

    def _hear(self, clips: Sequence[np.ndarray]) -> list[tuple[str, float]]:
        order = sorted(range(len(clips)), key=lambda index: len(clips[index]))
        heard: dict[int, tuple[str, float]] = {}
        for start in range(0, len(order), self.batch_size):
            chosen = order[start : start + self.batch_size]
            batch = [clips[index] for index in chosen]
            pairs = self._ctc(batch) if self.is_ctc else self._generated(batch)
            for index, (text, log_prob) in zip(chosen, pairs, strict=True):
                heard[index] = normalize(text, self.normalizer), log_prob
        return [heard[index] for index in range(len(clips))]

    def _generated(self, clips: list[np.ndarray]) -> list[tuple[str, float]]:
        examples = [self.encode(clip, "", {"id": ""}, epoch=0) for clip in clips]
        inputs = {name: value.to(self.model.device) for name, value in self.collate(examples).items()}
        del inputs["labels"]
        prompt = inputs.pop("decoder_input_ids")[:, : self.targets.prompt_length]
        out = generate(
            self.model, inputs, prompt, max_new_tokens=decoder_positions(self.model) // 2, with_log_probs=True
        )
        assert out.log_probs is not None
        count = (out.ids >= 0).sum(1).clamp(min=1)
        means = (out.log_probs.sum(1) / count).tolist()
        tokenizer = self.processor.tokenizer
        texts = tokenizer.batch_decode(
            out.ids.masked_fill(out.ids < 0, tokenizer.pad_token_id), skip_special_tokens=True
        )
        return list(zip(texts, means, strict=True))

    @torch.no_grad()
    def _ctc(self, clips: list[np.ndarray]) -> list[tuple[str, float]]:
        extractor = self.processor.feature_extractor
        inputs = extractor(
            clips, sampling_rate=self.rate, padding=True, return_attention_mask=True, return_tensors="pt"
        )
        inputs = inputs.to(self.model.device)
        mask = inputs["attention_mask"]
        if not extractor.return_attention_mask:
            del inputs["attention_mask"]
        log_probs = self.model(**inputs).logits.float().log_softmax(-1)
        lengths = logit_lengths(self.model, mask.sum(-1), mask.shape[-1], log_probs.shape[1]).tolist()
        blank = self.model.config.pad_token_id
        pairs = []
        for frames, length in zip(log_probs.cpu().numpy(), lengths, strict=True):
            best = frames[:length]
            tokens, *_ = collapse(best.argmax(1), blank)
            pairs.append((label_text(tokens, self.labels), float(best.max(1).mean())))
        return pairs
