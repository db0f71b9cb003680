"""What a folder holds: a recogniser, a music generator, a codec, a language model, or an adapter of one of these."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_CTC_MAPPING_NAMES,
    MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES,
    MODEL_FOR_TEXT_TO_WAVEFORM_MAPPING_NAMES,
)

from hfaudio.processing.language_model import FOLDER as LANGUAGE_MODEL
from hfaudio.processing.remote_code import EXTRACTOR_CODE, MODEL_CODE

CTC = "CTC speech recogniser"
SEQ2SEQ = "sequence-to-sequence speech model"
MUSIC = "text-to-music model"
CODEC = "neural audio codec"
AUTOENCODER = "audio autoencoder with continuous latents"
LANGUAGE = "language model of text"
# Name of a kind -> task of `pipeline()`; of codecs transformers has no pipeline.
TASKS = {
    CTC: "automatic-speech-recognition",
    SEQ2SEQ: "automatic-speech-recognition",
    MUSIC: "text-to-audio",
    CODEC: "codec",
    AUTOENCODER: "codec",
    LANGUAGE: "text-generation",
}
OUR_CLASSES = {code[1]: auto for classes in MODEL_CODE.values() for auto, code in classes.items()}
ARCHITECTURES = {
    CTC: {*MODEL_FOR_CTC_MAPPING_NAMES.values()} | {c for c, auto in OUR_CLASSES.items() if auto == "AutoModelForCTC"},
    SEQ2SEQ: {*MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES.values()},
    MUSIC: {name for name in MODEL_FOR_TEXT_TO_WAVEFORM_MAPPING_NAMES.values() if name.startswith("Musicgen")},
    CODEC: {"EncodecModel"},
    AUTOENCODER: {"EncodecVAE"},
    LANGUAGE: {*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()}
    | {c for c, auto in OUR_CLASSES.items() if auto == "AutoModelForCausalLM"},
}
PROMPT = "slow flute tune in d minor"  # what `usage` plays or scores
RECORDING = "recording.wav"  # what `usage` transcribes


@dataclass(frozen=True)
class Kind:
    """What a folder holds, and what it takes to open it.

    `config` is config.json, or adapter_config.json. `own_code` says that the folder, or the base of an adapter,
    carries code that transformers must be allowed to run; `needs_hfaudio` that it would have to and does not.
    """

    name: str
    architecture: str
    config: Mapping[str, Any]
    is_adapter: bool = False
    has_language_model: bool = False
    own_code: bool = False
    needs_hfaudio: bool = False

    @property
    def task(self) -> str:
        """Of `pipeline()`, or "codec"."""
        return TASKS[self.name]

    @property
    def pipeline_tag(self) -> str:
        """The task as the Hub calls it."""
        return "audio-to-audio" if self.task == "codec" else self.task

    @property
    def library_name(self) -> str:
        """The library that opens the folder; the Hub shows a snippet of it."""
        if self.is_adapter:
            return "peft"
        return "hfaudio" if self.name == AUTOENCODER else "transformers"


def kind_of(folder: Path) -> Kind:
    """The kind of a model folder, from its config.json or adapter_config.json; ValueError for any other folder."""
    if (folder / "config.json").is_file():
        return _model_kind(folder, _read(folder / "config.json"))
    if (folder / "adapter_config.json").is_file():
        return _adapter_kind(folder, _read(folder / "adapter_config.json"))
    raise ValueError(
        f"{folder} is no model: it has neither config.json nor adapter_config.json; give the folder that a recipe "
        "wrote (--output_dir), or the adapter/ in it"
    )


def _model_kind(folder: Path, config: dict[str, Any]) -> Kind:
    architecture = (config.get("architectures") or [""])[0]
    has_lm = (folder / LANGUAGE_MODEL).is_dir()
    processor = folder / "processor_config.json"
    extractor = _read(processor).get("feature_extractor", {}) if processor.is_file() else {}
    own_parts = config.get("model_type") in MODEL_CODE or extractor.get("feature_extractor_type") in EXTRACTOR_CODE
    needs_code = own_parts or has_lm
    has_code = any(folder.glob("hfaudio_*.py"))
    return Kind(
        _name_of(architecture, folder / "config.json"),
        architecture,
        config,
        has_language_model=has_lm,
        own_code=needs_code and has_code,
        needs_hfaudio=architecture == "EncodecVAE" or (needs_code and not has_code),
    )


def _adapter_kind(folder: Path, config: dict[str, Any]) -> Kind:
    """An adapter is of the kind of its base, whose class PEFT notes for models that it knows no task of."""
    mapping = config.get("auto_mapping") or {}
    architecture = mapping.get("base_model_class", "")
    name = _name_of(architecture, folder / "adapter_config.json")
    return Kind(name, architecture, config, is_adapter=True, own_code=architecture in OUR_CLASSES)


def _name_of(architecture: str, path: Path) -> str:
    for name, architectures in ARCHITECTURES.items():
        if architecture in architectures:
            return name
    raise ValueError(
        f"{path} names the architecture {architecture!r}, which is no speech recogniser, MusicGen, EnCodec or causal "
        "language model; write the card of other models by hand"
    )


def usage(kind: Kind, model: str) -> str:
    """A Python program that opens the folder or Hub id `model` and prints a result.

    It reads nothing else but the base of an adapter, and for recognisers a mono `recording.wav` in the working folder.
    """
    if kind.name in (CTC, SEQ2SEQ):
        return _recognition(kind, model)
    if kind.name == MUSIC:
        return _music(kind, model)
    if kind.name == LANGUAGE:
        return _scoring(kind, model)
    return _coding(kind, model)


def _recognition(kind: Kind, model: str) -> str:
    imports, opened = _pipeline(kind, model, "recognise")
    imports.insert(0, "import soundfile")
    return _program(
        imports,
        f"""\
{opened}
audio, rate = soundfile.read("{RECORDING}", dtype="float32")  # mono, of any rate
print(recognise({{"raw": audio, "sampling_rate": rate}})["text"])""",
    )


def _music(kind: Kind, model: str) -> str:
    imports, opened = _pipeline(kind, model, "play")
    imports.insert(0, "import soundfile")
    return _program(
        imports,
        f"""\
{opened}
made = play("{PROMPT}")
soundfile.write("music.wav", made["audio"].squeeze().T, made["sampling_rate"])
print(made["audio"].shape, made["sampling_rate"])""",
    )


def _scoring(kind: Kind, model: str) -> str:
    imports = ["import torch", "from transformers import AutoModelForCausalLM, AutoTokenizer"]
    options = _own_code(kind, imports)
    return _program(
        imports,
        f"""\
tokenizer = AutoTokenizer.from_pretrained({json.dumps(model)}{options})
model = AutoModelForCausalLM.from_pretrained({json.dumps(model)}{options})
tokens = tokenizer("{PROMPT}", return_tensors="pt").input_ids
with torch.no_grad():
    loss = model(input_ids=tokens, labels=tokens).loss
print(f"{{loss:.2f}} nats a token")""",
    )


def _coding(kind: Kind, model: str) -> str:
    name = kind.architecture
    rate, channels = kind.config["sampling_rate"], kind.config["audio_channels"]
    imports = [
        "import torch",
        f"from {'hfaudio.models.codec' if name == 'EncodecVAE' else 'transformers'} import {name}",
    ]
    opened = f"""\
codec = {name}.from_pretrained({json.dumps(model)}).eval()
audio = torch.zeros(1, {channels}, {rate:_})  # a second of yours: (batch, channels, samples) at {rate:,} Hz
with torch.no_grad():"""
    if name == "EncodecVAE":
        return _program(
            imports,
            f"""\
{opened}
    mean, log_variance = codec.encode(audio)
    copy = codec.decode(mean)
print(tuple(mean.shape), tuple(copy.shape))""",
        )
    bandwidth = max(kind.config["target_bandwidths"])
    return _program(
        imports,
        f"""\
{opened}
    coded = codec.encode(audio, bandwidth={bandwidth:g})  # kbit/s
    copy = codec.decode(coded.audio_codes, coded.audio_scales).audio_values
print(tuple(coded.audio_codes.shape), tuple(copy.shape))  # (1, batch, codebooks, frames)""",
    )


def _pipeline(kind: Kind, model: str, name: str) -> tuple[list[str], str]:
    """Imports, and the line that makes `pipeline()`; of an adapter's that it cannot open, from its parts.

    transformers 5.23 cannot open adapters of Wav2Vec2ForCTC, whose own `load_adapter` hides PEFT's, nor those with a
    head that has another size than the base's.
    """
    imports = ["from transformers import pipeline"]
    if not kind.is_adapter or (kind.architecture != "Wav2Vec2ForCTC" and not kind.config.get("modules_to_save")):
        return imports, f'{name} = pipeline("{kind.task}", model={json.dumps(model)}{_own_code(kind, imports)})'
    auto = "AutoModelForCTC" if kind.name == CTC else "AutoModelForSpeechSeq2Seq"
    imports = ["from peft import PeftModel", f"from transformers import {auto}, AutoProcessor, pipeline"]
    head = ""
    if kind.config.get("modules_to_save"):
        head = ", vocab_size=len(processor.tokenizer), ignore_mismatched_sizes=True"
    base = kind.config["base_model_name_or_path"]
    return (
        imports,
        f"""\
processor = AutoProcessor.from_pretrained({json.dumps(model)})
base = {auto}.from_pretrained({json.dumps(base)}{head})
adapted = PeftModel.from_pretrained(base, {json.dumps(model)}).merge_and_unload()
parts = {{"tokenizer": processor.tokenizer, "feature_extractor": processor.feature_extractor}}
{name} = pipeline("{kind.task}", model=adapted, **parts)""",
    )


def _own_code(kind: Kind, imports: list[str]) -> str:
    """The option that a folder with code asks for, or the import that knows the classes of one without."""
    if kind.needs_hfaudio:
        imports.append("import hfaudio.auto  # makes the architecture known to transformers")
    return ", trust_remote_code=True" if kind.own_code else ""


def _program(imports: list[str], body: str) -> str:
    """Imports in the usual order, a blank line, and the rest."""
    ours = [line for line in imports if "hfaudio" in line]
    others = [line for line in imports if line not in ours]
    return "\n".join(others) + ("\n\n" + "\n".join(ours) if ours else "") + f"\n\n{body}\n"


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))
