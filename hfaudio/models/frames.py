"""How many logit frames a model gives for its input, whatever its architecture."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from hfaudio.models.modes import evaluating

# A multiple of all usual numbers of samples per logit frame: 160, 256, 320, 400, 480, 512, 640, 960, 1024, 1280, 2560.
MEASURED_SAMPLES = 76_800


def logit_lengths(model: Any, input_lengths: Tensor, input_size: int, num_frames: int) -> Tensor:
    """Valid logit frames (B,) of inputs with these valid lengths (B,), padded to `input_size`.

    Most CTC models of transformers can say it; for the others (Parakeet) the same share as of the input, rounded up.
    """
    if hasattr(model, "_get_feat_extract_output_lengths"):
        return model._get_feat_extract_output_lengths(input_lengths).clamp(max=num_frames)
    return (input_lengths * num_frames + input_size - 1).div(input_size, rounding_mode="floor")


@dataclass(frozen=True)
class FrameCount:
    """Logit frames that a model gives for a number of samples, right within one; `RowCheck` asks it of every row."""

    samples_per_frame: float
    offset: float = 0.0

    def __call__(self, num_samples: int) -> int:
        return max(0, int(num_samples / self.samples_per_frame + self.offset))

    def at_speed(self, factor: float) -> "FrameCount":
        """The frames of clips that augmentation plays `factor` times as fast."""
        return FrameCount(factor * self.samples_per_frame, self.offset)

    @classmethod
    @torch.no_grad()
    def of(cls, model: PreTrainedModel, feature_extractor: Any) -> "FrameCount":
        """Measured on two lengths of silence.

        `config.inputs_to_logits_ratio` counts mel frames in some models (Lasr), is not there in others (Parakeet),
        and forgets the adapter of wav2vec2. The difference of two lengths leaves out what is lost at the ends.
        """
        rate = feature_extractor.sampling_rate
        lengths = (rate // 2, rate // 2 + MEASURED_SAMPLES)
        frames = []
        with evaluating(model):
            for length in lengths:
                silence = np.zeros(length, dtype=np.float32)
                inputs = feature_extractor(silence, sampling_rate=rate, return_tensors="pt")[model.main_input_name]
                frames.append(model(inputs.to(model.device, model.dtype)).logits.shape[1])
        samples_per_frame = MEASURED_SAMPLES / (frames[1] - frames[0])
        return cls(samples_per_frame, frames[1] - lengths[1] / samples_per_frame)
