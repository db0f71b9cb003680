"""Models of our own, each a `PreTrainedModel` with its config; `import hfaudio.auto` registers them."""

from hfaudio.models.lstm_ctc import LstmCTCConfig, LstmForCTC
from hfaudio.models.lstm_lm import LstmLMConfig, LstmLMForCausalLM
from hfaudio.models.whisper_ctc import WhisperCTCConfig, WhisperForCTC

__all__ = ["LstmCTCConfig", "LstmForCTC", "LstmLMConfig", "LstmLMForCausalLM", "WhisperCTCConfig", "WhisperForCTC"]
