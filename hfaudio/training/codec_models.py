"""Which codec a run trains: a new EnCodec, a pretrained one, or one with a variational bottleneck."""

from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import torch
from torch import Tensor
from transformers import AutoConfig, EncodecConfig, EncodecModel
from transformers.models.encodec.modeling_encodec import EncodecConv1d, EncodecConvTranspose1d

from hfaudio.models.codec import EncodecVAE, TrainableEncodec, bandwidths

Codec = TypeVar("Codec", EncodecModel, EncodecVAE)

USUAL_RMS = 0.1  # of audio, -20 dB


@dataclass
class CodecArguments:
    """Sizes of a new codec, and how its bottleneck is trained.

    The defaults are small enough for a laptop: 1.5 million weights, 25 frames a second, 225 to 1,800 bit/s at 16 kHz.
    """

    model: str | None = field(
        default=None, metadata={"help": "EnCodec to fine-tune: Hub id or folder. If not given: a new one as below."}
    )
    bottleneck: str = field(
        default="rvq", metadata={"help": "rvq: residual vector quantisation, for MusicGen. kl: variational latents."}
    )
    sample_rate: int = field(default=16_000, metadata={"help": "In Hz; of a new codec."})
    channels: int = field(default=1, metadata={"help": "1 mono, 2 stereo; of a new codec."})
    num_filters: int = field(default=14, metadata={"help": "Channels of the first layer, doubled at each ratio."})
    hidden_size: int = field(default=32, metadata={"help": "Dimensions of the latents."})
    upsampling_ratios: list[int] = field(
        default_factory=lambda: [4, 4, 5, 8],
        metadata={"help": "Of the decoder's layers; their product is the hop in samples. Large ones last are fast."},
    )
    codebook_size: int = field(default=512, metadata={"help": "Codes of a codebook, a power of 2."})
    num_codebooks: int = field(default=8, metadata={"help": "Codebooks (stages of the quantiser)."})
    quantizer_dropout: float = field(
        default=0.5, metadata={"help": "Share of examples that use a random number of codebooks in training."}
    )
    guide_steps: int = field(
        default=1200,
        metadata={
            "help": "Steps in which encoder and decoder of a new codec learn apart, by a spectrum's components."
        },
    )
    codebook_decay: float = field(default=0.99, metadata={"help": "Of the moving averages of the codebooks."})
    dead_share: float = field(
        default=0.1, metadata={"help": "A code used less than this share of the average is replaced."}
    )
    bottleneck_weight: float = field(
        default=0.1, metadata={"help": "Of the commitment loss (rvq) or the KL divergence (kl)."}
    )

    def __post_init__(self) -> None:
        if self.bottleneck not in ("rvq", "kl"):
            raise ValueError(f"--bottleneck must be rvq or kl; got {self.bottleneck!r}")
        if self.channels not in (1, 2):
            raise ValueError(f"--channels must be 1 or 2; got {self.channels}")
        if self.codebook_size < 2 or self.codebook_size & (self.codebook_size - 1):
            raise ValueError(f"--codebook_size must be a power of 2, such as 512; got {self.codebook_size}")
        if not 0 <= self.quantizer_dropout <= 1:
            raise ValueError(f"--quantizer_dropout is a share from 0 to 1; got {self.quantizer_dropout:g}")
        if self.model is None and self.sample_rate % self.config().hop_length:
            raise ValueError(
                f"--upsampling_ratios {self.upsampling_ratios} make a hop of {self.config().hop_length} samples, "
                f"which does not divide the --sample_rate {self.sample_rate}; choose ratios whose product does"
            )

    def config(self) -> EncodecConfig:
        """Of a new codec. Every number of codebooks is one of its bandwidths."""
        config = EncodecConfig(
            sampling_rate=self.sample_rate,
            audio_channels=self.channels,
            num_filters=self.num_filters,
            hidden_size=self.hidden_size,
            upsampling_ratios=list(self.upsampling_ratios),
            codebook_size=self.codebook_size,
            num_lstm_layers=1,
            use_causal_conv=False,  # as MusicGen's: the future of a few frames is worth more than live coding
            use_conv_shortcut=False,
        )
        config.target_bandwidths = bandwidths(self.num_codebooks, self.codebook_size, config.frame_rate)
        return config


def build_codec(args: CodecArguments) -> TrainableEncodec | EncodecVAE:
    """The codec to train.

    Raises:
        ValueError: if `model` is no EnCodec, or has another bottleneck than the one asked for.
    """
    if args.model is None and args.bottleneck == "kl":
        return initialised(EncodecVAE(args.config()))
    if args.bottleneck == "kl":
        return EncodecVAE.from_pretrained(args.model)
    if args.model is None:
        codec = initialised(EncodecModel(args.config()))
    else:
        config = AutoConfig.from_pretrained(args.model)
        if not isinstance(config, EncodecConfig) or config.architectures == [EncodecVAE.__name__]:
            raise ValueError(
                f"--model {args.model} is a {config.model_type} model with {config.architectures}; the recipe "
                "fine-tunes EnCodec (EncodecModel), or with --bottleneck kl an EncodecVAE"
            )
        codec = EncodecModel.from_pretrained(args.model, dtype=torch.float32)
    return TrainableEncodec(
        codec,
        quantizer_dropout=args.quantizer_dropout,
        decay=args.codebook_decay,
        dead_share=args.dead_share,
    )


@torch.no_grad()
def initialised(codec: Codec) -> Codec:
    """A new codec through which audio of usual level passes at unit variance.

    transformers initialises for inputs of variance 1 and with biases as large as that: audio at -20 dB changes the
    latents by 8 % of what the biases add to them, and training does not begin for hundreds of steps.
    """
    for module in codec.modules():
        if isinstance(module, (EncodecConv1d, EncodecConvTranspose1d)):
            torch.nn.init.zeros_(cast(Tensor, module.conv.bias))
    first: Any = codec.encoder.layers[0]
    last: Any = codec.decoder.layers[-1]
    first.conv.parametrizations.weight.original0.div_(USUAL_RMS)  # the magnitudes of the weight normalisation
    last.conv.parametrizations.weight.original0.mul_(USUAL_RMS)
    return codec
