"""Neural codecs in training: a stock EnCodec with a trainable quantiser, or with a variational bottleneck.

EnCodec: Défossez et al. 2022 (arXiv 2210.13438). Shapes: audio (B, channels, N), latents (B, D, T).
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, EncodecConfig, EncodecModel
from transformers.models.encodec.modeling_encodec import EncodecDecoder, EncodecEncoder, EncodecPreTrainedModel

from hfaudio.models.quantize import ResidualVectorQuantization


def open_encodec(place: str) -> Any:
    """A stock EnCodec of a folder or Hub id, in float32, for evaluation; ValueError for other kinds of models."""
    config = AutoConfig.from_pretrained(place)
    if not isinstance(config, EncodecConfig) or config.architectures != [EncodecModel.__name__]:
        raise ValueError(f"{place} is a {config.model_type} model ({config.architectures}), expected an EncodecModel")
    return EncodecModel.from_pretrained(place, dtype=torch.float32).eval()


@dataclass(frozen=True)
class Reconstruction:
    """What a codec in training makes of audio (B, channels, N)."""

    audio: Tensor  # (B, channels, N)
    bottleneck_loss: Tensor  # scalar: commitment loss or KL divergence
    codes: Tensor | None  # (K, B, T); None behind a variational bottleneck


def bandwidths(num_quantizers: int, codebook_size: int, frame_rate: int) -> list[float]:
    """kbit/s of 1, 2, ... codebooks: the `target_bandwidths` of an EnCodec that can be used with each number."""
    bits = (codebook_size - 1).bit_length()
    return [k * bits * frame_rate / 1000 for k in range(1, num_quantizers + 1)]


class TrainableEncodec(nn.Module):
    """A stock `EncodecModel` whose encoder, decoder and codebooks are trained; `codec.save_pretrained` is the result.

    Args:
        codec: new or pretrained.
        quantizer_dropout: share of the examples in training that use a random number of codebooks, so that one model
            serves all of its bitrates (SoundStream; the share is DAC's, arXiv 2306.06546).
        kmeans_vectors: latents on which new codebooks are initialised: the newest ones.
        options: of `ResidualVectorQuantization`.
    """

    def __init__(
        self, codec: EncodecModel, *, quantizer_dropout: float = 0.5, kmeans_vectors: int = 8192, **options: Any
    ) -> None:
        super().__init__()
        self.codec = codec
        self.quantizer_dropout = quantizer_dropout
        self.rvq = ResidualVectorQuantization(codec.quantizer, **options)
        self.recent: Tensor
        self.num_recent: Tensor
        self.register_buffer("recent", torch.zeros(kmeans_vectors, codec.config.hidden_size))
        self.register_buffer("num_recent", torch.zeros((), dtype=torch.int64))
        self._is_initialised = False  # once it is known: asking the codebooks waits for the device

    def forward(self, audio: Tensor, guide: Tensor | None = None) -> Reconstruction:
        """Audio through the codec; N need not be a multiple of the hop.

        With a guide, latents (B, D, T) as of `hfaudio.models.guide`, encoder and decoder learn apart: the decoder gets
        the guide, and the loss is the encoder's distance to it (L1).
        """
        scaled, scale = self._scaled(audio)
        latents = self.codec.encoder(scaled)
        if guide is None:
            if self.training:
                self._initialise(latents)
            quantized = self.rvq(latents, self._num_quantizers(audio) if self.training else None)
            latents, loss, codes = quantized.latents, quantized.commitment, quantized.codes
        else:
            self._remember(latents)
            latents, loss, codes = guide, (latents - guide).abs().mean(), None
        return Reconstruction(self.codec.decoder(latents)[..., : audio.shape[-1]] * scale, loss, codes)

    @torch.no_grad()
    def _remember(self, latents: Tensor) -> None:
        """Keep the newest latents for new codebooks."""
        vectors = torch.cat([self.recent, latents.transpose(1, 2).flatten(0, 1).to(self.recent)])
        self.num_recent.add_(len(vectors) - len(self.recent)).clamp_(max=len(self.recent))
        self.recent.copy_(vectors[-len(self.recent) :])

    def _initialise(self, latents: Tensor) -> None:
        """Make codebooks of the newest latents if there are none yet."""
        if not self._is_initialised and not self.rvq.is_initialised:
            self._remember(latents)
            self.rvq.initialise(self.recent[len(self.recent) - int(self.num_recent) :], latents[:, 0].numel())
        self._is_initialised = True

    def _scaled(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        """Audio at RMS 1 if the model normalises (EnCodec at 48 kHz does), and its RMS (B, 1, 1)."""
        if not self.codec.config.normalize:
            return audio, audio.new_ones(1)
        scale = audio.mean(dim=1, keepdim=True).square().mean(dim=-1, keepdim=True).sqrt() + 1e-8
        return audio / scale, scale

    def _num_quantizers(self, audio: Tensor) -> Tensor:
        """(B,): all codebooks, or with the probability `quantizer_dropout` a random number of them."""
        most = self.codec.config.num_quantizers
        drawn = torch.randint(1, most + 1, (len(audio),))
        dropped = torch.rand(len(audio)) < self.quantizer_dropout
        return torch.where(dropped, drawn, most).to(audio.device)


class EncodecVAE(EncodecPreTrainedModel):
    """EnCodec's encoder and decoder around a Gaussian bottleneck: continuous latents instead of codes.

    The posterior of each latent frame is a diagonal Gaussian against a standard normal prior (Kingma and Welling 2013,
    arXiv 1312.6114), as in the autoencoders of latent diffusion. The folder opens by `EncodecVAE.from_pretrained`;
    MusicGen, which needs codes, cannot use it.
    """

    def __init__(self, config: EncodecConfig) -> None:
        super().__init__(config)
        self.encoder = EncodecEncoder(config)
        self.posterior = nn.Conv1d(config.hidden_size, 2 * config.hidden_size, 1)
        self.decoder = EncodecDecoder(config)
        self.post_init()

    def encode(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the latents, (B, D, T) each."""
        mean, log_variance = self.posterior(self.encoder(audio)).chunk(2, dim=1)
        return mean, log_variance.clamp(-30, 20)

    def decode(self, latents: Tensor) -> Tensor:
        """Audio (B, channels, T * hop_length)."""
        return self.decoder(latents)

    def forward(self, audio: Tensor, guide: Tensor | None = None) -> Reconstruction:
        """Audio through the model: by a sample of the posterior in training, by its mean otherwise.

        With a guide as in `TrainableEncodec.forward`.
        """
        mean, log_variance = self.encode(audio)
        if guide is not None:
            return Reconstruction(self.decode(guide)[..., : audio.shape[-1]], (mean - guide).abs().mean(), None)
        latents = mean
        if self.training:
            latents = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)  # of each latent, in nats
        return Reconstruction(self.decode(latents)[..., : audio.shape[-1]], divergence.mean(), None)


@torch.no_grad()
def reconstruct(codec: EncodecModel | EncodecVAE, audio: Tensor, bandwidth: float | None = None) -> Reconstruction:
    """Audio (B, channels, N) coded and decoded at a bandwidth in kbit/s (default: the highest), as the user of the
    saved model would; `codes` (K, B, T) are those of all chunks one after the other.

    The model must be in evaluation mode.
    """
    if isinstance(codec, EncodecVAE):
        return codec(audio)
    frames: Any
    scales: Any
    frames, scales, padding = codec.encode(
        audio, bandwidth=bandwidth or codec.config.target_bandwidths[-1], return_dict=False
    )
    decoded = codec.decode(frames, scales, last_frame_pad_length=padding, return_dict=False)[0]
    codes = frames.permute(2, 1, 0, 3).flatten(2)  # (chunks, B, K, T) -> (K, B, chunks * T)
    return Reconstruction(decoded[..., : audio.shape[-1]], audio.new_zeros(()), codes)
