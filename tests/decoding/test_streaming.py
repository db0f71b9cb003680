"""Frames that come one by one give what the whole utterance gives, in memory that does not grow."""

import numpy as np
import pytest

from hfaudio.decoding.beam import BeamSearchDecoder, Search
from hfaudio.ngram.model import NGramLM
from hfaudio.ngram.table import NGramTable

LABELS = ["", " ", *"abcdefgh"]


def speech(num_frames: int, seed: int, sharpness: float = 4.0) -> np.ndarray:
    """Log-probabilities (num_frames, 10) that mostly prefer the blank, with a label of their own now and then."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(num_frames, len(LABELS)))
    logits[:, 0] += 4
    spoken = rng.random(num_frames) < 0.3
    logits[spoken, rng.integers(1, len(LABELS), int(spoken.sum()))] += sharpness + 3
    return (logits - np.log(np.exp(logits).sum(1, keepdims=True))).astype(np.float32)


def unigram_lm(seed: int = 0) -> NGramLM:
    rng = np.random.default_rng(seed)
    words = sorted({"".join(rng.choice(list("abcdefgh"), rng.integers(1, 5))) for _ in range(300)})
    size = len(words) + 3
    zeros = np.zeros(size, np.int32)
    log_probs = -rng.uniform(1, 4, size).astype(np.float32)
    table = NGramTable(zeros, np.arange(size, dtype=np.int32), zeros, log_probs, np.zeros(size, np.float32))
    return NGramLM.from_tables(["<unk>", "<s>", "</s>", *words], [table])


@pytest.mark.parametrize("with_lm", [False, True])
@pytest.mark.parametrize("size", [1, 7, 400])
def test_chunks_give_what_the_whole_gives(with_lm: bool, size: int) -> None:
    decoder = BeamSearchDecoder(LABELS, unigram_lm() if with_lm else None, hotwords=["abc"], seconds_per_frame=0.02)
    log_probs = speech(1600, seed=3)
    whole = decoder.decode(log_probs)
    stream = decoder.stream()
    stable = ""
    for first in range(0, len(log_probs), size):
        partial = stream.push(log_probs[first : first + size])
        assert partial.stable_text.startswith(stable)
        assert partial.text.startswith(partial.stable_text)
        stable = partial.stable_text
    found = stream.finish()
    assert found.text == whole.text
    assert found.text.startswith(stable)
    assert len(stable) > 0.6 * len(found.text)
    assert found.score == pytest.approx(whole.score, rel=1e-9)
    assert found.acoustic_score == pytest.approx(whole.acoustic_score, rel=1e-9)
    assert found.words == whole.words


def test_a_long_recording_takes_bounded_memory() -> None:
    """Two hours at 50 frames a second; the tree would have millions of nodes."""
    decoder = BeamSearchDecoder(LABELS, unigram_lm(), beam_width=20)
    stream = decoder.stream()
    piece = speech(3000, seed=1)
    for _ in range(120):
        stream.push(piece)
    work = stream._search.held[0]
    assert work.nodes.nbytes < 10e6
    assert sum(frames.nbytes for frames in stream._frames) < 1e6
    times = stream.finish().frames
    assert (times[1:, 0] >= times[:-1, 1]).all() and times[-1, 1] <= 360_000


def test_a_small_tree_is_compacted_and_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    log_probs = speech(3000, seed=5, sharpness=2.0)
    roomy = BeamSearchDecoder(LABELS, unigram_lm(), beam_width=50)
    expected = roomy.decode(log_probs)
    assert roomy._workspaces[0].progress[0]["nodes"] > 5000
    settled = []
    settle = Search.settle
    monkeypatch.setattr(Search, "settle", lambda self: (settled.append(1), settle(self)))
    monkeypatch.setattr("hfaudio.decoding.beam.NODES", 1)
    tight = BeamSearchDecoder(LABELS, unigram_lm(), beam_width=50)
    found = tight.decode(log_probs)
    assert len(settled) > 3
    assert (found.text, found.words) == (expected.text, expected.words)
    assert found.score == pytest.approx(expected.score, rel=1e-9)
    assert [h.text for h in tight.decode_n_best(log_probs, 5)] == [h.text for h in roomy.decode_n_best(log_probs, 5)]


def test_a_stream_that_hears_nothing() -> None:
    stream = BeamSearchDecoder(LABELS).stream()
    assert stream.finish().text == ""
    assert stream.push(speech(0, 0)).text == ""
    assert stream.finish().words == []


@pytest.mark.parametrize("nodes", [1 << 15, 1])
def test_a_peek_is_what_a_push_would_give_and_takes_nothing_in(nodes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the tree has no room, so that it is compacted and grown for the peek."""
    monkeypatch.setattr("hfaudio.decoding.beam.NODES", nodes)
    decoder = BeamSearchDecoder(LABELS, unigram_lm(), beam_width=50, seconds_per_frame=0.02)
    log_probs = speech(1600, seed=7, sharpness=2.0)
    whole = decoder.decode(log_probs)
    stream = decoder.stream()
    for first in range(0, 1600, 200):
        other = speech(300, seed=first)
        assert stream.peek(other) == stream.peek(other)
        ahead = stream.peek(log_probs[first : first + 200])
        assert stream.push(log_probs[first : first + 200]).text == ahead == stream.peek(log_probs[:0])
    found = stream.finish()
    assert (found.text, found.words) == (whole.text, whole.words)
    assert found.score == pytest.approx(whole.score, rel=1e-9)
