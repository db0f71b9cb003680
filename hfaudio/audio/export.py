"""Loudness by ITU-R BS.1770-4 and true peaks, and clips brought to a loudness before they are written.

Files are written by `hfaudio.audio.io.save_audio`.
"""

# Why not torchaudio.functional.loudness (2.11): it clips inside its filters (lfilter's clamp), so that a sine of
# 3 kHz at 0.9 of full scale measures 1.7 dB too quiet, and its filters are not those of the standard (0.04 dB).

import math

import numpy as np
import torch
from torchaudio.functional import lfilter

from hfaudio.audio.resample import resample

STEP_SECONDS = 0.1  # blocks of four steps, 0.4 s, overlap by three quarters
BLOCK_STEPS = 4
ABSOLUTE_GATE = -70.0  # LUFS; quieter blocks do not count
RELATIVE_GATE = -10.0  # nor those so much quieter than the mean of the others
OFFSET = -0.691  # dB, which makes 997 Hz at full scale in one channel -3.01 LUFS
OVERSAMPLING = 4  # BS.1770-4, annex 2; a peak between these samples is missed by 0.7 dB at most


def normalise_loudness(
    samples: np.ndarray, sample_rate: int, lufs: float = -16.0, peak_db: float = -1.0
) -> np.ndarray:
    """Samples (C, N) times one gain, float32, so that their integrated loudness is `lufs`.

    The true peak stays at or below `peak_db` (dBTP): where that asks for less gain, the clip remains quieter than
    `lufs`; nothing is limited or compressed. What has no loudness is returned as it is: clips below 0.4 s, and
    those of which no block is above -70 LUFS, silence among them. ValueError for NaN and infinity, for more than two
    channels, and for a `peak_db` above 0.
    """
    if not peak_db <= 0:
        raise ValueError(f"peak_db must be at most 0 (full scale), got {peak_db}; -1 leaves room for lossy codecs")
    if not math.isfinite(lufs):
        raise ValueError(f"lufs must be a number such as -16, got {lufs}; to keep a clip's level, do not normalise")
    measured = loudness(samples, sample_rate)
    if measured == -math.inf:
        return samples.astype(np.float32)
    gain_db = min(lufs - measured, peak_db - 20 * math.log10(true_peak(samples)))
    return (samples * 10 ** (gain_db / 20)).astype(np.float32)


def loudness(samples: np.ndarray, sample_rate: int) -> float:
    """Integrated loudness in LUFS (= LKFS) of samples (C, N) of one or two channels; -inf where no block counts.

    The powers of the channels add: the same signal in both is 3 dB louder than in one.
    """
    _check(samples)
    steps = _step_powers(samples, sample_rate)
    if len(steps) < BLOCK_STEPS:
        return -math.inf
    blocks = np.lib.stride_tricks.sliding_window_view(steps, BLOCK_STEPS).mean(-1)
    blocks = blocks[blocks > _power(ABSOLUTE_GATE)]
    if not len(blocks):
        return -math.inf
    blocks = blocks[blocks > _power(RELATIVE_GATE + _lufs(blocks.mean()))]
    return _lufs(blocks.mean())


def true_peak(samples: np.ndarray) -> float:
    """Largest magnitude of samples (C, N) and of the curve through them (four times oversampled); 1 = full scale."""
    _check(samples)
    between = resample(samples.astype(np.float32), 1, OVERSAMPLING)
    return float(max(np.abs(samples).max(), np.abs(between).max()))


def _check(samples: np.ndarray) -> None:
    if samples.ndim != 2 or samples.shape[0] not in (1, 2) or not samples.shape[1]:
        raise ValueError(f"expected samples (C, N) of one or two channels with N > 0, got {samples.shape}; mix to two")
    if not np.isfinite(samples).all():
        raise ValueError("samples hold NaN or infinity; repair them or leave the clip out")


def _step_powers(samples: np.ndarray, sample_rate: int) -> np.ndarray:
    """(steps,): mean square of K-weighted samples (C, N) in steps of 0.1 s, summed over channels."""
    weighted = torch.from_numpy(samples.astype(np.float64))
    for numerator, denominator in k_weighting(sample_rate):
        weighted = lfilter(weighted, torch.from_numpy(denominator), torch.from_numpy(numerator), clamp=False)
    size = round(STEP_SECONDS * sample_rate)
    count = samples.shape[1] // size
    return weighted[:, : count * size].unflatten(1, (count, size)).square().mean(-1).sum(0).numpy()


def k_weighting(sample_rate: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Numerator and denominator, (3,) each, of the two filters of BS.1770-4: a head's high shelf, and a high pass.

    The standard tabulates them for 48 kHz. For other rates they are made from the analogue filters that these tables
    come from (De Man 2014, "Evaluation of implementations of the EBU R128 loudness measurement"), as libebur128 and
    FFmpeg do.
    """
    k, q = math.tan(math.pi * 1681.974450955533 / sample_rate), 0.7071752369554196
    high = 10 ** (3.999843853973347 / 20)
    band = high**0.4996667741545416
    scale = 1 + k / q + k * k
    shelf = np.array([high + band * k / q + k * k, 2 * (k * k - high), high - band * k / q + k * k]) / scale
    shelf_poles = np.array([1.0, 2 * (k * k - 1) / scale, (1 - k / q + k * k) / scale])
    k, q = math.tan(math.pi * 38.13547087602444 / sample_rate), 0.5003270373238773
    scale = 1 + k / q + k * k
    high_pass_poles = np.array([1.0, 2 * (k * k - 1) / scale, (1 - k / q + k * k) / scale])
    return [(shelf, shelf_poles), (np.array([1.0, -2.0, 1.0]), high_pass_poles)]


def _lufs(power: float) -> float:
    return OFFSET + 10 * math.log10(power)


def _power(lufs: float) -> float:
    return 10 ** ((lufs - OFFSET) / 10)
