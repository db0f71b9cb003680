"""Text before it becomes labels and before it is scored: normalisers that no script is harmed by."""

from hfaudio.text.normalize import NORMALIZERS, normalize

__all__ = ["NORMALIZERS", "normalize"]
