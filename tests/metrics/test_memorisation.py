"""Copies are found where they are, code by code against brute force, and in chroma against sums written out."""

import numpy as np
import pytest

from hfaudio.metrics.memorisation import (
    FRAMES_PER_SECOND,
    Music,
    SharedRun,
    chroma_sequence,
    chroma_similarity,
    longest_shared_runs,
    memorisation,
)


def brute_force(clip: np.ndarray, training: list[np.ndarray]) -> int:
    best = 0
    for other in training:
        for i in range(len(clip)):
            for j in range(len(other)):
                n = 0
                while i + n < len(clip) and j + n < len(other) and clip[i + n] == other[j + n]:
                    n += 1
                best = max(best, n)
    return best


@pytest.mark.parametrize("codes", [2, 5, 512])
def test_runs_are_as_long_as_brute_force_says(codes: int) -> None:
    rng = np.random.default_rng(codes)
    clips = [rng.integers(0, codes, n) for n in (20, 7, 13, 1)]
    training = [rng.integers(0, codes, n) for n in (25, 4, 19, 30)]
    runs = longest_shared_runs(clips, training)
    assert [run.frames for run in runs] == [brute_force(clip, training) for clip in clips]
    for clip, run in zip(clips, runs, strict=True):
        theirs = training[run.clip][run.clip_start : run.clip_start + run.frames]
        assert np.array_equal(clip[run.start : run.start + run.frames], theirs)


def test_a_copied_piece_is_found_with_its_places() -> None:
    rng = np.random.default_rng(0)
    training = [rng.integers(0, 512, 128) for _ in range(50)]
    clip = rng.integers(0, 512, 128)
    clip[30:70] = training[17][60:100]
    assert longest_shared_runs([clip], training) == [SharedRun(40, 30, 17, 60)]


def test_nothing_shared_and_all_of_it() -> None:
    training = [np.arange(10)]
    nothing, everything = longest_shared_runs([np.full(5, 99), np.arange(10)], training)
    assert nothing == SharedRun(0, 0, -1, 0)
    assert everything == SharedRun(10, 0, 0, 0)


def sequences(n: int, frames: int, seed: int = 0) -> list[np.ndarray]:
    x = np.random.default_rng(seed).random((n, frames, 12)).astype(np.float32)
    return list(x / np.linalg.norm(x, axis=-1, keepdims=True))


def test_similarity_is_the_best_mean_cosine_of_all_alignments() -> None:
    clips, training = sequences(3, 20), sequences(4, 25, 1)
    expected = []
    for clip in clips:
        found = []
        for other in training:
            for lag in range(-19, 25):
                a, b = clip[max(0, -lag) :], other[max(0, lag) :]
                met = min(len(a), len(b))
                if met >= 8:
                    found.append(np.mean(np.sum(a[:met] * b[:met], axis=1)))
        expected.append(max(found))
    assert chroma_similarity(clips, training, overlap=8) == pytest.approx(expected, abs=1e-5)


def test_a_shifted_copy_is_alike_and_one_in_another_key_is_not() -> None:
    time = np.arange(5 * 16_000) / 16_000
    rng = np.random.default_rng(0)

    def tune(semitones: int, delay: float) -> np.ndarray:
        pitches = 262 * 2 ** ((np.random.default_rng(5).integers(0, 12, 40) + semitones) / 12)
        return np.sin(2 * np.pi * pitches[(4 * (time + delay)).astype(int)] * time).astype(np.float32)

    training = [chroma_sequence(tune(0, 0), 16_000)]
    assert training[0].shape == (round(5 * FRAMES_PER_SECOND) + 1, 12)
    copy = chroma_sequence(tune(0, 1.25) + 0.01 * rng.standard_normal(len(time)).astype(np.float32), 16_000)
    moved = chroma_sequence(tune(3, 1.25), 16_000)
    alike, other = chroma_similarity([copy, moved], training)
    assert alike > 0.9
    assert other < 0.7


def test_silence_is_like_nothing() -> None:
    silence = chroma_sequence(np.zeros(80_000, np.float32), 16_000)
    assert not silence.any()
    assert chroma_similarity([silence], sequences(2, 60)) == [0]


def test_copies_stand_out_from_held_out_clips() -> None:
    rng = np.random.default_rng(0)
    codes = [rng.integers(0, 512, 128) for _ in range(300)]
    chroma = sequences(300, 79)
    training, heldout = Music(codes[:200], chroma[:200]), Music(codes[200:], chroma[200:])
    report = memorisation(Music(codes[:100], chroma[:100]), heldout, training, frame_rate=25)
    assert report.run_seconds.generated_median == 128 / 25
    assert report.run_seconds.generated_above == report.chroma.generated_above == 1
    honest = memorisation(heldout, heldout, training, frame_rate=25)
    assert honest.chroma.generated_above <= 0.02
    assert "| chroma similarity | " in report.table()
    assert "100 generated and 100 held-out real clips against 200 training clips" in report.table()
