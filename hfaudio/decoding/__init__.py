"""From log-probabilities to text: greedy and beam search CTC decoding, words with times, tuning, alignment."""

from hfaudio.decoding.beam import BeamSearchDecoder, BeamSettings, Hypothesis
from hfaudio.decoding.greedy import GreedyPath, Word, collapse, greedy_path, greedy_search, words_with_times

__all__ = [
    "BeamSearchDecoder",
    "BeamSettings",
    "GreedyPath",
    "Hypothesis",
    "Word",
    "collapse",
    "greedy_path",
    "greedy_search",
    "words_with_times",
]
