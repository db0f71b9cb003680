"""Distances between a signal and its copy after a codec, per clip: SI-SDR, mel distance, STFT distance.

Signals are tensors or arrays (..., N), reference and estimate of one shape; the result is a tensor (...), one number
for each signal, on the estimate's device. All are differentiable, with finite gradients for silent clips. Half
precision is computed in float32.

The two spectral distances are those by which the Descript Audio Codec was evaluated (DAC, Kumar et al. 2023, arXiv
2306.06546, section 4.4), as its repository computes them: sums over window lengths, spectra not normalised. The
paper's values are of clips at 44.1 kHz. The distances depend on level and sample rate: compare at one rate.
"""

import warnings
from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torchaudio.functional import melscale_fbanks

from hfaudio.metrics.results import Mean, mean

LIMIT_DB = 100.0  # of SI-SDR; the rounding noise of 16-bit samples lies 98 dB under a full-scale sine
SILENCE = 1e-10  # mean square, -100 dB full scale: about the rounding noise of 16-bit samples
FLOOR = 1e-5  # of magnitudes: DAC's clamp_eps

MEL_BANDS = {
    32: 5,
    64: 10,
    128: 20,
    256: 40,
    512: 80,
    1024: 160,
    2048: 320,
}  # by window length; DAC, conf/final/44khz.yml
STFT_WINDOWS = (2048, 512)


def si_sdr(reference: np.ndarray | Tensor, estimate: np.ndarray | Tensor) -> Tensor:
    """Scale-invariant signal-to-distortion ratio in dB, higher is better (Le Roux et al. 2019, arXiv 1811.02508).

    Means are removed first. Values are held within +-100 dB, so that one perfect or silent clip does not make a mean
    infinite: a perfect copy has 100, a silent estimate -100. A silent reference (under -100 dB full scale once its
    mean is removed) has no ratio: NaN, with a gradient of zero; use `nanmean` and say how many were left out.
    """
    reference, estimate = _pair(reference, estimate)
    reference = reference - reference.mean(-1, keepdim=True)
    estimate = estimate - estimate.mean(-1, keepdim=True)
    silence = SILENCE * reference.shape[-1]
    reference_energy = reference.square().sum(-1, keepdim=True)
    target = (estimate * reference).sum(-1, keepdim=True) / reference_energy.clamp(min=silence) * reference
    energy = estimate.square().sum(-1)
    signal, noise = target.square().sum(-1), (estimate - target).square().sum(-1)
    # A silent estimate counts as noise alone, of energy 1.
    bound = 10 ** (-LIMIT_DB / 10) * torch.where(energy == 0, 1.0, energy)
    noise = torch.where(energy == 0, 1.0, noise)
    ratio = 10 * (signal.maximum(bound) / noise.maximum(bound)).log10()
    return ratio.masked_fill(reference_energy.squeeze(-1) < silence, torch.nan)


def mel_distance(reference: np.ndarray | Tensor, estimate: np.ndarray | Tensor, sample_rate: int) -> Tensor:
    """L1 distance of log10 mel magnitudes, summed over seven window lengths of 32 to 2048 samples; lower is better.

    Bands from 0 to sample_rate / 2 on Slaney's scale with filters of equal area, hop a quarter of the window, of
    clips of at least 1025 samples, which are mirrored at their ends. A band too narrow for the rate, without a line
    of the spectrum, is left out of the mean: 2 of 635 at 48 kHz, none at 44.1 kHz and below.
    """
    if sample_rate <= 0:
        raise ValueError(f"the sample rate must be positive, got {sample_rate} Hz")
    reference, estimate = _pair(reference, estimate, shortest=max(MEL_BANDS) // 2 + 1)
    total = estimate.new_zeros(estimate.shape[:-1])
    for n_fft, n_mels in MEL_BANDS.items():
        bank = _filterbank(n_fft, n_mels, sample_rate, estimate.dtype, estimate.device)
        real, made = ((_magnitudes(x, n_fft).transpose(-1, -2) @ bank).clamp(min=FLOOR) for x in (reference, estimate))
        total = total + (real.log10() - made.log10()).abs().mean((-2, -1))
    return total


def stft_distance(reference: np.ndarray | Tensor, estimate: np.ndarray | Tensor) -> Tensor:
    """L1 distance of log10 power and of magnitudes, both added, summed over windows of 2048 and 512 samples.

    Lower is better. More sensitive to high frequencies than the mel distance. Clips of at least 1025 samples.
    """
    reference, estimate = _pair(reference, estimate, shortest=max(STFT_WINDOWS) // 2 + 1)
    total = estimate.new_zeros(estimate.shape[:-1])
    for n_fft in STFT_WINDOWS:
        real, made = _magnitudes(reference, n_fft), _magnitudes(estimate, n_fft)
        log_distance = 2 * (real.clamp(min=FLOOR).log10() - made.clamp(min=FLOOR).log10())  # of power: DAC's pow=2
        total = total + log_distance.abs().mean((-2, -1)) + (real - made).abs().mean((-2, -1))
    return total


def signal_distances(reference: Tensor, estimate: Tensor, sample_rate: int) -> dict[str, float]:
    """The three measures of a clip (..., N), "si_sdr", "mel" and "stft": means over its channels.

    Clips shorter than the longest window get silence behind.
    """
    padding = (0, max(0, max(MEL_BANDS) - reference.shape[-1]))
    real, made = (torch.nn.functional.pad(clip, padding) for clip in (reference, estimate))
    measures = {"si_sdr": si_sdr(real, made), "mel": mel_distance(real, made, sample_rate)}
    return {name: float(value.mean()) for name, value in (measures | {"stft": stft_distance(real, made)}).items()}


def mean_distances(distances: Sequence[Mapping[str, float]]) -> dict[str, Mean]:
    """The mean of each measure over clips; of SI-SDR over those that are not silent, if there are any."""
    heard = [clip for clip in distances if not np.isnan(clip["si_sdr"])]
    columns = {name: [clip[name] for clip in (heard if name == "si_sdr" else distances)] for name in distances[0]}
    return {name: mean(values) for name, values in columns.items() if values}


def _pair(reference: np.ndarray | Tensor, estimate: np.ndarray | Tensor, shortest: int = 1) -> tuple[Tensor, Tensor]:
    """Both as float32 or float64 tensors of one shape, at least `shortest` samples long."""
    reference, estimate = torch.as_tensor(reference), torch.as_tensor(estimate)
    if reference.shape != estimate.shape:
        raise ValueError(
            f"reference and estimate must have one shape, got {tuple(reference.shape)} and {tuple(estimate.shape)}; "
            "cut off what the codec appended"
        )
    for signal in (reference, estimate):
        if not signal.is_floating_point():
            raise TypeError(f"expected floating-point samples, got {signal.dtype}; divide 16-bit integers by 32768")
    if reference.ndim == 0 or reference.shape[-1] < shortest:
        raise ValueError(
            f"expected (..., N) samples with N >= {shortest}, got shape {tuple(reference.shape)}; "
            "leave shorter clips out"
        )
    dtype = torch.promote_types(torch.promote_types(reference.dtype, estimate.dtype), torch.float32)
    return reference.to(estimate.device, dtype), estimate.to(dtype)


def _magnitudes(signal: Tensor, n_fft: int) -> Tensor:
    """(..., N) -> (..., n_fft // 2 + 1, T) with a periodic Hann window and a hop of a quarter, not normalised."""
    window = torch.hann_window(n_fft, dtype=signal.dtype, device=signal.device)
    clips = signal.reshape(-1, signal.shape[-1])
    spectrum = torch.stft(clips, n_fft, n_fft // 4, window=window, return_complex=True)
    return spectrum.abs().reshape(*signal.shape[:-1], *spectrum.shape[-2:])


@lru_cache(maxsize=64)
def _filterbank(n_fft: int, n_mels: int, sample_rate: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(n_fft // 2 + 1, bands), the bands that hold at least one line."""
    # A cached inference tensor would break a later backward pass. torchaudio warns of the bands that are left out.
    with torch.inference_mode(False), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "At least one mel filterbank")
        bank = melscale_fbanks(
            n_fft // 2 + 1, 0.0, sample_rate / 2, n_mels, sample_rate, norm="slaney", mel_scale="slaney"
        )
        return bank[:, bank.any(0)].to(dtype=dtype, device=device)
