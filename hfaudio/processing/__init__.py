"""Feature extractors, tokenizers and processors: what is saved beside a model and turns audio into its input."""

from hfaudio.processing.feature_extractor import SpectralFeatureExtractor
from hfaudio.processing.tokenizer import build_bpe_tokenizer, build_char_tokenizer, ctc_labels, label_text

__all__ = ["SpectralFeatureExtractor", "build_bpe_tokenizer", "build_char_tokenizer", "ctc_labels", "label_text"]
