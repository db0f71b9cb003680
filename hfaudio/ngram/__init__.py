"""N-gram language models: estimated, stored, read, and asked."""

from hfaudio.ngram.model import NGramLM

__all__ = ["NGramLM"]
