"""How good a codec in training is, what it sounds like, and pictures of both."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import datasets
import matplotlib

matplotlib.use("Agg")  # no window is opened, here or on a cluster
import matplotlib.pyplot as plt
import numpy as np
import torch
from accelerate.utils import gather_object
from torch import Tensor
from transformers import EncodecModel

from hfaudio.audio.io import save_audio
from hfaudio.data.datasets import RowCheck
from hfaudio.metrics.results import Mean
from hfaudio.metrics.signal import mean_distances, signal_distances
from hfaudio.models.codec import EncodecVAE, reconstruct
from hfaudio.models.quantize import perplexity
from hfaudio.training.report import Panel


@dataclass(frozen=True)
class CodecScore:
    """Of one bandwidth."""

    means: dict[str, Mean]  # of SI-SDR in dB, mel and STFT distance
    code_counts: Tensor | None  # (K, V), how often each code was used; None without codes

    def usage(self) -> dict[str, list[float]]:
        """Of each codebook, the share of its codes that were used and their perplexity; empty without codes."""
        if self.code_counts is None:
            return {}
        used = (self.code_counts > 0).float().mean(-1)
        return {"used": used.tolist(), "perplexity": perplexity(self.code_counts).tolist()}


def clips_of(rows: datasets.Dataset, row_check: RowCheck, max_seconds: float, rank: int, ranks: int) -> list[Tensor]:
    """The beginnings (channels, N) of a rank's rows, decoded."""
    longest = round(max_seconds * row_check.sample_rate)
    own = rows.select(range(rank, len(rows), ranks))
    return [torch.from_numpy(np.atleast_2d(row_check.decode(row)[0])[:, :longest]) for row in own]


@torch.no_grad()
def score_codec(
    codec: EncodecModel | EncodecVAE, clips: Sequence[Tensor], bandwidth: float | None, device: torch.device
) -> CodecScore:
    """Clips (channels, N) of all ranks through the codec at a bandwidth in kbit/s (None: the highest), one by one.

    Stereo is scored channel by channel.
    """
    distances: list[dict[str, float]] = []
    config = codec.config
    counts = torch.zeros(config.num_quantizers, config.codebook_size)
    has_codes = False
    codec.eval()
    for clip in clips:
        made = reconstruct(codec, clip[None].to(device), bandwidth)
        distances.append(signal_distances(clip, made.audio[0].float().cpu(), config.sampling_rate))
        if made.codes is not None:
            has_codes = True
            for stage, codes in enumerate(made.codes.cpu()):
                counts[stage] += torch.bincount(codes.flatten(), minlength=config.codebook_size)
    counts = sum(gather_object([counts]))
    used_stages = counts.sum(-1) > 0
    return CodecScore(mean_distances(gather_object(distances)), counts[used_stages] if has_codes else None)


def save_samples(codec: EncodecModel | EncodecVAE, clips: Sequence[Tensor], folder: Path, step: int) -> None:
    """Clips and what the codec makes of them as FLAC, and a picture of their spectrograms."""
    folder.mkdir(parents=True, exist_ok=True)
    rate = codec.config.sampling_rate
    figure, axes = plt.subplots(len(clips), 2, figsize=(11, 2 * len(clips)), layout="constrained", squeeze=False)
    device = next(codec.parameters()).device
    codec.eval()
    for number, (clip, row) in enumerate(zip(clips, axes, strict=True)):
        made = reconstruct(codec, clip[None].to(device)).audio[0].float().cpu()
        save_audio(folder / f"{number}-original.flac", clip.numpy(), rate)
        save_audio(folder / f"{number}-step-{step:06d}.flac", made.clamp(-1, 1).numpy(), rate)
        for axis, audio, title in zip(row, (clip, made), ("original", f"step {step}"), strict=True):
            axis.specgram(audio.mean(0).numpy() + 1e-6, NFFT=1024, Fs=rate, noverlap=768, vmin=-140, vmax=-30)
            axis.set(title=title, ylabel="Hz")
    figure.savefig(folder / f"step-{step:06d}.png", dpi=80)
    plt.close(figure)


CODEC_PANELS = (
    Panel("reconstruction (training crops)", ("mel", "stft")),
    Panel("mel distance (validation)", ("eval_mel",)),
    Panel("SI-SDR, dB (validation)", ("eval_si_sdr",)),
    Panel("adversaries (training crops)", ("discriminator", "adversarial", "feature_matching")),
    Panel("encoder's distance to the guide", ("guide",)),
    Panel("bottleneck", ("bottleneck",)),
    Panel("perplexity of the codes (validation)", ("eval_perplexity",)),
    Panel("share of codes used (validation)", ("eval_used",)),
)
