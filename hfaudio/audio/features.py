"""Log-mel and MFCC features of waveforms, batched on tensors.

This file imports nothing but torch and torchaudio: a copy of it travels inside model folders, where transformers loads
it with `trust_remote_code=True` on machines without hfaudio.

One convention for all types, librosa's: power spectrum, periodic Hann window, Slaney's mel scale with filters of equal
area. Frames are centred on multiples of the hop. "log_mel" and "mfcc" see zeros beyond the ends of the clip, so that
the frames of a clip do not depend on the zeros appended to it in a batch; "whisper" mirrors the ends as OpenAI's
implementation does.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor
from torchaudio.functional import create_dct, melscale_fbanks

# The mel energy of the rounding noise of 16-bit samples is about 4e-10 (at n_fft 400); digital silence ends here.
FLOOR = 1e-10


@dataclass(frozen=True, kw_only=True)
class FeatureSettings:
    """What is computed: lengths in samples, frequencies in Hz.

    feature_type "log_mel": natural logarithm of mel energies. "mfcc": orthonormal DCT-II of mel energies in dB, as
    librosa. "whisper": log10 of mel energies, then (x + 4) / 4, last frame dropped.

    dynamic_range_db: energies are raised to this under the loudest of the clip (None: to 1e-10 only). What lies lower,
    digital silence or what a resampler leaves above the band of an 8 kHz recording, would vary more than speech once
    each coefficient is normalised. librosa's MFCC and Whisper have 80.
    """

    feature_type: str
    sample_rate: int
    n_fft: int
    win_length: int
    hop_length: int
    n_mels: int
    f_min: float
    f_max: float
    n_mfcc: int | None = None
    dynamic_range_db: float | None = None

    def __post_init__(self) -> None:
        if self.feature_type not in ("log_mel", "mfcc", "whisper"):
            raise ValueError(f"feature_type must be log_mel, mfcc or whisper, got {self.feature_type!r}")
        for name in ("sample_rate", "n_fft", "win_length", "hop_length", "n_mels"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.win_length > self.n_fft:
            raise ValueError(f"win_length must not exceed n_fft={self.n_fft}, got {self.win_length}; raise n_fft")
        if self.dynamic_range_db is not None and self.dynamic_range_db <= 0:
            raise ValueError(f"dynamic_range_db must be positive or None, got {self.dynamic_range_db}")
        if not 0 <= self.f_min < self.f_max <= self.sample_rate / 2:
            raise ValueError(
                f"0 <= f_min < f_max <= sample_rate / 2 = {self.sample_rate / 2:g} must hold, "
                f"got f_min={self.f_min:g}, f_max={self.f_max:g}"
            )
        if self.feature_type == "mfcc":
            if self.n_mfcc is None or not 1 <= self.n_mfcc <= self.n_mels:
                raise ValueError(f"n_mfcc must be between 1 and n_mels={self.n_mels}, got {self.n_mfcc}")
        elif self.n_mfcc is not None:
            raise ValueError(f"n_mfcc belongs to feature_type mfcc, got n_mfcc={self.n_mfcc} with {self.feature_type}")

    @property
    def feature_size(self) -> int:
        """D, the numbers in one frame."""
        return self.n_mfcc if self.n_mfcc is not None else self.n_mels

    @property
    def frames_per_second(self) -> float:
        return self.sample_rate / self.hop_length

    def num_frames(self, num_samples: int) -> int:
        """T, the frames of a clip of `num_samples` >= 1 samples; at least 1."""
        if self.feature_type == "whisper":
            return max(num_samples, self._shortest) // self.hop_length
        return 1 + num_samples // self.hop_length

    @property
    def _shortest(self) -> int:
        """Samples that "whisper" needs for one frame and for mirroring n_fft // 2 of them."""
        return max(self.n_fft // 2 + 1, self.hop_length)


LOG_MEL = FeatureSettings(
    feature_type="log_mel",
    sample_rate=16_000,
    n_fft=512,
    win_length=400,  # 25 ms
    hop_length=160,  # 10 ms
    n_mels=80,
    f_min=0.0,
    f_max=8000.0,
    dynamic_range_db=60.0,
)
ARTICLE_MFCC = FeatureSettings(  # 64 ms windows every 32 ms
    feature_type="mfcc",
    sample_rate=16_000,
    n_fft=2048,
    win_length=1024,
    hop_length=512,
    n_mels=128,  # librosa's default
    f_min=0.0,
    f_max=8000.0,
    dynamic_range_db=80.0,
    n_mfcc=40,
)
WHISPER = FeatureSettings(  # large-v3 has n_mels=128: dataclasses.replace(WHISPER, n_mels=128)
    feature_type="whisper",
    sample_rate=16_000,
    n_fft=400,
    win_length=400,
    hop_length=160,
    n_mels=80,
    f_min=0.0,
    f_max=8000.0,
    dynamic_range_db=80.0,
)


def extract_features(waveform: Tensor, settings: FeatureSettings) -> Tensor:
    """Features of clips at settings.sample_rate: (..., N) floats -> (..., T, D), T = settings.num_frames(N).

    Device and dtype are the waveform's; half precision is computed in float32. Every clip of a batch gets what it
    would get alone. A clip of one sample works: "log_mel" and "mfcc" see zeros around it anyway, "whisper" appends
    zeros up to n_fft // 2 + 1 samples, which mirroring needs. N = 0 is refused.
    """
    if waveform.shape[-1] == 0:
        raise ValueError("expected at least one sample, got an empty waveform; leave the clip out")
    dtype = waveform.dtype if waveform.dtype == torch.float64 else torch.float32
    # Under autocast the filterbank would be applied in bfloat16, and the logarithm would see its 8 bits.
    with torch.autocast(waveform.device.type, enabled=False):
        mel = _mel_energies(waveform.to(dtype), settings).clamp(min=FLOOR)
        if settings.dynamic_range_db is not None:
            mel = mel.maximum(mel.amax(dim=(-2, -1), keepdim=True) * 10 ** (-settings.dynamic_range_db / 10))
        if settings.feature_type == "log_mel":
            features = mel.log()
        elif settings.feature_type == "mfcc":
            features = 10 * mel.log10() @ _dct(settings, dtype, waveform.device)
        else:
            features = (mel.log10() + 4) / 4
    return features.to(waveform.dtype)


def normalize_features(features: Tensor) -> Tensor:
    """Features (..., T, D) with mean 0 and standard deviation 1 over the frames of each clip, for each of the D.

    A feature that does not change (one frame, digital silence) becomes 0. Give it the frames of the clip only: padded
    frames would count.
    """
    centred = features - features.mean(dim=-2, keepdim=True)
    variance = centred.square().mean(dim=-2, keepdim=True)
    return centred * (variance + 1e-5).rsqrt()  # 1e-5 outweighs rounding where nothing changes, 1e-12 for log(1e-10)


def _mel_energies(waveform: Tensor, settings: FeatureSettings) -> Tensor:
    """(..., N) -> (..., T, n_mels)."""
    clips = waveform.reshape(-1, waveform.shape[-1])
    mirrored = settings.feature_type == "whisper"
    if mirrored and clips.shape[-1] < settings._shortest:
        clips = F.pad(clips, (0, settings._shortest - clips.shape[-1]))
    spectrum = torch.stft(
        clips,
        settings.n_fft,
        settings.hop_length,
        settings.win_length,
        window=_window(settings, waveform.dtype, waveform.device),
        pad_mode="reflect" if mirrored else "constant",
        return_complex=True,
    )
    power = spectrum.abs().square()[..., :-1] if mirrored else spectrum.abs().square()
    mel = power.transpose(-1, -2) @ _filterbank(settings, waveform.dtype, waveform.device)
    return mel.reshape(*waveform.shape[:-1], *mel.shape[-2:])


# The constants are cached. Made under torch.inference_mode they would break a later backward pass.


@lru_cache(maxsize=32)
def _window(settings: FeatureSettings, dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return torch.hann_window(settings.win_length, dtype=dtype, device=device)


@lru_cache(maxsize=32)
def _filterbank(settings: FeatureSettings, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(n_fft // 2 + 1, n_mels)."""
    with torch.inference_mode(False):
        return melscale_fbanks(
            settings.n_fft // 2 + 1,
            settings.f_min,
            settings.f_max,
            settings.n_mels,
            settings.sample_rate,
            norm="slaney",
            mel_scale="slaney",
        ).to(dtype=dtype, device=device)


@lru_cache(maxsize=32)
def _dct(settings: FeatureSettings, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(n_mels, n_mfcc)."""
    with torch.inference_mode(False):
        return create_dct(settings.feature_size, settings.n_mels, norm="ortho").to(dtype=dtype, device=device)
