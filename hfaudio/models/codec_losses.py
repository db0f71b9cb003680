"""Reconstruction losses of a codec, and the balance between them."""

from collections.abc import Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torchaudio.functional import melscale_fbanks

# Of magnitudes, -60 dB under a full-scale sine. A logarithm down to the rounding noise of 16 bits (-100 dB) spends its
# gradient on what lies between the partials of a note: after 600 steps nothing but that had been learned.
FLOOR = 1e-3


class SpectralLoss(nn.Module):
    """Distances of spectra at several resolutions: of mel energies and of plain magnitudes.

    "mel": L1 of log10 mel magnitudes (DAC, Kumar et al. 2023, arXiv 2306.06546). "stft": spectral convergence plus L1
    of log magnitudes (Yamamoto et al. 2020, arXiv 1910.11480, equations 4 to 6). "complex": L1 of real and imaginary
    parts, which alone hears phases. All are means over resolutions.

    Args:
        sample_rate: in Hz.
        n_ffts: lengths of the windows in samples; the hop is a quarter.
    """

    def __init__(self, sample_rate: int, n_ffts: Sequence[int] = (2048, 1024, 512, 256, 128)) -> None:
        super().__init__()
        self.n_ffts = tuple(n_ffts)
        for n_fft in n_ffts:
            n_mels = max(8, n_fft // 16)  # at most a band for every eight lines: none is empty
            bank = melscale_fbanks(n_fft // 2 + 1, 0.0, sample_rate / 2, n_mels, sample_rate, mel_scale="slaney")
            self.register_buffer(f"mel_{n_fft}", bank, persistent=False)
            self.register_buffer(f"window_{n_fft}", torch.hann_window(n_fft), persistent=False)

    def forward(self, reference: Tensor, estimate: Tensor) -> dict[str, Tensor]:
        """The losses "mel", "stft" and "complex" of audio (B, channels, N)."""
        mel, stft, parts = [], [], []
        with torch.autocast(reference.device.type, enabled=False):
            for n_fft in self.n_ffts:
                spectra = [self._spectrum(audio.float(), n_fft) for audio in (reference, estimate)]
                parts.append(torch.view_as_real(spectra[0] - spectra[1]).abs().mean())
                # The gradient of abs() at 0 is not finite where a clip is silent.
                real, made = ((s.real.square() + s.imag.square()).clamp(min=1e-14).sqrt() for s in spectra)
                convergence = (real - made).norm(dim=(-2, -1)) / real.norm(dim=(-2, -1)).clamp(min=FLOOR)
                log_distance = (real.clamp(min=FLOOR).log() - made.clamp(min=FLOOR).log()).abs().mean()
                stft.append(convergence.mean() + log_distance)
                bank = self.get_buffer(f"mel_{n_fft}")
                real_mel, made_mel = ((m.transpose(-1, -2) @ bank).clamp(min=FLOOR).log10() for m in (real, made))
                mel.append((real_mel - made_mel).abs().mean())
        return {name: torch.stack(of).mean() for name, of in (("mel", mel), ("stft", stft), ("complex", parts))}

    def _spectrum(self, audio: Tensor, n_fft: int) -> Tensor:
        """(B, channels, N) -> complex (B * channels, n_fft // 2 + 1, T), of magnitude 0.5 for a full-scale sine."""
        window = self.get_buffer(f"window_{n_fft}")
        spectrum = torch.stft(audio.flatten(0, 1), n_fft, n_fft // 4, window=window, return_complex=True)
        return spectrum / window.sum()


class LossBalancer(nn.Module):
    """The gradient that several losses on one output have together, each with the share its weight says.

    The gradients of the losses are scaled to the same norm, a moving average, before they are weighted, so that a
    weight is a share and not a matter of units: EnCodec's loss balancer (Défossez et al. 2022, section 3.4).

    Args:
        weights: of the losses by name.
        total_norm: of the gradient of each example, divided by their number: a mean over the batch has such gradients.
        decay: of the moving average of the norms; part of the training state.
    """

    def __init__(self, weights: Mapping[str, float], *, total_norm: float = 1.0, decay: float = 0.999) -> None:
        super().__init__()
        self.weights = dict(weights)
        self.total_norm = total_norm
        self.decay = decay
        self.norms: Tensor
        self.steps: Tensor
        self.register_buffer("norms", torch.zeros(len(self.weights), dtype=torch.float64))
        self.register_buffer("steps", torch.zeros(len(self.weights), dtype=torch.float64))

    def forward(self, losses: Mapping[str, Tensor], output: Tensor) -> Tensor:
        """The gradient at `output`, in its shape; losses may come and go from step to step."""
        gradients = {
            name: torch.autograd.grad(loss, output, retain_graph=True)[0]
            for name, loss in losses.items()
            if self.weights[name]
        }
        total_weight = sum(self.weights[name] for name in gradients)
        result = torch.zeros_like(output)
        for name, gradient in gradients.items():
            norm = self._average_norm(list(self.weights).index(name), gradient)
            share = self.total_norm / len(output) * self.weights[name] / total_weight
            result += gradient * (share / norm.clamp(min=1e-12)).to(output)
        return result

    def _average_norm(self, index: int, gradient: Tensor) -> Tensor:
        """Moving average of the norm of a loss's gradient over steps and ranks, without the bias of its start."""
        norm = gradient.detach().double().flatten(1).norm(dim=1).mean().to(self.norms)
        if dist.is_initialized():
            dist.all_reduce(norm)
            norm /= dist.get_world_size()
        self.norms[index] = self.decay * self.norms[index] + (1 - self.decay) * norm
        self.steps[index] += 1
        return self.norms[index] / (1 - self.decay ** self.steps[index])
