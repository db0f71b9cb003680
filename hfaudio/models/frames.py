"""How many logit frames a model gives for its input, whatever its architecture."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel


def logit_lengths(model: Any, input_lengths: Tensor, input_size: int, num_frames: int) -> Tensor:
    """Valid logit frames (B,) of inputs with these valid lengths (B,), padded to `input_size`.

    Most CTC models of transformers can say it; for the others (Parakeet) the same share as of the input, rounded up.
    """
    if hasattr(model, "_get_feat_extract_output_lengths"):
        return model._get_feat_extract_output_lengths(input_lengths).clamp(max=num_frames)
    return (input_lengths * num_frames + input_size - 1).div(input_size, rounding_mode="floor")


@dataclass(frozen=True)
class FrameCount:
    """Logit frames that a model gives for a number of samples, rounded down; `RowCheck` asks it of every row."""

    samples_per_frame: float

    def __call__(self, num_samples: int) -> int:
        return int(num_samples / self.samples_per_frame)

    @classmethod
    @torch.no_grad()
    def of(cls, model: PreTrainedModel, feature_extractor: Any, fastest: float = 1.0) -> "FrameCount":
        """Measured on ten seconds of silence, so right for any architecture without knowing its convolutions.

        `fastest` is the highest speed at which augmentation plays a clip: it leaves fewer frames.
        """
        rate = feature_extractor.sampling_rate
        silence = np.zeros(10 * rate, dtype=np.float32)
        inputs = feature_extractor(silence, sampling_rate=rate, return_tensors="pt")
        was_training = model.training
        logits = model.eval()(inputs[model.main_input_name]).logits
        model.train(was_training)
        return cls(fastest * len(silence) / logits.shape[1])
