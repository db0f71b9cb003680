"""Waveforms to log-mel, MFCC or Whisper features, saved beside a model as any transformers feature extractor."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import BatchFeature, SequenceFeatureExtractor

from hfaudio.audio.features import LOG_MEL, FeatureSettings, extract_features, normalize_features


class SpectralFeatureExtractor(SequenceFeatureExtractor):
    """Feature frames (B, T, feature_size) and their mask of mono waveforms.

    Unlike with `WhisperFeatureExtractor` clips keep their length. Each clip is computed alone and then padded, so
    that a batch never changes an example.

    Args:
        settings: a preset of `hfaudio.audio.features`, or its fields as keywords (as a saved file has them).
        normalize: subtract the mean and divide by the deviation of each coefficient over the clip.
    """

    model_input_names = ["input_features", "attention_mask"]  # noqa: RUF012, the base class reads it so

    def __init__(self, settings: FeatureSettings = LOG_MEL, normalize: bool = True, **kwargs: Any) -> None:
        fields = dataclasses.asdict(settings)
        fields |= {name: kwargs.pop(name) for name in list(kwargs) if name in fields}
        self._settings = FeatureSettings(**fields)
        # Saved as plain keys of preprocessor_config.json / processor_config.json.
        for name, value in fields.items():
            setattr(self, name, value)
        self.normalize = normalize
        kwargs |= {"feature_size": self._settings.feature_size, "sampling_rate": self._settings.sample_rate}
        super().__init__(padding_value=0.0, **{k: v for k, v in kwargs.items() if k != "padding_value"})

    @property
    def settings(self) -> FeatureSettings:
        """The numbers behind the features."""
        return self._settings

    def to_dict(self) -> dict[str, Any]:
        return {name: value for name, value in super().to_dict().items() if name != "_settings"}

    def __call__(
        self,
        raw_speech: np.ndarray | torch.Tensor | Sequence[np.ndarray],
        sampling_rate: int | None = None,
        padding: bool | str = True,
        return_tensors: str | None = None,
        return_attention_mask: bool = True,
        **kwargs: Any,
    ) -> BatchFeature:
        """Features of one waveform (N,) or several; a batch dimension is always there in the result.

        Raises:
            ValueError: for a rate that is not this extractor's, or audio that is not mono.
        """
        if sampling_rate not in (None, self.sampling_rate):
            raise ValueError(
                f"expected audio at {self.sampling_rate} Hz, got {sampling_rate}; "
                "resample it with hfaudio.audio.resample or torchaudio.functional.resample"
            )
        waveforms: Any = raw_speech
        if isinstance(raw_speech, np.ndarray | torch.Tensor) and raw_speech.ndim == 1:
            waveforms = [raw_speech]
        features = [self.extract(waveform) for waveform in waveforms]
        return self.pad(
            BatchFeature({"input_features": features}),
            padding=padding,
            return_tensors=return_tensors,
            return_attention_mask=return_attention_mask,
            **{k: v for k, v in kwargs.items() if k in ("max_length", "truncation", "pad_to_multiple_of")},
        )

    def extract(self, waveform: np.ndarray | torch.Tensor) -> np.ndarray:
        """Feature frames (T, feature_size) of one mono waveform (N,)."""
        samples = torch.as_tensor(waveform, dtype=torch.float32)
        if samples.ndim != 1:
            raise ValueError(
                f"expected mono audio of shape (samples,), got {tuple(samples.shape)}; average its channels"
            )
        features = extract_features(samples, self._settings)
        return (normalize_features(features) if self.normalize else features).numpy()
