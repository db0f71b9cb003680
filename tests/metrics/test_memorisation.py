"""Shared runs and chroma alignments against brute force, and a report on copies and on clips that are none."""

import numpy as np
import pytest

from hfaudio.metrics.memorisation import (
    ChromaMatch,
    SharedRun,
    chroma_sequence,
    chroma_similarity,
    longest_shared_runs,
    memorisation,
)


def longest_run(clip: np.ndarray, other: np.ndarray) -> int:
    """By dynamic programming over all pairs of places."""
    best, previous = 0, np.zeros(len(other) + 1, int)
    for code in clip:
        current = np.zeros(len(other) + 1, int)
        current[1:] = np.where(other == code, previous[:-1] + 1, 0)
        best, previous = max(best, current.max(initial=0)), current
    return best


@pytest.mark.parametrize("size", [2, 4, 50])
def test_runs_are_those_of_brute_force(size: int) -> None:
    rng = np.random.default_rng(size)
    for _ in range(20):
        clips, training = (
            [rng.integers(size, size=(2, rng.integers(0, 20))) for _ in range(rng.integers(1, 6))] for _ in range(2)
        )
        for clip, run in zip(clips, longest_shared_runs(clips, training), strict=True):
            assert run.frames == max(longest_run(clip[0], other[0]) for other in training)
            if run.frames:
                there = training[run.training][0, run.training_start :][: run.frames]
                np.testing.assert_array_equal(clip[0, run.start :][: run.frames], there)


def test_runs_by_hand() -> None:
    training = [np.array([9, 1, 2, 3]), np.array([4, 5, 6, 7, 8])]
    clips = [np.array([0, 5, 6, 7, 0]), np.array([3, 4]), np.array([0, 0]), np.array([], int), training[0]]
    assert longest_shared_runs(clips, training) == [
        SharedRun(3, 1, 1, 1),
        SharedRun(1, 0, 0, 3),  # 3, 4 follow each other in two clips, in none
        SharedRun(0, -1, -1, -1),
        SharedRun(0, -1, -1, -1),
        SharedRun(4, 0, 0, 0),
    ]
    assert longest_shared_runs([], training) == []
    assert longest_shared_runs(clips[:1], []) == [SharedRun(0, -1, -1, -1)]
    with pytest.raises(ValueError, match="integer codes"):
        longest_shared_runs([np.zeros(4)], training)


def similarity(clip: np.ndarray, other: np.ndarray, min_frames: int) -> tuple[float, int]:
    """Best mean correlation of frames, and its lag, lag by lag and frame by frame."""
    best = (-np.inf, 0)
    for lag in range(-len(clip), len(other)):
        pairs = [(clip[i], other[i + lag]) for i in range(len(clip)) if 0 <= i + lag < len(other)]
        if len(pairs) >= min_frames:
            best = max(best, (float(np.mean([np.corrcoef(a, b)[0, 1] for a, b in pairs])), lag))
    return best


def test_chroma_similarity_is_that_of_brute_force() -> None:
    rng = np.random.default_rng(0)
    clips = [rng.random((n, 12)) for n in (9, 12, 5)]
    training = [rng.random((n, 12)) for n in (30, 4, 11, 7, 3)]
    for clip, match in zip(clips, chroma_similarity(clips, training, min_frames=4), strict=True):
        expected = max((*similarity(clip, other, 4), n) for n, other in enumerate(training))
        assert match.similarity == pytest.approx(expected[0], abs=1e-5)
        assert (match.lag, match.training, match.semitones) == (*expected[1:], 0)


def test_a_part_of_a_training_clip_is_found_in_any_key_if_asked() -> None:
    rng = np.random.default_rng(0)
    training = [rng.random((200 if n == 17 else 40, 12)) for n in range(50)]
    part = 3 * training[17][160:188]  # louder
    (match,) = chroma_similarity([part], training)
    assert match == ChromaMatch(pytest.approx(1, abs=1e-5), 17, 160, 0)
    higher = np.roll(part, 5, axis=1)
    assert chroma_similarity([higher], training)[0].similarity < 0.6
    (match,) = chroma_similarity([higher], training, transpositions=True)
    assert match == ChromaMatch(pytest.approx(1, abs=1e-5), 17, 160, 5)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    clips, training = [rng.random((8, 12)) for _ in range(3)], [rng.random((10, 12)) for _ in range(7)]
    whole = chroma_similarity(clips, training, min_frames=4)
    monkeypatch.setattr("hfaudio.metrics.memorisation.BLOCK", 1)
    for one, other in zip(chroma_similarity(clips, training, min_frames=4), whole, strict=True):
        assert one == ChromaMatch(pytest.approx(other.similarity, abs=1e-6), other.training, other.lag, 0)


def test_silence_is_like_nothing_and_short_clips_are_refused() -> None:
    rng = np.random.default_rng(0)
    (match,) = chroma_similarity([np.zeros((30, 12))], [rng.random((30, 12))])
    assert match.similarity == pytest.approx(0, abs=1e-6)
    with pytest.raises(ValueError, match="at least min_frames = 23"):
        chroma_similarity([rng.random((22, 12))], [rng.random((30, 12))])
    with pytest.raises(ValueError, match="at least min_frames = 23"):
        chroma_similarity([rng.random((30, 12))], [rng.random((22, 12))])


def test_chroma_of_a_tone_is_its_pitch_class() -> None:
    time = np.arange(32_000) / 16_000
    for semitone in (0, 4, 9):
        chroma = chroma_sequence(np.sin(2 * np.pi * 261.63 * 2 ** (semitone / 12) * time), 16_000)
        assert chroma.shape == (16, 12)
        assert (chroma[2:-2].argmax(1) == semitone).all()
    with pytest.raises(ValueError, match="mono samples"):
        chroma_sequence(np.zeros((2, 100)), 16_000)


def test_copies_stand_out_in_the_report() -> None:
    rng = np.random.default_rng(0)
    training, heldout = (list(rng.integers(16, size=(n, 4, 60))) for n in (200, 100))
    copies = [np.concatenate([heldout[n][:, :20], training[n][:, 10:50]], axis=1) for n in range(10)]
    fresh = list(rng.integers(16, size=(30, 4, 60)))
    harmony = {n: rng.random((40, 12)) for n in range(340)}
    chroma = (
        [harmony[n] for n in range(200, 230)] + [harmony[n] for n in range(10)],
        [harmony[n] for n in range(240, 340)],
        [harmony[n] for n in range(200)],
    )
    report = memorisation([*fresh, *copies], heldout, training, frame_rate=25, chroma=chroma)
    assert report.generated_runs.above.count == 10 and report.heldout_runs.above.count <= 1
    assert report.generated_runs.most >= 40 / 25 > 5 * report.heldout_runs.median
    assert report.generated_runs.threshold == report.heldout_runs.threshold < 10 / 25
    assert report.generated_chroma is not None and report.generated_chroma.above.count in (10, 11)
    assert report.generated_chroma.most == pytest.approx(1, abs=1e-5)
    lines = report.table().splitlines()
    assert len(lines) == 6 and all(line.count("|") == 7 for line in lines)
    assert "| 40 | " in lines[2] and "25.0% (14.2% to 40.2%)" in lines[2] and "| 100 | " in lines[3]
    without = memorisation(fresh, heldout, training, frame_rate=25)
    assert without.generated_chroma is None and len(without.table().splitlines()) == 4
    assert without.generated_runs.above.low <= 0.01
    with pytest.raises(ValueError, match="0 held-out"):
        memorisation(fresh, [], training, frame_rate=25)
