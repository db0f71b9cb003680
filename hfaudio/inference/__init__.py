"""Using a trained model: recordings of any length to text, words with times, subtitles, and scores."""

from hfaudio.inference.transcribe import Transcriber, Transcript, transcribe

__all__ = ["Transcriber", "Transcript", "transcribe"]
