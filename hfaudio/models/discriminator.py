"""Multi-scale STFT discriminator, and the losses of a codec that plays against it.

The complex-STFT discriminators of EnCodec (Défossez et al. 2022, arXiv 2210.13438, section 3.4): each of them sees
real and imaginary part of the spectrum at another resolution as channels of a picture.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

SLOPE = 0.2  # of the leaky ReLU


@dataclass(frozen=True)
class Judgement:
    """What one discriminator says of audio."""

    logits: Tensor  # (B, 1, T', F'): positive where it takes the audio for real
    features: list[Tensor]  # of its hidden layers


class STFTDiscriminator(nn.Module):
    """2-D convolutions over the complex spectrum of audio (B, channels, N) at one resolution.

    Three layers halve the frequencies while they look further in time (dilations 1, 2, 4), as in EnCodec.
    """

    def __init__(self, channels: int, n_fft: int, num_filters: int) -> None:
        super().__init__()
        self.n_fft = n_fft
        self.window: Tensor
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)
        sizes = [2 * channels, *[num_filters] * 5]
        kernels = [((3, 9), (1, 1), 1), *[((3, 9), (1, 2), dilation) for dilation in (1, 2, 4)], ((3, 3), (1, 1), 1)]
        self.layers = nn.ModuleList(
            weight_norm(
                nn.Conv2d(
                    size_in,
                    size_out,
                    kernel,
                    stride,
                    dilation=(dilation, 1),
                    padding=((kernel[0] - 1) // 2 * dilation, (kernel[1] - 1) // 2),
                )
            )
            for size_in, size_out, (kernel, stride, dilation) in zip(sizes[:-1], sizes[1:], kernels, strict=True)
        )
        self.head = weight_norm(nn.Conv2d(num_filters, 1, (3, 3), padding=(1, 1)))

    def forward(self, audio: Tensor) -> Judgement:
        with torch.autocast(audio.device.type, enabled=False):  # there is no FFT in half precision
            clips = audio.float().flatten(0, 1)
            spectrum = torch.stft(
                clips, self.n_fft, self.n_fft // 4, window=self.window, normalized=True, return_complex=True
            )
        hidden = torch.view_as_real(spectrum).unflatten(0, audio.shape[:2])  # (B, channels, F, T, 2)
        hidden = hidden.permute(0, 1, 4, 3, 2).flatten(1, 2)  # (B, 2 * channels, T, F)
        features = []
        for layer in self.layers:
            hidden = F.leaky_relu(layer(hidden), SLOPE)
            features.append(hidden)
        return Judgement(self.head(hidden), features)


class MultiScaleSTFTDiscriminator(nn.Module):
    """One `STFTDiscriminator` for each length of the FFT."""

    def __init__(self, channels: int = 1, n_ffts: Sequence[int] = (2048, 1024, 512), num_filters: int = 16) -> None:
        super().__init__()
        self.discriminators = nn.ModuleList(STFTDiscriminator(channels, n_fft, num_filters) for n_fft in n_ffts)

    def forward(self, audio: Tensor) -> list[Judgement]:
        return [discriminator(audio) for discriminator in self.discriminators]


def halves(judgements: Sequence[Judgement]) -> tuple[list[Judgement], list[Judgement]]:
    """What was said of the first and of the second half of a batch, such as of real and of generated audio."""
    parts = [
        [Judgement(j.logits.chunk(2)[n], [hidden.chunk(2)[n] for hidden in j.features]) for j in judgements]
        for n in (0, 1)
    ]
    return parts[0], parts[1]


def discriminator_loss(real: Sequence[Judgement], generated: Sequence[Judgement]) -> Tensor:
    """Hinge loss (Lim and Ye 2017, arXiv 1705.02894): real above 1, generated below -1."""
    losses = [F.relu(1 - r.logits).mean() + F.relu(1 + g.logits).mean() for r, g in zip(real, generated, strict=True)]
    return torch.stack(losses).mean()


def adversarial_loss(generated: Sequence[Judgement]) -> Tensor:
    """The codec's side of the hinge loss: generated above 1 (EnCodec, equation 4)."""
    return torch.stack([F.relu(1 - g.logits).mean() for g in generated]).mean()


def feature_matching_loss(real: Sequence[Judgement], generated: Sequence[Judgement]) -> Tensor:
    """L1 distance of all hidden layers, relative to the size of the real ones (EnCodec, equation 5)."""
    losses = [
        (a.detach() - b).abs().mean() / a.detach().abs().mean().clamp(min=1e-5)
        for r, g in zip(real, generated, strict=True)
        for a, b in zip(r.features, g.features, strict=True)
    ]
    return torch.stack(losses).mean()
