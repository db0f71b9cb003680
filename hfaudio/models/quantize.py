"""Training of the codebooks of a stock EnCodec: residual vector quantisation by moving averages.

transformers 5.23 can quantise but not train: its codebooks are buffers that nothing updates and its `forward` gives
the encoder no gradient. What is written here goes into the buffers `embed`, `embed_avg` and `cluster_size` of
`EncodecModel.quantizer`, so a trained model is saved and opened as any other EnCodec.

Residual quantisation: Zeghidour et al. 2021 (SoundStream, arXiv 2107.03312); moving averages: van den Oord et al. 2017
(arXiv 1711.00937), appendix A.1.
"""

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from transformers.models.encodec.modeling_encodec import EncodecEuclideanCodebook, EncodecResidualVectorQuantizer


@dataclass(frozen=True)
class Quantized:
    """What a residual quantiser makes of latents (B, D, T)."""

    latents: Tensor  # (B, D, T), the sum of the codebook vectors, with the gradient of the unquantised latents
    codes: Tensor  # (K, B, T), of all K codebooks
    commitment: Tensor  # scalar: mean squared distance to the codebook vectors, averaged over the stages in use


def perplexity(counts: Tensor) -> Tensor:
    """exp(entropy) of each row of code counts (..., V): V if all codes are used alike, 1 if one is."""
    p = counts / counts.sum(-1, keepdim=True).clamp(min=1e-12)
    return torch.exp(torch.special.entr(p).sum(-1))


class ResidualVectorQuantization(nn.Module):
    """The quantiser of an EnCodec in training; `forward` quantises, and in training mode updates the codebooks.

    Each stage quantises what the stages before have left over. In training mode

    - the codebook vectors follow the mean of what falls to them (decay `decay`), on all ranks together;
    - a code that is used less than `dead_share` of the average is replaced by one of the batch's vectors. `embed`,
      `embed_avg` and `cluster_size` are replaced together: audiocraft and encodec replace `embed` only, and their next
      moving average puts the dead vector back (32 of 64 codes in use instead of 64 in a simulation);
    - the straight-through gradient is taken once, of the sum. Taken at each stage, either the later stages'
      commitment losses are lost to the encoder (they were 1.5, 0, 0) or the gradient is multiplied by K.

    Args:
        quantizer: of an `EncodecModel`, whose buffers are trained.
        decay: of the moving averages.
        dead_share: of the average use, below which a code is replaced.
        seed: of the choice of replacements, the same on all ranks.
    """

    def __init__(
        self, quantizer: EncodecResidualVectorQuantizer, *, decay: float = 0.99, dead_share: float = 0.1, seed: int = 0
    ) -> None:
        super().__init__()
        # A plain list, as they belong to the codec, in whose state they are.
        self.codebooks: list[EncodecEuclideanCodebook] = [layer.codebook for layer in quantizer.layers]  # type: ignore[misc]
        self.decay = decay
        self.dead_share = dead_share
        self.seed = seed
        self.updates: Tensor
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))  # so far, which the replacements depend on

    @property
    def is_initialised(self) -> bool:
        """Whether the codebooks have been trained or initialised; those of a fresh model are all zero."""
        return all(bool(book.cluster_size.sum() > 0) for book in self.codebooks)

    def forward(self, latents: Tensor, num_quantizers: Tensor | None = None) -> Quantized:
        """Quantise latents (B, D, T); `num_quantizers` (B,) are the stages that each example's sum consists of.

        All codebooks learn from all examples, those behind an example's number of stages from what they would be
        given.
        """
        num_codebooks = len(self.codebooks)
        if num_quantizers is None:
            num_quantizers = torch.full((len(latents),), num_codebooks, device=latents.device)
        residual = latents.float()  # distances in half precision would confuse near vectors
        total, codes, commitment = torch.zeros_like(residual), [], residual.new_zeros(())
        for stage, book in enumerate(self.codebooks):
            vectors = residual.transpose(1, 2)  # (B, T, D)
            code = book.encode(vectors)  # (B, T)
            quantized = book.decode(code).transpose(1, 2)  # a buffer's rows: no gradient
            in_use = (num_quantizers > stage).float()[:, None, None]
            commitment = commitment + (in_use * (residual - quantized).square()).mean()
            if self.training:
                self._update(book, vectors.detach().reshape(-1, vectors.shape[-1]), code.flatten(), stage)
            total = total + in_use * quantized
            residual = residual - quantized
            codes.append(code)
        if self.training:
            self.updates += 1
        stages_in_use = num_quantizers.float().mean().clamp(min=1)
        straight_through = latents + (total.to(latents.dtype) - latents).detach()
        return Quantized(straight_through, torch.stack(codes), commitment / stages_in_use)

    @torch.no_grad()
    def initialise(self, latents: Tensor, batch_size: int, iterations: int = 10) -> None:
        """k-means of each stage on what the stages before leave of latents (N, D), those of all ranks together.

        `batch_size` is the number of vectors that a training step of a rank brings, for the moving averages.
        """
        residual = _of_all_ranks(latents.float())
        batch_size *= dist.get_world_size() if dist.is_initialized() else 1
        for stage, book in enumerate(self.codebooks):
            generator = torch.Generator().manual_seed(self.seed + stage)
            embed, counts = k_means(residual, book.codebook_size, iterations, generator)
            share = counts.clamp(min=1) / counts.clamp(min=1).sum()
            self._set(book, slice(None), embed, share * batch_size)
            residual = residual - book.decode(book.encode(residual[None])[0])

    @torch.no_grad()
    def _update(self, book: EncodecEuclideanCodebook, vectors: Tensor, codes: Tensor, stage: int) -> None:
        """One step of the moving averages from vectors (N, D) and their codes (N,), then replacement of dead codes."""
        counts = torch.zeros_like(book.cluster_size).index_add_(0, codes, torch.ones_like(vectors[:, 0]))
        sums = torch.zeros_like(book.embed).index_add_(0, codes, vectors)
        if dist.is_initialized():
            dist.all_reduce(counts)
            dist.all_reduce(sums)
        book.cluster_size.mul_(self.decay).add_(counts, alpha=1 - self.decay)
        book.embed_avg.mul_(self.decay).add_(sums, alpha=1 - self.decay)
        # A code in use has a cluster_size above its threshold: no division by zero, and no smoothing needed.
        average = counts.sum() / len(counts)
        dead = book.cluster_size < self.dead_share * average
        alive = ~dead
        book.embed[alive] = book.embed_avg[alive] / book.cluster_size[alive, None]
        if bool(dead.any()):
            generator = torch.Generator().manual_seed(hash((self.seed, int(self.updates), stage)) % 2**63)
            pool = _of_all_ranks(vectors)
            chosen = torch.randint(len(pool), (int(dead.sum()),), generator=generator)
            self._set(book, dead, pool[chosen.to(pool.device)], average)

    @staticmethod
    def _set(book: EncodecEuclideanCodebook, where: Tensor | slice, embed: Tensor, counts: Tensor) -> None:
        """Replace codes with all that their next moving average is made from."""
        book.embed[where] = embed
        book.cluster_size[where] = counts
        book.embed_avg[where] = embed * book.cluster_size[where, None]


def k_means(vectors: Tensor, k: int, iterations: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Centres (k, D) of vectors (N, D) and their counts (k,): k-means++ (Arthur and Vassilvitskii 2007), then Lloyd.

    A centre that nothing falls to is moved to a random vector. With fewer vectors than centres some coincide.
    """
    device = vectors.device

    def draw(weights: Tensor, count: int) -> Tensor:
        return torch.multinomial(weights.cpu(), count, replacement=True, generator=generator).to(device)

    centres = vectors[draw(torch.ones(len(vectors)), 1)]
    distances = torch.full((len(vectors),), torch.inf, device=device)  # squared, to the nearest centre
    for _ in range(1, k):
        distances = torch.minimum(distances, (vectors - centres[-1]).square().sum(1))
        weights = distances if bool(distances.sum() > 0) else torch.ones_like(distances)
        centres = torch.cat([centres, vectors[draw(weights, 1)]])
    counts = torch.zeros(k, device=device)
    for _ in range(iterations):
        nearest = torch.cdist(vectors, centres).argmin(1)
        counts = torch.zeros(k, device=device).index_add_(0, nearest, torch.ones_like(vectors[:, 0]))
        sums = torch.zeros_like(centres).index_add_(0, nearest, vectors)
        anew = vectors[draw(torch.ones(len(vectors)), k)]
        centres = torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], anew)
    return centres, counts


def _of_all_ranks(vectors: Tensor) -> Tensor:
    """Vectors (N, D) of all ranks, which need not have the same N, in the order of the ranks."""
    if not dist.is_initialized():
        return vectors
    sizes = [torch.zeros(1, dtype=torch.int64, device=vectors.device) for _ in range(dist.get_world_size())]
    dist.all_gather(sizes, torch.tensor([len(vectors)], device=vectors.device))
    longest = int(max(sizes))
    padded = torch.cat([vectors, vectors.new_zeros(longest - len(vectors), vectors.shape[1])])
    gathered = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(gathered, padded)
    return torch.cat([part[: int(size)] for part, size in zip(gathered, sizes, strict=True)])
