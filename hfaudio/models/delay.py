"""The delay pattern of MusicGen (Copet et al. 2023, arXiv:2306.05284, figure 1): one step predicts all codebooks.

    a1 a2 a3 a4          a1 a2 a3 a4  .  .
    b1 b2 b3 b4    ->     . b1 b2 b3 b4  .      (. = pad)       [B, K, T] -> [B, K, T + K - 1]
    c1 c2 c3 c4           .  . c1 c2 c3 c4

Codebook k of a frame is predicted when the coarser ones of that frame are known. In stereo the codebooks of left and
right stand beside each other (left 1, right 1, left 2, ...) and share their delay, as in transformers and audiocraft.
"""

import torch
from torch import Tensor


def delays(num_codebooks: int, channels: int = 1) -> list[int]:
    """Steps by which each codebook is late: 0, 1, 2, 3, and in stereo 0, 0, 1, 1."""
    return [k // channels for k in range(num_codebooks)]


def apply_delay(codes: Tensor, pad_id: int, channels: int = 1) -> Tensor:
    """Codes (B, K, T) delayed: (B, K, T + K / channels - 1), `pad_id` in the corners."""
    batch, num_codebooks, frames = codes.shape
    late = delays(num_codebooks, channels)
    delayed = codes.new_full((batch, num_codebooks, frames + late[-1]), pad_id)
    for k, steps in enumerate(late):
        delayed[:, k, steps : steps + frames] = codes[:, k]
    return delayed


def undo_delay(delayed: Tensor, channels: int = 1) -> Tensor:
    """The codes (B, K, T) of delayed ones (B, K, T + K / channels - 1)."""
    late = delays(delayed.shape[1], channels)
    frames = delayed.shape[2] - late[-1]
    return torch.stack([delayed[:, k, steps : steps + frames] for k, steps in enumerate(late)], 1)


def check_delay(labels: Tensor, pad_id: int, channels: int = 1) -> None:
    """ValueError unless labels (B, T, K) are delayed codes, -100 or `pad_id` where there is none.

    transformers 5.23 takes labels of any pattern in silence; a model trained on undelayed ones generates noise.
    """
    late = torch.tensor(delays(labels.shape[2], channels), device=labels.device)
    empty = (labels < 0) | (labels == pad_id)
    frames = torch.arange(labels.shape[1], device=labels.device)
    lengths = (~empty).sum(1)  # (B, K): codes of each codebook, which begin behind its delay
    belongs = (frames[:, None] >= late) & (frames[:, None] < late + lengths[:, None])  # (B, T, K)
    if (lengths != lengths[:, :1]).any() or (belongs == empty).any():
        raise ValueError(
            "the labels do not have MusicGen's delay pattern (codebook k begins k steps late, pad before it); make "
            "them by hfaudio.models.delay.apply_delay"
        )
