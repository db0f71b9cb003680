"""Change of sample rate by windowed-sinc interpolation, of a whole signal or of one that arrives in blocks.

The filters are torchaudio's (`torchaudio.transforms.Resample`: Hann window, 6 zero crossings). They are applied here
because torchaudio computes the output length in float32, which is some samples wrong above 2**24 samples (17 minutes
at 16 kHz), and because it has no state to carry from block to block.
"""

import math
from collections.abc import Iterable, Iterator
from fractions import Fraction
from functools import lru_cache
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchaudio.transforms import Resample

Samples = TypeVar("Samples", np.ndarray, Tensor)

# A filter bank has about from_rate * to_rate / gcd**2 weights: 70,560 for 44.1 -> 16 kHz, but 700 million (2.8 GB)
# for 44,101 Hz. A ratio with larger terms than this is replaced by the nearest one below it: 22,254 Hz (old
# Macintosh) -> 16 kHz then drifts by less than a millisecond an hour.
MAX_DENOMINATOR = 4000


def resample(samples: Samples, from_rate: int, to_rate: int) -> Samples:
    """The same signal at another rate: (..., N) -> (..., ceil(N * to_rate / from_rate)); type, dtype, device stay.

    Beyond its ends the signal counts as zero. Gradients flow through tensors. Equal rates return the input itself.
    """
    ratio = _ratio(from_rate, to_rate)
    if ratio == 1:
        return samples
    if isinstance(samples, np.ndarray):
        return resample(torch.from_numpy(np.ascontiguousarray(samples)), from_rate, to_rate).numpy()
    if not samples.is_floating_point():
        raise TypeError(f"expected floating-point samples, got {samples.dtype}; divide 16-bit integers by 32768")
    kernel, width = _filters(ratio, samples.dtype, samples.device)
    padded = F.pad(samples, (width, width + ratio.denominator))
    return _convolve(padded, kernel, ratio)[..., : math.ceil(samples.shape[-1] * ratio)]


def resample_blocks(blocks: Iterable[np.ndarray], from_rate: int, to_rate: int) -> Iterator[np.ndarray]:
    """Blocks (..., n) that concatenate to `resample` of the concatenated input blocks; memory is that of one block."""
    ratio = _ratio(from_rate, to_rate)
    if ratio == 1:
        yield from blocks
        return
    kernel, width = _filters(ratio, torch.float32, torch.device("cpu"))
    hop = ratio.denominator
    # The filters for outputs [k * numerator, (k + 1) * numerator) read waiting[k * hop : (k + 1) * hop + 2 * width].
    waiting: Tensor | None = None
    received = produced = 0
    for block in blocks:
        received += block.shape[-1]
        before = torch.zeros(*block.shape[:-1], width) if waiting is None else waiting
        waiting = torch.cat([before, torch.from_numpy(block)], dim=-1)
        steps = (waiting.shape[-1] - 2 * width) // hop
        if steps > 0:
            output = _convolve(waiting[..., : steps * hop + 2 * width], kernel, ratio)
            waiting = waiting[..., steps * hop :]
            produced += output.shape[-1]
            yield output.numpy()
    left = math.ceil(received * ratio) - produced
    if waiting is not None and left > 0:
        yield _convolve(F.pad(waiting, (0, width + hop)), kernel, ratio)[..., :left].numpy()


def _ratio(from_rate: int, to_rate: int) -> Fraction:
    if from_rate <= 0 or to_rate <= 0:
        raise ValueError(f"sample rates must be positive, got {from_rate} -> {to_rate} Hz")
    return Fraction(to_rate, from_rate).limit_denominator(MAX_DENOMINATOR)


@lru_cache(maxsize=32)
def _filters(ratio: Fraction, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, int]:
    """Filters (numerator, 1, denominator + 2 * width), one per output phase, and `width`, their reach in samples."""
    with torch.inference_mode(False):  # a cached inference tensor would break a later backward pass
        transform = Resample(ratio.denominator, ratio.numerator, dtype=torch.float64)
        return transform.kernel.to(dtype=dtype, device=device), transform.width


def _convolve(padded: Tensor, kernel: Tensor, ratio: Fraction) -> Tensor:
    """(..., N) samples with their context -> (..., numerator * steps)."""
    rows = padded.reshape(-1, 1, padded.shape[-1])
    phases = F.conv1d(rows, kernel, stride=ratio.denominator)  # (B, numerator, steps)
    return phases.transpose(1, 2).reshape(*padded.shape[:-1], ratio.numerator * phases.shape[-1])
