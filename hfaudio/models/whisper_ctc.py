"""The encoder of any Whisper checkpoint with a CTC head, on clips of their own length instead of 30 s.

Whisper (Radford et al. 2022, arXiv 2212.04356) pads every clip to 30 s; 3 s of speech then cost 30 s of attention.
Here the sinusoidal positions are cropped to the clip, and padding inside a batch is masked.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, WhisperConfig, WhisperModel
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_outputs import CausalLMOutput
from transformers.models.whisper.modeling_whisper import WhisperEncoder, sinusoids

from hfaudio.models.ctc import blank_out_padding, ctc_loss, frame_mask, lengths_of

ENCODER_SIZES = (
    "num_mel_bins",
    "d_model",
    "encoder_layers",
    "encoder_attention_heads",
    "encoder_ffn_dim",
    "activation_function",
    "max_source_positions",
    "scale_embedding",
)


class WhisperCTCConfig(WhisperConfig):
    """A Whisper config, of which only the encoder's part is used, with what CTC needs.

    Args:
        hop_length: samples between two mel frames (160 in every Whisper).
        final_dropout: dropout before the CTC head.
    """

    model_type = "whisper_ctc"

    bos_token_id: int | None = None
    eos_token_id: int | None = None
    pad_token_id: int | None = 0
    decoder_start_token_id: int = 0  # there is no decoder, but transformers checks the range
    begin_suppress_tokens: list[int] | None = None
    hop_length: int = 160
    final_dropout: float = 0.1
    ctc_zero_infinity: bool = True
    is_encoder_decoder: bool = False

    @property
    def inputs_to_logits_ratio(self) -> int:
        """Samples per logit frame: the second convolution has stride 2."""
        return self.hop_length * 2


class CroppedWhisperEncoder(WhisperEncoder):
    """Whisper's encoder for mel features (B, T, n_mels) of any T up to 30 s, padding masked."""

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Hidden states (B, ceil(T / 2), H) and their lengths (B,)."""
        limit = 2 * self.max_source_positions
        if features.shape[1] > limit:
            raise ValueError(
                f"got {features.shape[1]} mel frames, this encoder has positions for {limit} (30 s); cut the audio "
                "into shorter pieces, as hfaudio.inference.transcribe and pipeline(chunk_length_s=20) do"
            )
        # Outside a clip the convolutions must see the zeros that they see when the clip is alone.
        mask = frame_mask(lengths, features.shape[1])[:, None]
        hidden = nn.functional.gelu(self.conv1(features.transpose(1, 2) * mask)) * mask
        hidden = nn.functional.gelu(self.conv2(hidden)).transpose(1, 2)
        lengths = (lengths + 1).div(2, rounding_mode="floor")
        hidden = hidden + self.embed_positions.weight[: hidden.shape[1]]
        hidden = nn.functional.dropout(hidden, p=self.dropout, training=self.training)
        valid = frame_mask(lengths, hidden.shape[1])
        attention_mask = create_bidirectional_mask(self.config, hidden, valid)
        for layer in self.layers:
            if not (self.training and self.layerdrop > 0 and torch.rand([]) < self.layerdrop):
                hidden = layer(hidden, attention_mask)
        return self.layer_norm(hidden), lengths


class WhisperForCTC(PreTrainedModel):
    """Mel features in Whisper's scaling to CTC logits at 50 frames a second.

    `accepts_loss_kwargs = False`: see `LstmForCTC`.
    """

    config_class = WhisperCTCConfig
    base_model_prefix = "encoder"
    main_input_name = "input_features"
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False
    _no_split_modules = ["WhisperEncoderLayer"]  # noqa: RUF012
    _supports_sdpa = True
    _supports_flash_attn = True

    def __init__(self, config: WhisperCTCConfig) -> None:
        super().__init__(config)
        self.encoder = CroppedWhisperEncoder(config)
        self.dropout = nn.Dropout(config.final_dropout)
        self.lm_head = nn.Linear(config.d_model, config.vocab_size)
        self.post_init()

    @classmethod
    def from_whisper(
        cls, name_or_path: str, *, vocab_size: int, pad_token_id: int = 0, **kwargs: Any
    ) -> "WhisperForCTC":
        """The encoder of a Whisper checkpoint (Hub id or folder) under a new CTC head."""
        whisper = WhisperModel.from_pretrained(name_or_path, dtype=torch.float32)
        encoder = {name: whisper.config.to_dict()[name] for name in ENCODER_SIZES}
        model = cls(WhisperCTCConfig(**encoder, vocab_size=vocab_size, pad_token_id=pad_token_id, **kwargs))
        model.encoder.load_state_dict(whisper.encoder.state_dict())
        return model

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, WhisperEncoder):
            module.embed_positions.weight.copy_(sinusoids(*module.embed_positions.weight.shape))

    def freeze_feature_encoder(self) -> None:
        """Keep the two convolutions as they are; the name transformers' CTC models use."""
        self.encoder.conv1.requires_grad_(False)
        self.encoder.conv2.requires_grad_(False)

    def _get_feat_extract_output_lengths(self, input_lengths: Tensor) -> Tensor:
        """Logit frames for mel frames; the name transformers' CTC models use."""
        return (input_lengths + 1).div(2, rounding_mode="floor")

    def forward(
        self, input_features: Tensor, attention_mask: Tensor | None = None, labels: Tensor | None = None
    ) -> CausalLMOutput:
        """Logits (B, T', V) of features (B, T, n_mels); with labels (B, U), padded with -100, also the loss."""
        lengths = lengths_of(attention_mask, input_features)
        hidden, lengths = self.encoder(input_features.to(self.lm_head.weight.dtype), lengths)
        logits = self.lm_head(self.dropout(hidden))
        loss = None
        if labels is not None:
            blank_id, zero_infinity = self.config.pad_token_id, self.config.ctc_zero_infinity
            loss = ctc_loss(logits, lengths, labels, blank_id, zero_infinity=zero_infinity)
        return CausalLMOutput(loss=loss, logits=blank_out_padding(logits, lengths, self.config.pad_token_id))
