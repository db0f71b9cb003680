"""What a project without hfaudio makes of a model folder; `hfaudio.hub.publish` runs this file in a fresh process.

    python stranger.py TASK FOLDER INPUTS OUTPUTS PROGRAM

TASK is one of `pipeline()`, or "codec"; INPUTS is an .npz file of clips (N,) at 16 kHz, or of texts; OUTPUTS gets, for
each of them, what the pipeline gives and the numbers of one forward pass, and what the file PROGRAM prints, which
shows how to use the model. Nothing but NumPy, PyTorch and transformers is imported here.
"""

import contextlib
import io
import runpy
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import AutoFeatureExtractor, AutoModelForCausalLM, AutoTokenizer, EncodecModel, pipeline

CLIP_RATE = 16_000  # Hz, of the clips
MUSIC_STEPS = 40  # of a clip that is generated: enough to hear all codebooks


@dataclass(frozen=True)
class Opened:
    """A model with what prepares its inputs.

    `pipe` is None for a codec, of which transformers has no pipeline, and for a language model, which need not
    generate.
    """

    task: str
    model: Any
    extractor: Any
    tokenizer: Any
    pipe: Any


def text(opened: Opened, item: Any) -> str:
    """What the pipeline writes for one input; "" where there is none, and where it gives sound, which is looked at."""
    if opened.task == "automatic-speech-recognition":
        rate = opened.extractor.sampling_rate
        return opened.pipe({"raw": resampled(item, rate), "sampling_rate": rate})["text"]
    if opened.task == "text-to-audio":
        options = {"do_sample": False, "max_new_tokens": MUSIC_STEPS}
        audio = opened.pipe(str(item), generate_kwargs=options)["audio"]
        if not np.size(audio) or not np.isfinite(audio).all():
            raise ValueError(f"the pipeline's audio of {str(item)!r} is empty or not finite")
    return ""


@torch.no_grad()
def numbers(opened: Opened, model: Any, item: Any) -> np.ndarray:
    """What tells two models apart: logits of one forward pass, of a codec the audio that it gives back."""
    if opened.task == "codec":
        return codec_audio(model, opened.extractor, item)
    if opened.task == "automatic-speech-recognition":
        rate = opened.extractor.sampling_rate
        inputs = opened.extractor(resampled(item, rate), sampling_rate=rate, return_tensors="pt").to(model.dtype)
        if model.can_generate():
            inputs["decoder_input_ids"] = start_tokens(model)
    else:
        inputs = opened.tokenizer([str(item)], return_tensors="pt")
        inputs.pop("token_type_ids", None)
    if opened.task == "text-to-audio":
        inputs["decoder_input_ids"] = start_tokens(model).repeat(model.decoder.num_codebooks, 1)
    return model(**inputs.to(model.device)).logits.float().cpu().numpy()


def start_tokens(model: Any) -> torch.Tensor:
    """The token (1, 1) that a decoder begins with."""
    start = model.generation_config.decoder_start_token_id
    start = model.config.decoder_start_token_id if start is None else start
    return torch.tensor([[start]])


def codec_audio(model: Any, extractor: Any, clip: np.ndarray) -> np.ndarray:
    """Audio of a second's codes."""
    clip = resampled(clip, extractor.sampling_rate)[: extractor.sampling_rate]
    clip = np.stack([clip] * extractor.feature_size, -1) if extractor.feature_size > 1 else clip
    inputs = extractor(clip, sampling_rate=extractor.sampling_rate, return_tensors="pt").to(model.device)
    codes = model.encode(**inputs)
    return model.decode(codes.audio_codes, codes.audio_scales).audio_values.cpu().numpy()


def resampled(clip: np.ndarray, sample_rate: int) -> np.ndarray:
    """The clip at another rate, by straight lines: both sides hear the same, and it need not sound well."""
    count = round(len(clip) * sample_rate / CLIP_RATE)
    return np.interp(np.arange(count) * CLIP_RATE / sample_rate, np.arange(len(clip)), clip).astype(np.float32)


def open_folder(task: str, folder: str, *, trust_remote_code: bool) -> Opened:
    """A model folder, opened as anybody would."""
    if task == "codec":
        model = EncodecModel.from_pretrained(folder).eval()
        return Opened(task, model, AutoFeatureExtractor.from_pretrained(folder), None, None)
    if task == "text-generation":
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
        model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=trust_remote_code).eval()
        return Opened(task, model, None, tokenizer, None)
    pipe: Any = pipeline(task, model=folder, trust_remote_code=trust_remote_code)  # type: ignore[call-overload]
    return Opened(task, pipe.model, pipe.feature_extractor, pipe.tokenizer, pipe)


def main(task: str, folder: str, inputs: str, results: str, program: str) -> None:
    sys.modules["hfaudio"] = None  # type: ignore[assignment]  # here it does not exist, installed or not
    with np.load(inputs) as file:
        items = [file[name] for name in file.files]
    opened = open_folder(task, folder, trust_remote_code=True)
    arrays: dict[str, Any] = {f"numbers_{i}": numbers(opened, opened.model, item) for i, item in enumerate(items)}
    texts = np.array([text(opened, item) for item in items])
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        runpy.run_path(program)
    np.savez(results, texts=texts, printed=np.array(printed.getvalue()), **arrays)


if __name__ == "__main__":
    main(*sys.argv[1:])
