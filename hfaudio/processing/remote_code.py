"""Model folders that carry their code: `pipeline(FOLDER, trust_remote_code=True)` works without hfaudio."""

import ast
import json
import re
from pathlib import Path

import hfaudio
from hfaudio.processing.language_model import FOLDER as LANGUAGE_MODEL

PACKAGE = Path(hfaudio.__file__).parent
# model_type or feature_extractor_type -> {Auto class: module and class that it stands for}
MODEL_CODE = {
    "lstm_ctc": {
        "AutoConfig": ("hfaudio.models.lstm_ctc", "LstmCTCConfig"),
        "AutoModelForCTC": ("hfaudio.models.lstm_ctc", "LstmForCTC"),
    },
    "lstm_lm": {
        "AutoConfig": ("hfaudio.models.lstm_lm", "LstmLMConfig"),
        "AutoModelForCausalLM": ("hfaudio.models.lstm_lm", "LstmLMForCausalLM"),
    },
    "whisper_ctc": {
        "AutoConfig": ("hfaudio.models.whisper_ctc", "WhisperCTCConfig"),
        "AutoModelForCTC": ("hfaudio.models.whisper_ctc", "WhisperForCTC"),
    },
}
EXTRACTOR_CODE = {
    "SpectralFeatureExtractor": {
        "AutoFeatureExtractor": ("hfaudio.processing.feature_extractor", "SpectralFeatureExtractor")
    }
}
# What `pipeline()` runs for a folder with a language model.
PIPELINE_CODE = ("hfaudio.processing.pipeline", "SpeechRecognitionPipeline")
TASK = {"pt": ["AutoModelForCTC"], "type": "multimodal"}


def carry_code(folder: Path) -> list[Path]:
    """Copy the modules that a saved folder's classes need into it, name them in `auto_map`; the files written.

    transformers imports such files one by one, with relative imports only, so `from hfaudio.audio.features import x`
    becomes `from .hfaudio_audio_features import x`. With hfaudio imported its own classes win over the copies. A
    folder of a stock architecture gets only what its feature extractor needs, usually nothing. With a
    `language_model/` the folder also names a pipeline that uses it; transformers then asks for
    `trust_remote_code=True` instead of decoding without the LM in silence.
    """
    modules: set[str] = set()
    config_path = folder / "config.json"
    if not config_path.exists():  # a folder of an adapter alone, which opens with its base
        return []
    config = json.loads(config_path.read_text(encoding="utf-8"))
    if config["model_type"] in MODEL_CODE:
        modules |= set_auto_map(config, MODEL_CODE[config["model_type"]])
    if (folder / LANGUAGE_MODEL).is_dir():
        module, name = PIPELINE_CODE
        modules.add(module)
        pipeline = {"impl": f"{flat_name(module)}.{name}"} | TASK
        config["custom_pipelines"] = {"automatic-speech-recognition": pipeline}
    is_stale = not (folder / LANGUAGE_MODEL).is_dir() and config.pop("custom_pipelines", None) is not None
    if modules or is_stale:  # stale: of the folder that the model was opened from
        write_json(config_path, config)
    # A processor keeps its feature extractor inside its own file, a pipeline in a file of its own; an LM has none.
    for name in ("processor_config.json", "preprocessor_config.json"):
        if not (folder / name).exists():
            continue
        saved = json.loads((folder / name).read_text(encoding="utf-8"))
        extractor = saved["feature_extractor"] if name == "processor_config.json" else saved
        if extractor["feature_extractor_type"] in EXTRACTOR_CODE:
            modules |= set_auto_map(extractor, EXTRACTOR_CODE[extractor["feature_extractor_type"]])
            write_json(folder / name, saved)
    files = []
    for module in sorted(with_imports(modules)):
        files.append(folder / f"{flat_name(module)}.py")
        files[-1].write_text(with_relative_imports(source_of(module)), encoding="utf-8")
    return files


def set_auto_map(settings: dict, code: dict[str, tuple[str, str]]) -> set[str]:
    """Write `auto_map` into a config; the modules that it names."""
    settings["auto_map"] = {auto: f"{flat_name(module)}.{name}" for auto, (module, name) in code.items()}
    return {module for module, _ in code.values()}


def with_imports(modules: set[str]) -> set[str]:
    """The modules and every hfaudio module they import, directly or not."""
    found: set[str] = set()
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        if module not in found:
            found.add(module)
            waiting += hfaudio_imports(source_of(module))
    return found


def hfaudio_imports(source: str) -> list[str]:
    """Modules of hfaudio that a source file imports from at its top (`from hfaudio.a.b import c`, our only form)."""
    modules = [node.module or "" for node in ast.parse(source).body if isinstance(node, ast.ImportFrom)]
    return [module for module in modules if module.startswith("hfaudio.")]


def source_of(module: str) -> str:
    return (PACKAGE.parent / (module.replace(".", "/") + ".py")).read_text(encoding="utf-8")


def flat_name(module: str) -> str:
    return module.replace(".", "_")


def with_relative_imports(source: str) -> str:
    """The source for a model folder; an import inside a function is of a part that a copy does without."""
    for module in hfaudio_imports(source):
        source = re.sub(rf"^from {re.escape(module)} import", f"from .{flat_name(module)} import", source, flags=re.M)
    absent = r'\1raise ImportError("this copy of the code lacks \2; pip install hfaudio")'
    return re.sub(r"^( +)from (hfaudio\.\S+) import .*$", absent, source, flags=re.M)


def write_json(path: Path, settings: dict) -> None:
    path.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
