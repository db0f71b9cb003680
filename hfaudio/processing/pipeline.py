"""`pipeline("automatic-speech-recognition")` that decodes with the language model in a CTC model's folder.

transformers 5.23 loses an LM in silence (it looks for the processor's class where 5.x no longer writes it) and drops
LM decoding in version 6. This class rests on neither: `import hfaudio.auto` puts it in the place of transformers' own,
and a folder with an LM names its copy in `config.custom_pipelines`, for `trust_remote_code=True`.
"""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutomaticSpeechRecognitionPipeline
from transformers.dynamic_module_utils import custom_object_save
from transformers.pipelines.automatic_speech_recognition import rescale_stride

from hfaudio.decoding.beam import BeamSearchDecoder, Hypothesis
from hfaudio.models.frames import FrameCount, logit_lengths
from hfaudio.processing.language_model import FOLDER, find_language_model, open_decoder, save_language_model

logger = logging.getLogger(__name__)


class SpeechRecognitionPipeline(AutomaticSpeechRecognitionPipeline):
    """As transformers', and with the LM where the model's folder has one.

    `decoder_kwargs` of a call are settings of the decoder (`{"beam_width": 200, "alpha": 0.7}`) and `hotwords`.
    `return_timestamps` can be "word". `lm_decoder = None` on a made pipeline turns the LM off. A `decoder` that is
    given takes the place of the folder's: a `BeamSearchDecoder`, or what transformers 5 takes (`decoding.compat`).
    """

    lm_decoder: BeamSearchDecoder | None = None

    def __init__(
        self, model: Any, feature_extractor: Any = None, tokenizer: Any = None, decoder: Any = None, **kwargs: Any
    ) -> None:
        is_ours = isinstance(decoder, BeamSearchDecoder)
        super().__init__(model, feature_extractor, tokenizer, None if is_ours else decoder, **kwargs)
        if is_ours:
            self.lm_decoder = decoder
            return
        revision = getattr(model.config, "_commit_hash", None)
        folder = find_language_model(model.config.name_or_path, revision=revision)
        if folder is None:
            return
        if self.type != "ctc":
            reason = "a decoder was given" if decoder is not None else f"this is no CTC model ({self.type})"
            logger.warning("%s has a %s/ that is not used: %s", folder, FOLDER, reason)
            return
        self.lm_decoder = open_decoder(folder, tokenizer)

    def _forward(self, model_inputs: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        """Logits (B, T, V) and the range of frames to keep of each, instead of transformers' argmax ids."""
        if self.lm_decoder is None:
            return super()._forward(model_inputs, **kwargs)
        stride, is_last = model_inputs.pop("stride", None), model_inputs.pop("is_last")
        name, mask = self.model.main_input_name, model_inputs.pop("attention_mask", None)
        logits = self.model(**{name: model_inputs.pop(name), "attention_mask": mask}).logits
        num_frames = logits.shape[1]
        ranges = torch.tensor([[0, num_frames]]).repeat(len(logits), 1)
        if stride is not None:
            strides = rescale_stride([stride] if isinstance(stride, tuple) else stride, 1 / self._align_to)
            ranges = torch.tensor([[left, total - right] for total, left, right in strides])
        elif mask is not None:
            ranges[:, 1] = logit_lengths(self.model, mask.sum(-1), mask.shape[-1], num_frames)
        return {"is_last": is_last, "logits": logits, "ranges": ranges, **model_inputs}

    def postprocess(  # type: ignore[override]
        self,
        model_outputs: Any,
        decoder_kwargs: dict[str, Any] | None = None,
        return_timestamps: str | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        if self.lm_decoder is None:
            return super().postprocess(
                model_outputs, decoder_kwargs=decoder_kwargs, return_timestamps=return_timestamps, **kwargs
            )
        if return_timestamps not in (None, False, "word"):
            raise ValueError(f"with a language model return_timestamps can be 'word', got {return_timestamps!r}")
        pieces = []
        for outputs in model_outputs:
            first, end = outputs.pop("ranges")[0].tolist()
            pieces.append(outputs.pop("logits")[0, first:end].float())
        hypothesis = self.decode(torch.cat(pieces).numpy(), **(decoder_kwargs or {}))
        result: dict[str, Any] = {"text": hypothesis.text}
        if return_timestamps:
            result["chunks"] = self.timed_words(hypothesis)
        for outputs in model_outputs:
            outputs.pop("is_last", None)  # the pipeline takes it away itself where it makes batches
            for name, value in outputs.items():  # what the caller gave beside the audio comes back
                result.setdefault(name, []).append(value)
        return result

    def decode(self, logits: np.ndarray, *, hotwords: Any = None, **settings: Any) -> Hypothesis:
        """The best hypothesis of logits (T, V)."""
        decoder = self.lm_decoder
        assert decoder is not None
        if settings:
            decoder = decoder.with_settings(**settings)
        return decoder.decode(logits, logits=True, hotwords=hotwords)

    def timed_words(self, hypothesis: Hypothesis) -> list[dict[str, Any]]:
        """Words as transformers gives them, with times in seconds."""
        frames = FrameCount.of(self.model, self.feature_extractor)
        extractor: Any = self.feature_extractor
        seconds = frames.samples_per_frame / extractor.sampling_rate
        return [
            {"text": word.text, "timestamp": (word.start * seconds, word.end * seconds)} for word in hypothesis.words
        ]

    def save_pretrained(self, save_directory: Any, **kwargs: Any) -> None:
        """Model, tokenizer, feature extractor and `language_model/`, and the code that they need."""
        super().save_pretrained(save_directory, **kwargs)
        if self.lm_decoder is not None:
            save_language_model(save_directory, self.lm_decoder)
        if __name__ == "hfaudio.processing.pipeline":
            from hfaudio.processing.remote_code import carry_code

            carry_code(Path(save_directory))
        else:  # this is a copy in a project without hfaudio, and holds what it needs beside it
            custom_object_save(self, save_directory)
