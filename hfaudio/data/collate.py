"""Examples to padded batches."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import BatchFeature, ProcessorMixin, WhisperFeatureExtractor

from hfaudio.data.examples import Example
from hfaudio.models.musicgen import label_codes, null_chroma
from hfaudio.models.seq2seq import pad_log_mel

IGNORED_LABEL = -100  # transformers' padding of labels; no loss is computed there


@dataclass(frozen=True)
class CTCCollator:
    """Pads inputs (with their `attention_mask`) and labels (with -100).

    The mask is always there, also for models trained without one (wav2vec2-base): the trainer reads the lengths off
    it and drops it before the model where the feature extractor says so.
    """

    processor: ProcessorMixin

    def __call__(self, examples: list[Example]) -> dict[str, torch.Tensor]:
        extractor = self.processor.feature_extractor
        inputs: dict[str, Any] = {
            name: [example[name] for example in examples]
            for name in extractor.model_input_names
            if name in examples[0]
        }
        batch = extractor.pad(BatchFeature(inputs), padding=True, return_attention_mask=True, return_tensors="pt")
        return {**batch, "labels": padded([example["labels"] for example in examples], IGNORED_LABEL)}


@dataclass(frozen=True)
class Seq2SeqCollator:
    """Pads inputs, `decoder_input_ids` (with the pad token) and `labels` (with -100).

    Whisper's features are padded with silence to the longest clip of the batch, not to 30 s: see
    `hfaudio.models.seq2seq.crop_encoder`. Its decoder needs no mask over padded tokens, as they come last.
    """

    processor: ProcessorMixin
    pad_id: int

    def __call__(self, examples: list[Example]) -> dict[str, torch.Tensor]:
        extractor = self.processor.feature_extractor
        if isinstance(extractor, WhisperFeatureExtractor):
            features = [torch.as_tensor(example["input_features"]) for example in examples]
            inputs: Any = {"input_features": pad_log_mel(features)}
        else:
            names = [name for name in extractor.model_input_names if name in examples[0]]
            columns: Any = {name: [example[name] for example in examples] for name in names}
            inputs = extractor.pad(
                BatchFeature(columns), padding=True, return_attention_mask=True, return_tensors="pt"
            )
        return {
            **inputs,
            "decoder_input_ids": padded([example["decoder_input_ids"] for example in examples], self.pad_id),
            "labels": padded([example["labels"] for example in examples], IGNORED_LABEL),
        }


class MusicCollator:
    """Examples to a batch. Captions are tokens padded to the longest; an empty one is the null condition.

    The null condition is a row of zeros in the attention mask, to which `generate` compares under guidance, and for
    melodies transformers' own null chroma. Codes become delayed labels; audio is left for the trainer to encode.

    Args:
        has_melody: examples have audio, whose chroma MusicGen-melody hears.
    """

    def __init__(self, processor: Any, decoder_config: Any, *, has_melody: bool = False) -> None:
        self.tokenizer = processor.tokenizer
        self.extractor = processor.feature_extractor if has_melody else None
        self.config = decoder_config

    def __call__(self, examples: list[Example]) -> dict[str, torch.Tensor]:
        texts = [example["text"] for example in examples]
        tokens = self.tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
        is_null = torch.tensor([not text for text in texts])
        batch = {
            "input_ids": tokens["input_ids"],
            "attention_mask": tokens["attention_mask"].masked_fill(is_null[:, None], 0),
        }
        if "codes" in examples[0]:
            return batch | label_codes([torch.as_tensor(example["codes"]) for example in examples], self.config)
        audio = [example["input_values"] for example in examples]
        batch["input_values"] = torch.from_numpy(np.stack(audio))
        batch["num_samples"] = torch.tensor([example["num_samples"] for example in examples])
        if self.extractor is not None:
            mono = [clip.mean(0) for clip in audio]
            chroma = self.extractor(mono, sampling_rate=self.extractor.sampling_rate, return_tensors="pt")
            batch["input_features"] = chroma["input_features"]
            batch["input_features"][is_null] = null_chroma(batch["input_features"][:1])
        return batch


def padded(rows: list[list[int]], value: int) -> torch.Tensor:
    """Lists of ids as a tensor (B, longest)."""
    tensors = [torch.as_tensor(row, dtype=torch.long) for row in rows]
    return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=value)
