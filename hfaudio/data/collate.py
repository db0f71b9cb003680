"""Examples to padded batches."""

from dataclasses import dataclass
from typing import Any

import torch
from transformers import BatchFeature, ProcessorMixin

from hfaudio.data.examples import Example

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
        labels = [torch.as_tensor(example["labels"], dtype=torch.long) for example in examples]
        padded = torch.nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=IGNORED_LABEL)
        return {**batch, "labels": padded}
