"""Speech models with a decoder: clips at their own length in Whisper's encoder, and plain generation from a prompt."""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    GenerationConfig,
    GenerationMixin,
    LogitsProcessorList,
    PreTrainedModel,
    WhisperTimeStampLogitsProcessor,
)
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.whisper.modeling_whisper import WhisperEncoder

DYNAMIC_RANGE = 2.0  # of Whisper's log-mel features: 80 dB, log10 and divided by 4 (feature_extraction_whisper.py)
SILENCE = -1.5  # the feature of digital zeros: (log10(1e-10) + 4) / 4


class AnyLengthWhisperEncoder(WhisperEncoder):
    """Whisper's encoder for mel features of any even number of frames up to its 30 s.

    transformers' own takes exactly 30 s, so that a clip of 3 s costs as much as one of 30 s. The positions are those
    of the first frames, which is what the encoder sees of a clip that silence fills up: only the attention to that
    silence is gone. On 30 s both give the same.
    """

    def forward(self, input_features: Tensor, attention_mask: Tensor | None = None, **kwargs: Any) -> BaseModelOutput:
        """Hidden states (B, T / 2, D) of log-mel features (B, n_mels, T), T even; ValueError beyond 30 s."""
        frames, limit = input_features.shape[-1], 2 * self.max_source_positions
        if frames > limit or frames % 2:
            raise ValueError(
                f"got {frames} mel frames, expected an even number up to {limit} (30 s); cut longer audio into "
                "pieces, as hfaudio.inference.transcribe does"
            )
        hidden = nn.functional.gelu(self.conv1(input_features))
        hidden = nn.functional.gelu(self.conv2(hidden)).permute(0, 2, 1)
        hidden = hidden + self.embed_positions.weight[: hidden.shape[1]]
        hidden = nn.functional.dropout(hidden, p=self.dropout, training=self.training)
        for layer in self.layers:
            if not (self.training and self.layerdrop > 0 and torch.rand([]) < self.layerdrop):
                hidden = layer(hidden, None, **kwargs)
        return BaseModelOutput(last_hidden_state=self.layer_norm(hidden))


def crop_encoder(model: PreTrainedModel) -> None:
    """Let a Whisper's encoder take clips at their own length, in place; weights and saved files stay as they are."""
    for module in model.modules():
        if type(module) is WhisperEncoder:
            module.__class__ = AnyLengthWhisperEncoder


def pad_log_mel(features: list[Tensor], frames: int | None = None) -> Tensor:
    """Whisper's log-mel features, each (n_mels, T), joined to (B, n_mels, longest T or `frames`).

    What is appended is what the extractor makes of digital zeros: 80 dB below the clip's loudest bin. An odd number
    of frames gets one more, for the convolution of stride 2.
    """
    longest = max(clip.shape[1] for clip in features)
    size = frames or longest + longest % 2
    padded = []
    for clip in features:
        floor = max(float(clip.max()) - DYNAMIC_RANGE, SILENCE)
        padded.append(nn.functional.pad(clip, (0, size - clip.shape[1]), value=floor))
    return torch.stack(padded)


@dataclass(frozen=True)
class Generated:
    """Tokens that were generated behind the prompt, and how sure the model was of each of them.

    `ids` (B, U): behind the end token stand -100s. `log_probs` (B, U): natural, of the chosen tokens, 0 behind the
    end; None if they were not asked for.
    """

    ids: Tensor
    log_probs: Tensor | None = None


@torch.no_grad()
def generate(
    model: Any,
    inputs: dict[str, Any],
    prompt: Tensor,
    *,
    max_new_tokens: int | None = None,
    num_beams: int = 1,
    temperature: float = 0.0,
    timestamps: bool = False,
    with_log_probs: bool = False,
    static_cache: bool | None = None,
    synced_gpus: bool = False,
) -> Generated:
    """One window of audio to tokens, greedily, by beam search or sampled, from a decoder prompt (B, P).

    Whisper's own `generate` searches languages, slides over windows and falls back to sampling; this is the one pass
    inside of it, for clips that are known to fit, and takes cropped clips.

    Args:
        inputs: of the encoder, `input_features` (B, n_mels, T), `input_values` with `attention_mask`, or what it has
            given (`encoder_outputs`).
        max_new_tokens: by default as many as the decoder has positions for.
        temperature: of sampling; 0 takes the most probable token.
        timestamps: by the rules for time tokens, of a Whisper whose prompt does not forbid them.
        static_cache: of a fixed size, so that no memory is allocated in the loop; by default on accelerators (on a
            CPU attending to the empty places costs more).
        synced_gpus: go on until all ranks are done, where each of them holds a part of the weights.
    """
    if static_cache is None:
        static_cache = prompt.device.type != "cpu" and num_beams == 1
    start, room = prompt.shape[1], decoder_positions(model) - prompt.shape[1]
    config: GenerationConfig = copy.deepcopy(model.generation_config)
    config.update(
        max_length=start + min(room, max_new_tokens or room),
        max_new_tokens=None,
        num_beams=num_beams,
        do_sample=temperature > 0,
        temperature=temperature or 1.0,
        top_k=0 if temperature > 0 else 50,  # all tokens, when sampling; 50 is the default that is not warned of
        cache_implementation="static" if static_cache else None,
        return_dict_in_generate=True,
        output_scores=with_log_probs,
    )
    if "input_features" in inputs and "attention_mask" not in inputs:  # Whisper needs none, generate() warns
        batch, _, frames = inputs["input_features"].shape
        inputs = inputs | {"attention_mask": prompt.new_ones(batch, frames)}
    rules = [WhisperTimeStampLogitsProcessor(config, begin_index=start)] if timestamps else []
    output: Any = GenerationMixin.generate(
        model,
        **inputs,
        decoder_input_ids=prompt,
        generation_config=config,
        logits_processor=LogitsProcessorList(rules),
        synced_gpus=synced_gpus,
    )
    ids = output.sequences[:, start:]
    ended = (ids == config.eos_token_id).cumsum(1)
    beyond = (ended - (ids == config.eos_token_id).long()) > 0  # the first end token itself stays
    log_probs = None
    if with_log_probs and num_beams == 1:
        steps = [  # without the temperature, which would make improbable texts look good
            (temperature or 1.0) * scores.float() for scores in output.scores
        ]
        chosen = [scores.log_softmax(-1).gather(1, ids[:, i : i + 1]) for i, scores in enumerate(steps)]
        log_probs = torch.cat(chosen, 1).masked_fill(beyond, 0.0)
    elif with_log_probs:
        scores = model.compute_transition_scores(
            output.sequences, output.scores, output.beam_indices, normalize_logits=True
        )
        log_probs = scores[:, : ids.shape[1]].masked_fill(beyond, 0.0)
    return Generated(ids.masked_fill(beyond, -100), log_probs)


def decoder_positions(model: Any) -> int:
    """How many tokens the decoder can hold, its prompt included."""
    sizes = model.config.to_dict()
    decoder = sizes.get("decoder") or sizes  # of a speech-encoder-decoder the decoder has a config of its own
    for name in ("max_target_positions", "max_text_positions", "max_position_embeddings", "n_positions"):
        if decoder.get(name):
            return int(decoder[name])
    raise ValueError(f"the config of {type(model).__name__} does not tell how many tokens its decoder can hold")
