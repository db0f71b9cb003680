"""What every CTC head of ours does alike: the loss in float32 and blanks where the input was padding."""

import torch
import torch.nn.functional as F
from torch import Tensor


def lengths_of(attention_mask: Tensor | None, features: Tensor) -> Tensor:
    """Valid frames of each example: (B, T) mask or None (all valid) for features (B, T, D) -> (B,)."""
    if attention_mask is None:
        return torch.full(features.shape[:1], features.shape[1], device=features.device)
    return attention_mask.sum(-1)


def frame_mask(lengths: Tensor, num_frames: int) -> Tensor:
    """True on the valid frames: (B,) -> (B, T)."""
    return torch.arange(num_frames, device=lengths.device) < lengths[:, None]


def blank_out_padding(logits: Tensor, lengths: Tensor, blank_id: int) -> Tensor:
    """Logits (B, T, V) whose frames past the length say blank and nothing else.

    A head's bias speaks on padded frames too, and argmax over it may be a letter: a model can score
    well alone and badly in a padded batch. `finfo.min` instead of -inf keeps log_softmax finite.
    """
    silent = torch.full_like(logits[:1, :1], torch.finfo(logits.dtype).min)
    silent[..., blank_id] = 0
    return torch.where(frame_mask(lengths, logits.shape[1])[..., None], logits, silent)


def ctc_loss(logits: Tensor, lengths: Tensor, labels: Tensor, blank_id: int, *, zero_infinity: bool) -> Tensor:
    """Mean over examples of the CTC loss per label; logits (B, T, V), lengths (B,), labels (B, U) padded with -100.

    The mean over examples (not over labels or frames) makes N equal micro-batches, or N ranks, average to the
    loss of the joined batch. float32 whatever the autocast dtype: bfloat16 keeps 8 bits of a sum over hundreds
    of frames. Graves et al. 2006, "Connectionist Temporal Classification".
    """
    is_label = labels >= 0
    with torch.autocast(logits.device.type, enabled=False):
        log_probs = F.log_softmax(logits.float(), dim=-1).transpose(0, 1)
        return F.ctc_loss(
            log_probs,
            labels.masked_select(is_label),
            lengths,
            is_label.sum(-1),
            blank=blank_id,
            reduction="mean",
            zero_infinity=zero_infinity,
        )
