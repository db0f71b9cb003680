"""Fréchet distance between two sets of clips, beside the distance that two sets of real clips have.

The distance of two samples of one distribution is not 0: of 20 independent features of unit variance it is 5.1 with 50
clips in each set, 2.5 with 100 and 1.3 with 200, falling as 1 / n. A distance means something beside that floor, at
the same n, or extrapolated to infinite n. It also depends on the features: distances of different extractors, or of
different settings of one, do not compare.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import AutoFeatureExtractor, AutoModel, ClapModel, WhisperFeatureExtractor

from hfaudio.audio.features import FeatureSettings, extract_features
from hfaudio.audio.resample import resample

FEWEST = 50  # clips in a set
SIZES = 5  # of subsets, from n / 2 to n, that the extrapolation is fitted to


@dataclass(frozen=True)
class FrechetResult:
    """Distance of generated to real clips and of real to real, both between sets of `n` clips.

    `floor_high` is the 95 % quantile of the floor over the draws. `infinity` is the distance extrapolated to infinite
    n: about 0, and so perhaps negative, where the generated clips are distributed as the real ones are.
    """

    distance: float
    floor: float
    floor_high: float
    infinity: float
    n: int
    dimension: int


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Squared Fréchet distance of two Gaussians with the means and covariances of (n, D) and (m, D) embeddings.

    |mean_a - mean_b|^2 + tr(A + B - 2 (A^1/2 B A^1/2)^1/2), Dowson and Landau 1982; as a score of generators Heusel et
    al. 2017 (arXiv 1706.08500), of audio Kilgour et al. 2019 (arXiv 1812.08466). In float64. At least two rows each;
    with fewer than D + 1 the covariance is singular, which is no trouble here, but see `frechet_with_floor`.
    """
    a, b = _embeddings(a, "a"), _embeddings(b, "b")
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"embeddings must have one length, got {a.shape[1]} and {b.shape[1]}; use one extractor")
    root_a, root_b = _covariance_root(a), _covariance_root(b)
    # The eigenvalues of A^1/2 B A^1/2 are the squares of these singular values. Taken so, no covariance is formed and
    # no root of a rounding error: the distance of a set to itself is 1e-14 of its variance, not 1e-8.
    overlap = np.linalg.svd(root_a @ root_b.T, compute_uv=False).sum()
    spread = np.square(root_a).sum() + np.square(root_b).sum() - 2 * overlap
    return max(0.0, float(np.square(a.mean(0) - b.mean(0)).sum() + spread))


def frechet_with_floor(
    real: np.ndarray,
    generated: np.ndarray,
    *,
    held_out: np.ndarray | None = None,
    paired: bool = False,
    seed: int = 0,
    repeats: int = 20,
) -> FrechetResult:
    """Distance of generated to real embeddings, its floor and its extrapolation, means over random draws.

    Every draw takes n rows of `real`, n others for the floor, and n rows of `generated`: n is the most that all three
    allow, half of `real` at most unless there is a second real set. FAD-infinity (Gui et al. 2023, arXiv 2311.01616)
    is the constant of a line fitted to the distance over 1 / n, here with both sets reduced to n.

    ValueError below 50 rows or 2 D in a set: up to n = D a covariance is singular, and at 2 D the floor is still 0.3
    of the variance of all features together.

    Args:
        real: (N, D).
        generated: (M, D).
        held_out: a second set of real clips for the floor. Where all sets have n rows every draw is the same, and
            floor_high says no more than floor.
        paired: row i of `generated` was made of row i of `real`, as by a codec. It is then never compared with a set
            that holds its original; drawn freely, round trips with little loss score half the floor.
        repeats: draws.
    """
    real, generated = _embeddings(real, "real"), _embeddings(generated, "generated")
    if paired and (held_out is not None or len(real) != len(generated)):
        raise ValueError(
            f"paired needs a generated clip for each real one and no held_out, got {len(real)} real, "
            f"{len(generated)} generated{'' if held_out is None else ' and held_out'}; leave paired out"
        )
    if repeats < 1:
        raise ValueError(f"repeats must be at least 1, got {repeats}")
    if held_out is None:
        n = min(len(real) // 2, len(generated))
    else:
        held_out = _embeddings(held_out, "held_out")
        n = min(len(real), len(held_out), len(generated))
    dimension = real.shape[1]
    if n < max(FEWEST, 2 * dimension):
        raise ValueError(
            f"a Fréchet distance of {dimension} features needs sets of at least {max(FEWEST, 2 * dimension)} clips, "
            f"got n = {n} from {len(real)} real{' in halves' if held_out is None else ''} and {len(generated)} "
            "generated; add clips or take an extractor with fewer features"
        )

    rng = np.random.default_rng(seed)
    sizes = [round(n / share) for share in np.linspace(1, 2, SIZES)]
    distances, floors = np.empty((repeats, SIZES)), np.empty(repeats)
    for draw in range(repeats):
        for place, size in enumerate(sizes):
            order = rng.permutation(len(real))
            rows, others = order[:size], order[size : 2 * size]
            made = others if paired else rng.permutation(len(generated))[:size]
            distances[draw, place] = frechet_distance(real[rows], generated[made])
            if size == n:
                second = real[others] if held_out is None else held_out[rng.permutation(len(held_out))[:n]]
                floors[draw] = frechet_distance(real[rows], second)
    _, infinity = np.polyfit(1 / np.array(sizes), distances.mean(0), 1)
    return FrechetResult(
        distance=float(distances[:, 0].mean()),
        floor=float(floors.mean()),
        floor_high=float(np.quantile(floors, 0.95)),
        infinity=float(infinity),
        n=n,
        dimension=dimension,
    )


def _embeddings(embeddings: np.ndarray, name: str) -> np.ndarray:
    """The (n, D) embeddings in float64; ValueError where they are none."""
    if embeddings.ndim != 2 or len(embeddings) < 2:
        raise ValueError(f"{name} must be (n, D) embeddings of n >= 2 clips, got shape {embeddings.shape}")
    bad = np.flatnonzero(~np.isfinite(embeddings).all(1))
    if len(bad):
        raise ValueError(f"{name} must be finite, got NaN or infinity in {len(bad)} rows, first {bad[0]}; drop them")
    return embeddings.astype(np.float64)


def _covariance_root(embeddings: np.ndarray) -> np.ndarray:
    """R (min(n, D), D) with R^T R the covariance of (n, D) embeddings."""
    return np.linalg.qr(embeddings - embeddings.mean(0), mode="r") / np.sqrt(len(embeddings) - 1)


@dataclass(frozen=True)
class LogMelStatistics:
    """Embeds clips by mean and standard deviation over frames of each log-mel band: needs no weights.

    They hear loudness, timbre and how much a clip moves, not what is played or in which order.

    Args:
        sample_rate: to which clips are resampled, in Hz. Bands reach to half of it, frames last 25 ms.
        n_mels: bands; embeddings have twice as many numbers.
    """

    sample_rate: int
    n_mels: int = 10

    def __call__(self, clips: Sequence[np.ndarray], sample_rate: int) -> np.ndarray:
        """Clips (N,) at `sample_rate` -> (n, 2 * n_mels) float32, the means first. A clip may have one frame."""
        win_length = round(0.025 * self.sample_rate)
        settings = FeatureSettings(
            feature_type="log_mel",
            sample_rate=self.sample_rate,
            n_fft=1 << (win_length - 1).bit_length(),
            win_length=win_length,
            hop_length=round(0.010 * self.sample_rate),
            n_mels=self.n_mels,
            f_min=0.0,
            f_max=self.sample_rate / 2,
            # Without it, the rounding noise of digital silence would outweigh the music in the statistics.
            dynamic_range_db=80.0,
        )
        rows = np.empty((len(clips), 2 * self.n_mels), np.float32)
        for row, clip in zip(rows, clips, strict=True):
            features = extract_features(torch.from_numpy(_at_rate(clip, sample_rate, self.sample_rate)), settings)
            row[:] = torch.cat([features.mean(0), features.std(0, correction=0)]).numpy()
        return rows


class HubEmbedding:
    """Embeds clips by an audio model of the Hub: the mean over time of its last hidden state.

    Whatever `AutoModel` opens with a feature extractor beside it and an output named last_hidden_state: wav2vec 2.0,
    HuBERT, WavLM, AST; of models with a decoder, as Whisper, the encoder. Of CLAP the embedding it shares with text.
    Clips go through alone, so that padding changes nothing. A model hears what its extractor keeps: Whisper the first
    30 seconds, CLAP the first 10.

    Args:
        model_id: folder or id.
        device: "cpu", "cuda" ...
        trust_remote_code: run the code in the model's folder, which MERT needs.
    """

    def __init__(self, model_id: str, device: str | torch.device = "cpu", *, trust_remote_code: bool = False) -> None:
        self.extractor = AutoFeatureExtractor.from_pretrained(model_id, trust_remote_code=trust_remote_code)
        model = AutoModel.from_pretrained(model_id, dtype=torch.float32, trust_remote_code=trust_remote_code)
        self.model = (model.get_encoder() if model.config.is_encoder_decoder else model).eval().to(device)
        self.device = device

    @torch.inference_mode()
    def __call__(self, clips: Sequence[np.ndarray], sample_rate: int) -> np.ndarray:
        """Clips (N,), at least one, at `sample_rate` -> (n, D) float32. TypeError for models without hidden states."""
        if not clips:
            raise ValueError("expected at least one clip, got none; check that the split is not empty")
        rate = self.extractor.sampling_rate
        return np.stack([self._embed(_at_rate(clip, sample_rate, rate)).cpu().numpy() for clip in clips])

    def _embed(self, clip: np.ndarray) -> Tensor:
        """(N,) -> (D,)."""
        if isinstance(self.model, ClapModel):
            # The extractor would take 10 seconds from a random place.
            clip = clip[: self.extractor.nb_max_samples]
        # Whisper's extractor fills every clip up to 30 seconds and says how far only if asked; others lack the option.
        options = {"return_attention_mask": True} if isinstance(self.extractor, WhisperFeatureExtractor) else {}
        inputs = self.extractor(clip, sampling_rate=self.extractor.sampling_rate, return_tensors="pt", **options).to(
            self.device
        )
        if isinstance(self.model, ClapModel):
            return self.model.get_audio_features(**inputs).pooler_output[0]
        output = self.model(**inputs)
        if "last_hidden_state" not in output:
            raise TypeError(
                f"expected a model with a last hidden state, got {type(self.model).__name__} with "
                f"{', '.join(output)}; take an encoder such as wav2vec 2.0 or HuBERT"
            )
        hidden = output.last_hidden_state[0]  # (T, D)
        if "attention_mask" in inputs:
            hidden = hidden[: int(np.ceil(len(hidden) * inputs["attention_mask"].double().mean().item()))]
        return hidden.mean(0)


def _at_rate(clip: np.ndarray, from_rate: int, to_rate: int) -> np.ndarray:
    """(N,) float32 samples at `to_rate`; ValueError for other shapes, TypeError for integers."""
    if clip.ndim != 1 or len(clip) == 0:
        raise ValueError(f"expected clips of shape (N,), N >= 1, got {clip.shape}; mix channels, drop empty clips")
    if not np.issubdtype(clip.dtype, np.floating):
        raise TypeError(f"expected floating-point samples, got {clip.dtype}; divide 16-bit integers by 32768")
    return resample(clip.astype(np.float32), from_rate, to_rate)
