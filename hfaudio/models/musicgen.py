"""What transformers leaves to the caller of a MusicGen: codes of audio, delayed labels, losses, checks.

Letters: B batch, K codebooks, T frames, C channels, N samples, V codes of a codebook. `pad_id` of the decoder's config
is also what a sequence starts with.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import (
    AutoConfig,
    EncodecConfig,
    EncodecModel,
    MusicgenForConditionalGeneration,
    MusicgenMelodyForConditionalGeneration,
)

from hfaudio.models.delay import apply_delay, check_delay, delays
from hfaudio.models.modes import evaluating

CLASSES: dict[str, Any] = {
    "musicgen": MusicgenForConditionalGeneration,
    "musicgen_melody": MusicgenMelodyForConditionalGeneration,
}


def open_musicgen(place: str | Path, dropout: float | None = None) -> Any:
    """A MusicGen or MusicGen-melody of a folder or Hub id, in float32; ValueError for other kinds of models.

    Args:
        dropout: of decoder and text encoder in training, if not that of the checkpoint.
    """
    config = AutoConfig.from_pretrained(place)
    if config.model_type not in CLASSES:
        raise ValueError(f"{place} is a {config.model_type} model, expected one of {', '.join(CLASSES)}")
    if dropout is not None:
        config.decoder.dropout = config.text_encoder.dropout_rate = dropout
    return CLASSES[config.model_type].from_pretrained(place, config=config, dtype=torch.float32)


def codec_bandwidth(codec: EncodecModel, num_codebooks: int) -> float:
    """The lowest bandwidth in kbit/s at which an EnCodec gives so many codebooks; ValueError if there is none."""
    for bandwidth in sorted(codec.config.target_bandwidths):
        if codec.quantizer.get_num_quantizers_for_bandwidth(bandwidth) >= num_codebooks:
            return bandwidth
    raise ValueError(
        f"the codec has {codec.config.num_quantizers} codebooks at its highest bandwidth, {num_codebooks} are asked "
        "for; ask for fewer, or take a codec with more"
    )


def check_codec(codec: Any, decoder_config: Any) -> None:
    """ValueError unless a MusicGen decoder can speak in the codes of this codec."""
    config = codec.config
    if not isinstance(config, EncodecConfig):
        raise ValueError(
            f"the codec is a {config.model_type}, MusicGen in transformers generates through EnCodec only; train one "
            "by recipes/codec.py"
        )
    if config.chunk_length_s is not None or config.normalize:
        raise ValueError(
            "the codec works in normalised chunks of its own (EnCodec at 48 kHz), whose scales a MusicGen cannot "
            "generate; take one with chunk_length_s null and normalize false"
        )
    if config.audio_channels != 1:
        raise ValueError(
            f"the codec has {config.audio_channels} channels; MusicGen codes left and right by a codec of one channel"
        )
    if config.codebook_size != decoder_config.vocab_size:
        raise ValueError(
            f"the codec has {config.codebook_size} codes in a codebook and the decoder {decoder_config.vocab_size}; "
            "they must be one pair: take the codec of the checkpoint"
        )
    codec_bandwidth(codec, decoder_config.num_codebooks // decoder_config.audio_channels)


@torch.no_grad()
def encode_audio(codec: Any, audio: Tensor, num_codebooks: int) -> Tensor:
    """Codes (B, K, T) of audio (B, C, N) at the codec's rate; of stereo left and right alternate.

    In float32 whatever the surrounding precision: rounded latents fall into other codes.
    """
    batch, channels, _ = audio.shape
    bandwidth = codec_bandwidth(codec, num_codebooks // channels)
    with torch.autocast(audio.device.type, enabled=False):
        codes = codec.encode(audio.flatten(0, 1)[:, None].float(), bandwidth=bandwidth).audio_codes[0]
    codes = codes[:, : num_codebooks // channels]  # (B C, K / C, T)
    return codes.unflatten(0, (batch, channels)).transpose(1, 2).flatten(1, 2)


@torch.no_grad()
def decode_codes(codec: Any, codes: Tensor, channels: int = 1) -> Tensor:
    """Audio (B, C, T * hop_length) of codes (B, K, T)."""
    batch = len(codes)
    with torch.autocast(codes.device.type, enabled=False):
        apart = codes.unflatten(1, (-1, channels)).transpose(1, 2).flatten(0, 1)  # (B C, K / C, T)
        audio = codec.decode(apart[None], [None] * len(apart)).audio_values
    return audio.reshape(batch, channels, -1)


def label_codes(codes: Sequence[Tensor], config: Any) -> dict[str, Tensor]:
    """Inputs of a decoder that is trained on codes (K, T), of as many examples, T free: `decoder_input_ids`, `labels`.

    `labels` (B, T + K / C - 1, K) are delayed, -100 where there is no code. `decoder_input_ids` (B K, T + K / C - 1)
    are the same one step later, behind the pad that every sequence starts with.
    """
    pad = config.pad_token_id
    longest = max(c.shape[1] for c in codes) + delays(config.num_codebooks, config.audio_channels)[-1]
    delayed = [apply_delay(c[None].long(), pad, config.audio_channels)[0] for c in codes]
    filled = torch.stack([torch.nn.functional.pad(d, (0, longest - d.shape[1]), value=pad) for d in delayed])
    labels = filled.transpose(1, 2).masked_fill(filled.transpose(1, 2) == pad, -100)
    check_delay(labels, pad, config.audio_channels)
    inputs = torch.nn.functional.pad(filled[..., :-1], (1, 0), value=pad)
    return {"decoder_input_ids": inputs.flatten(0, 1), "labels": labels}


def null_chroma(chroma: Tensor) -> Tensor:
    """What transformers takes for no melody: all of the energy in the first class."""
    null = torch.zeros_like(chroma)
    null[..., 0] = 1
    return null


def codebook_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy in nats, (B, K) means over the frames, of logits (B K, T, V) and labels (B, T, K).

    Logits may begin with those of a prefix (MusicGen-melody's text and chroma), which have no labels.
    """
    batch, frames, num_codebooks = labels.shape
    logits = logits[:, -frames:].float().unflatten(0, (batch, num_codebooks))
    losses = cross_entropy(logits.flatten(0, 2), labels.transpose(1, 2).flatten(), reduction="none")
    valid = (labels >= 0).transpose(1, 2).sum(-1)
    return losses.unflatten(0, (batch, num_codebooks, frames)).sum(-1) / valid.clamp(min=1)


def window_frames(model: Any) -> int:
    """Frames that the model generates when not told how many: what it was trained on, by its generation config.

    transformers adds the start of the sequence to a default `max_length`.
    """
    config = model.decoder.config
    return model.generation_config.max_length - delays(config.num_codebooks, config.audio_channels)[-1]


@torch.no_grad()
def check_conditions(model: Any) -> dict[str, float]:
    """How much two texts, and two melodies, change the first step's logits; ValueError if they change nothing.

    Several releases of transformers ignored melodies in silence (huggingface/transformers#45647), and a trainer that
    never passes a condition on trains to the end without an error.
    """
    start = torch.full((2 * model.decoder.config.num_codebooks, 1), model.decoder.config.pad_token_id)
    words = torch.tensor([[3], [4]])  # of any vocabulary
    conditions = {"text": {"input_ids": words, "attention_mask": torch.ones_like(words)}}
    if model.config.model_type == "musicgen_melody":
        notes = torch.nn.functional.one_hot(torch.tensor([[1], [8]]), model.config.num_chroma).float()
        notes = notes.expand(2, model.config.chroma_length, -1)
        conditions["text"]["input_features"] = notes[:1].expand(2, -1, -1)
        conditions["melody"] = conditions["text"] | {"input_ids": words[:1].expand(2, -1), "input_features": notes}
    changes = {}
    with evaluating(model):
        for name, inputs in conditions.items():
            inputs = {key: value.to(model.device) for key, value in inputs.items()}
            logits = model(**inputs, decoder_input_ids=start.to(model.device)).logits[:, -1].float()
            first, second = logits.chunk(2)
            changes[name] = float((first - second).abs().max())
    for name, change in changes.items():
        if not change > 1e-6:
            raise ValueError(
                f"two different conditions ({name}) change no logit of the model (at most by {change:.2g}): it would "
                "be trained or generate without them; check that the checkpoint is whole and transformers is >= 5.23"
            )
    return changes
