"""`import hfaudio.auto` makes the models and feature extractors of hfaudio known to transformers.

Afterwards `AutoConfig`, `AutoModelForCTC`, `AutoFeatureExtractor`, `AutoProcessor` and `pipeline()` open the folders
that the recipes save. It costs the import of torch and transformers.
"""

from transformers import AutoConfig, AutoFeatureExtractor, AutoModelForCTC, AutoProcessor, Wav2Vec2Processor

from hfaudio.models import LstmCTCConfig, LstmForCTC, WhisperCTCConfig, WhisperForCTC
from hfaudio.processing import SpectralFeatureExtractor

for _config, _model in ((LstmCTCConfig, LstmForCTC), (WhisperCTCConfig, WhisperForCTC)):
    AutoConfig.register(_config.model_type, _config, exist_ok=True)
    AutoModelForCTC.register(_config, _model, exist_ok=True)
    AutoFeatureExtractor.register(_config, SpectralFeatureExtractor, exist_ok=True)
    AutoProcessor.register(_config, Wav2Vec2Processor, exist_ok=True)
