"""Strided convolutions, bidirectional LSTM layers, CTC: a recogniser small enough to train on a laptop.

The shape of Deep Speech 2 (Amodei et al. 2015, arXiv 1512.02595) at the size of a classic MFCC and LSTM system.
"""

import math
from dataclasses import field
from itertools import pairwise

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import CausalLMOutput

from hfaudio.models.ctc import blank_out_padding, ctc_loss, frame_mask, lengths_of


class LstmCTCConfig(PretrainedConfig):
    """Sizes of an `LstmForCTC`.

    Args:
        feature_size: values per feature frame (mel bands or cepstral coefficients).
        hop_length: samples between two feature frames; with the strides it gives the samples per logit frame.
        conv_strides: one convolution each; (2, 2) turns 100 feature frames a second into 25 logit frames.
        blank_bias: initial bias of the blank's logit. 0 leaves it to the data; a negative value delays the
            phase in which a fresh CTC model answers nothing but blanks.
    """

    model_type = "lstm_ctc"

    vocab_size: int = 32
    feature_size: int = 80
    hop_length: int = 160
    conv_channels: int = 192
    conv_kernel: int = 5
    conv_strides: list[int] = field(default_factory=lambda: [2, 2])
    hidden_size: int = 192
    num_hidden_layers: int = 2
    dropout: float = 0.1
    blank_bias: float = 0.0
    pad_token_id: int = 0
    ctc_zero_infinity: bool = True

    @property
    def inputs_to_logits_ratio(self) -> int:
        """Samples per logit frame, by which `pipeline()` cuts long audio and places words in time."""
        return self.hop_length * math.prod(self.conv_strides)


class ConvolutionLayer(nn.Module):
    """Convolution over time, layer norm, GELU: (B, T, D) -> (B, ceil(T / stride), C)."""

    def __init__(self, input_size: int, output_size: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(input_size, output_size, kernel, stride, padding=kernel // 2)
        self.norm = nn.LayerNorm(output_size)

    def forward(self, hidden: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        # Zeros past the end are what the convolution's own padding gives an example that is alone.
        hidden = hidden * frame_mask(lengths, hidden.shape[1])[..., None]
        hidden = self.convolution(hidden.transpose(1, 2)).transpose(1, 2)
        stride = self.convolution.stride[0]
        return nn.functional.gelu(self.norm(hidden)), (lengths + stride - 1).div(stride, rounding_mode="floor")


class BidirectionalLayer(GradientCheckpointingLayer):
    """A residual bidirectional LSTM that does not see padding: (B, T, H) -> (B, T, H).

    Two one-way LSTMs, the second over frames reversed within each length, give what a packed sequence gives;
    on the CPU the packed kernel was 2 to 3 times slower than this one (torch 2.14, batch 32, 75 frames).
    """

    def __init__(self, size: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(size)
        self.forwards = nn.LSTM(size, size, batch_first=True)
        self.backwards = nn.LSTM(size, size, batch_first=True)
        self.project = nn.Linear(2 * size, size)
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden: Tensor, reverse: Tensor) -> Tensor:
        normed = self.norm(hidden)
        forwards, _ = self.forwards(normed)
        index = reverse[..., None].expand_as(normed)
        backwards, _ = self.backwards(normed.gather(1, index))
        joined = torch.cat([forwards, backwards.gather(1, index)], dim=-1)
        return hidden + self.dropout(self.project(joined))


def reversal(lengths: Tensor, num_frames: int) -> Tensor:
    """Frame numbers (B, T) that reverse each example within its length and leave its padding in place.

    length 3 of 5 frames:  0 1 2 3 4  ->  2 1 0 3 4
    """
    frames = torch.arange(num_frames, device=lengths.device).expand(len(lengths), -1)
    return torch.where(frame_mask(lengths, num_frames), lengths[:, None] - 1 - frames, frames)


class LstmPreTrainedModel(PreTrainedModel):
    config_class = LstmCTCConfig
    base_model_prefix = "model"
    main_input_name = "input_features"
    supports_gradient_checkpointing = True
    _no_split_modules = ["BidirectionalLayer"]  # noqa: RUF012


class LstmForCTC(LstmPreTrainedModel):
    """Feature frames to CTC logits.

    `accepts_loss_kwargs = False`: transformers 5.23 multiplies loss and gradient by the number of micro-batches
    and ranks for every forward that takes `**kwargs` (huggingface/transformers#47688).
    """

    accepts_loss_kwargs = False

    def __init__(self, config: LstmCTCConfig) -> None:
        super().__init__(config)
        sizes = [config.feature_size] + [config.conv_channels] * len(config.conv_strides)
        self.convolutions = nn.ModuleList(
            ConvolutionLayer(*pair, config.conv_kernel, stride)
            for pair, stride in zip(pairwise(sizes), config.conv_strides, strict=True)
        )
        self.project = nn.Linear(sizes[-1], config.hidden_size)
        self.layers = nn.ModuleList(
            BidirectionalLayer(config.hidden_size, config.dropout) for _ in range(config.num_hidden_layers)
        )
        self.norm = nn.LayerNorm(config.hidden_size)
        self.dropout = nn.Dropout(config.dropout)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size)
        self.gradient_checkpointing = False
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        # PyTorch's own initialisation of convolutions and LSTMs; transformers' normal(0, 0.02) stalls an LSTM.
        if isinstance(module, nn.LSTM | nn.Conv1d | nn.Linear | nn.LayerNorm):
            module.reset_parameters()
        if module is self.lm_head:
            module.bias[self.config.pad_token_id] = self.config.blank_bias

    def _get_feat_extract_output_lengths(self, input_lengths: Tensor) -> Tensor:
        """Logit frames for feature frames; the name transformers' CTC models use."""
        for stride in self.config.conv_strides:
            input_lengths = (input_lengths + stride - 1).div(stride, rounding_mode="floor")
        return input_lengths

    def forward(
        self, input_features: Tensor, attention_mask: Tensor | None = None, labels: Tensor | None = None
    ) -> CausalLMOutput:
        """Logits (B, T', V) of features (B, T, D); with labels (B, U), padded with -100, also the loss."""
        lengths = lengths_of(attention_mask, input_features)
        hidden = input_features.to(self.project.weight.dtype)
        for convolution in self.convolutions:
            hidden, lengths = convolution(hidden, lengths)
        hidden = self.dropout(self.project(hidden))
        reverse = reversal(lengths, hidden.shape[1])
        for layer in self.layers:
            hidden = layer(hidden, reverse)
        logits = self.lm_head(self.dropout(self.norm(hidden)))
        loss = None
        if labels is not None:
            blank_id, zero_infinity = self.config.pad_token_id, self.config.ctc_zero_infinity
            loss = ctc_loss(logits, lengths, labels, blank_id, zero_infinity=zero_infinity)
        return CausalLMOutput(loss=loss, logits=blank_out_padding(logits, lengths, self.config.pad_token_id))
