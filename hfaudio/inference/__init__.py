"""Using a trained model: recordings to text, words with times, subtitles and scores; music from text."""

from hfaudio.inference.generate import MusicGenerator, Sampling, generate
from hfaudio.inference.transcribe import Transcriber, Transcript, transcribe

__all__ = ["MusicGenerator", "Sampling", "Transcriber", "Transcript", "generate", "transcribe"]
