"""A batch of windows to Whisper's tokens with times, each tried again at higher temperatures while its text is bad.

Not by `WhisperForConditionalGeneration.generate`: on a batch of windows transformers 5.23 fails where one is skipped
as silence (IndexError) or retried (stacking outputs of different lengths), and confuses rows that are retried.
"""

import math
import zlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE

from hfaudio.models.seq2seq import generate


@torch.no_grad()
def decode_windows(
    model: Any,
    features: Tensor,
    *,
    language: str | None,
    task: str | None,
    temperatures: Sequence[float],
    compression_ratio_threshold: float,
    logprob_threshold: float,
    no_speech_threshold: float,
) -> list[list[int]]:
    """Ids behind the prompt for each row of features (B, n_mels, T), time tokens among them; none for no speech.

    A text fails if it compresses too well or its mean log-probability is below the threshold; it is then sampled anew
    at the next temperature. One that fails by its probability where "no speech" is likely is empty (Radford et al.
    2022, section 4.5).

    Raises:
        ValueError: for a language that the model does not have.
    """
    encoded = model.get_encoder()(features.to(model.device, model.dtype)).last_hidden_state
    config = model.generation_config
    prompts = _prompts(model, encoded, language, task)
    start = prompts[:, :1]
    first = model(encoder_outputs=BaseModelOutput(last_hidden_state=encoded), decoder_input_ids=start).logits[:, -1]
    silent = first.float().softmax(-1)[:, config.no_timestamps_token_id - 1]  # <|nospeech|> comes before it
    ids: list[list[int]] = [[] for _ in range(len(features))]
    waiting = list(range(len(features)))
    for temperature in temperatures:
        if not waiting:
            break
        out = generate(
            model,
            {"encoder_outputs": BaseModelOutput(last_hidden_state=encoded[waiting])},
            prompts[waiting],
            timestamps=True,
            temperature=temperature,
            with_log_probs=True,
        )
        assert out.log_probs is not None
        again = []
        for row, found, log_probs in zip(waiting, out.ids, out.log_probs, strict=True):
            said = [int(token) for token in found if token >= 0 and token != config.eos_token_id]
            mean = float(log_probs.sum()) / (len(said) + 1)
            if mean < logprob_threshold and float(silent[row]) > no_speech_threshold:
                ids[row] = []
                continue
            ids[row] = said
            if mean < logprob_threshold or token_compression(said, len(first[0])) > compression_ratio_threshold:
                again.append(row)
        waiting = again
    return ids


def _prompts(model: Any, encoded: Tensor, language: str | None, task: str | None) -> Tensor:
    """Start token, and of a multilingual model language (detected if not given) and task: (B, 1 or 3)."""
    config, size = model.generation_config, len(encoded)
    start = torch.full((size, 1), config.decoder_start_token_id, device=encoded.device)
    if not config.to_dict().get("is_multilingual"):
        return start
    if language is None:
        spoken = model.detect_language(encoder_outputs=BaseModelOutput(last_hidden_state=encoded)).view(-1, 1)
    else:
        code = TO_LANGUAGE_CODE.get(language.lower(), language.lower())
        if f"<|{code}|>" not in config.lang_to_id:
            raise ValueError(
                f"this Whisper has no language {language!r}; its codes are {', '.join(config.lang_to_id)}"
            )
        spoken = torch.full_like(start, config.lang_to_id[f"<|{code}|>"])
    return torch.cat([start, spoken, torch.full_like(start, config.task_to_id[task or "transcribe"])], 1)


def token_compression(ids: Sequence[int], vocab_size: int) -> float:
    """Bytes of ids over bytes that zlib needs for them, as transformers measures the repetition of a text."""
    width = math.floor(math.log2(vocab_size) / 8) + 1
    content = b"".join(token.to_bytes(width, "little") for token in ids)
    return len(content) / len(zlib.compress(content)) if content else 0.0
