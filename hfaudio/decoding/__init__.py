"""From log-probabilities to text: CTC decoding and words with times."""

from hfaudio.decoding.greedy import GreedyPath, Word, collapse, greedy_path, greedy_search, words_with_times

__all__ = ["GreedyPath", "Word", "collapse", "greedy_path", "greedy_search", "words_with_times"]
