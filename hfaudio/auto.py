"""`import hfaudio.auto` makes the models, feature extractors and pipeline of hfaudio known to transformers.

Afterwards `AutoConfig`, `AutoModelForCTC`, `AutoModelForCausalLM`, `AutoFeatureExtractor`, `AutoProcessor` and
`pipeline()` open the folders that the recipes save, and `pipeline("automatic-speech-recognition")` decodes with the
language model that a CTC model's folder holds. It costs the import of torch and transformers.
"""

import functools
from typing import Any

from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModelForCausalLM,
    AutoModelForCTC,
    AutoProcessor,
    PretrainedConfig,
    Wav2Vec2ForCTC,
    Wav2Vec2Processor,
)
from transformers.integrations.peft import PeftAdapterMixin
from transformers.pipelines import PIPELINE_REGISTRY
from transformers.utils import find_adapter_config_file

from hfaudio.models import (
    LstmCTCConfig,
    LstmForCTC,
    LstmLMConfig,
    LstmLMForCausalLM,
    WhisperCTCConfig,
    WhisperForCTC,
)
from hfaudio.processing import SpectralFeatureExtractor
from hfaudio.processing.pipeline import SpeechRecognitionPipeline

for _config, _model in ((LstmCTCConfig, LstmForCTC), (WhisperCTCConfig, WhisperForCTC)):
    AutoConfig.register(_config.model_type, _config, exist_ok=True)
    AutoModelForCTC.register(_config, _model, exist_ok=True)
    AutoFeatureExtractor.register(_config, SpectralFeatureExtractor, exist_ok=True)
    AutoProcessor.register(_config, Wav2Vec2Processor, exist_ok=True)

AutoConfig.register(LstmLMConfig.model_type, LstmLMConfig, exist_ok=True)
AutoModelForCausalLM.register(LstmLMConfig, LstmLMForCausalLM, exist_ok=True)

# Not by `register_pipeline`, which warns that the task is known already.
_TASK = "automatic-speech-recognition"
PIPELINE_REGISTRY.supported_tasks[_TASK]["impl"] = SpeechRecognitionPipeline


class InstalledPipelines:
    """`config.custom_pipelines` without the ones of which hfaudio holds the original.

    A folder with a language model names a copy of our pipeline for projects without hfaudio. transformers wants
    `trust_remote_code=True` as soon as a config names one, even though the class is installed here.
    """

    def __get__(self, config: PretrainedConfig | None, owner: type) -> Any:
        if config is None:
            return self
        named = config.__dict__.get("custom_pipelines", {})
        return {task: entry for task, entry in named.items() if not entry["impl"].startswith("hfaudio_")}

    def __set__(self, config: PretrainedConfig, value: dict[str, Any]) -> None:
        config.__dict__["custom_pipelines"] = value


PretrainedConfig.custom_pipelines = InstalledPipelines()  # type: ignore[attr-defined]

# `Wav2Vec2ForCTC.load_adapter(language)` opens a language adapter of MMS and hides PEFT's method of the same name,
# which transformers 5.23 calls for a folder with adapter_config.json: `pipeline()` fails on every LoRA of a wav2vec2.
_load_language = Wav2Vec2ForCTC.load_adapter


@functools.wraps(_load_language)
def _load_adapter(self: Any, target_lang: Any, *args: Any, **kwargs: Any) -> Any:
    if find_adapter_config_file(str(target_lang)) is not None:
        return PeftAdapterMixin.load_adapter(self, target_lang, *args, **kwargs)
    return _load_language(self, target_lang, *args, **kwargs)


Wav2Vec2ForCTC.load_adapter = _load_adapter  # type: ignore[assignment]
