"""Plans use every row once, keep ranks in one bucket and stay within the limits."""

from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest

from hfaudio.data.buckets import (
    MAX_BUCKETS,
    STEPS_A_BUCKET,
    Batches,
    BatchLimits,
    bucket_of,
    deal,
    estimate_edges,
    longest_first,
    plan_last_steps,
    plan_steps,
    split_to_multiple,
)


def lengths_of_speech(count: int, rng: np.random.Generator) -> np.ndarray:
    """Seconds (count,), at most 20, with a long tail."""
    return np.minimum(rng.gamma(2.0, 2.0, count) + 0.2, 20.0)


def cases(count: int) -> Iterator[tuple[np.random.Generator, np.ndarray, BatchLimits, int]]:
    """Random lengths, limits and numbers of ranks; few rows, equal lengths and limits of one row among them."""
    for seed in range(count):
        rng = np.random.default_rng(seed)
        seconds = lengths_of_speech(int(rng.choice([0, 1, 2, 7, 60, 400])), rng)
        if seed % 5 == 0:
            seconds = np.round(seconds)  # equal lengths, and of 0 seconds
        max_seconds = float(rng.choice([20.0, 35.5, 60.0, 200.0])) if seed % 4 else None
        max_examples = int(rng.integers(1, 12)) if seed % 3 == 0 or max_seconds is None else None
        yield rng, seconds, BatchLimits(max_seconds, max_examples), int(rng.integers(1, 6))


def rows_of(steps: list[Batches]) -> list[int]:
    return [int(row) for step in steps for batch in step for row in batch]


def assert_within(steps: list[Batches], seconds: np.ndarray, limits: BatchLimits) -> None:
    for batch in (batch for step in steps for batch in step):
        if limits.max_seconds is not None:
            assert len(batch) * seconds[batch].max() <= limits.max_seconds + 1e-4
        if limits.max_examples is not None:
            assert len(batch) <= limits.max_examples


# --------------------------------------------------------------------------------------------------------------------
# Limits and edges


@pytest.mark.parametrize(
    ("max_seconds", "max_examples", "longest", "rows"),
    [
        (60.0, None, 20.0, 3),
        (60.0, None, 20.1, 2),
        (60.0, None, 60.0, 1),
        (60.0, None, 61.0, 1),  # never less than one row; a stream has skipped it before
        (0.3, None, 0.1, 3),  # 0.3 / 0.1 is 2.9999999999999996
        (60.0, 2, 20.0, 2),
        (60.0, 5, 20.0, 3),
        (None, 5, 20.0, 5),
        (60.0, None, 0.0, 60_000),  # rows of no length count as a millisecond
    ],
)
def test_rows_of_a_batch(max_seconds: float | None, max_examples: int | None, longest: float, rows: int) -> None:
    assert BatchLimits(max_seconds, max_examples).rows(longest) == rows


@pytest.mark.parametrize(
    ("max_seconds", "max_examples", "named"),
    [
        (None, None, "max_seconds, max_examples or both"),
        (0.0, None, "max_seconds"),
        (float("nan"), None, "max_seconds"),
        (60.0, 0, "max_examples"),
        (None, -1, "max_examples"),
    ],
)
def test_limits_that_allow_nothing_are_refused(max_seconds: float, max_examples: int, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        BatchLimits(max_seconds, max_examples)


def test_buckets_hold_equal_amounts_of_audio() -> None:
    seconds = lengths_of_speech(5000, np.random.default_rng(0))
    limits, ranks = BatchLimits(60.0), 2
    edges = estimate_edges(seconds, limits, ranks)
    buckets = bucket_of(seconds, edges)
    assert len(edges) + 1 == min(MAX_BUCKETS, int(seconds.sum() / (60.0 * ranks) / STEPS_A_BUCKET))
    assert np.all(np.diff(edges) > 0)
    audio = np.bincount(buckets, weights=seconds)
    assert audio == pytest.approx(np.full(len(edges) + 1, seconds.sum() / (len(edges) + 1)), abs=2 * 20.0)


def test_buckets_by_rows_where_only_rows_are_limited() -> None:
    seconds = lengths_of_speech(1000, np.random.default_rng(0))
    assert len(estimate_edges(seconds, BatchLimits(None, 10), 5)) + 1 == 1000 / (10 * 5) / STEPS_A_BUCKET


@pytest.mark.parametrize("seconds", [[], [3.0], [1.0, 2.0, 3.0] * 5, [0.0] * 1000])
def test_one_bucket_for_few_rows_or_no_audio(seconds: list[float]) -> None:
    assert estimate_edges(np.array(seconds), BatchLimits(60.0), 2).shape == (0,)


def test_rows_of_equal_length_share_a_bucket() -> None:
    seconds = np.full(1000, 5.0)
    edges = estimate_edges(seconds, BatchLimits(60.0), 1)
    assert edges.tolist() == [5.0]
    assert set(bucket_of(seconds, edges)) == {0}


def test_an_edge_belongs_to_the_bucket_below() -> None:
    edges = np.array([1.0, 2.0])
    assert bucket_of(np.array([0.0, 1.0, 1.1, 2.0, 2.1, 99.0]), edges).tolist() == [0, 0, 1, 1, 2, 2]
    assert bucket_of(np.array([7.0]), np.empty(0)).tolist() == [0]


# --------------------------------------------------------------------------------------------------------------------
# Steps


@pytest.mark.parametrize("held", [True, False], ids=["held by ranks", "held by all"])
def test_plans(held: bool) -> None:
    for rng, seconds, limits, ranks in cases(200):
        edges = estimate_edges(seconds, limits, ranks)
        holders = rng.integers(0, ranks, len(seconds)) if held else None
        waited = int(rng.integers(0, len(seconds) + 1))
        steps, left = plan_steps(seconds, holders, edges, limits, ranks, rng, waited=waited)

        assert sorted([*rows_of(steps), *left]) == list(range(len(seconds)))  # every row once
        assert left.tolist() == sorted(left)
        assert_within(steps, seconds, limits)
        buckets = bucket_of(seconds, edges)
        for step in steps:
            assert len(step) == ranks
            assert len({len(batch) for batch in step}) == 1
            assert len(set(buckets[np.concatenate(step)])) == 1
        for bucket in set(buckets):
            longest = seconds[buckets == bucket].max()
            assert np.sum(buckets[left] == bucket) < limits.rows(longest) * ranks


def test_no_rows_make_no_steps() -> None:
    limits, rng = BatchLimits(60.0), np.random.default_rng(0)
    none = np.empty(0)
    steps, left = plan_steps(none, none.astype(int), none, limits, 2, rng)
    assert (steps, left.tolist()) == ([], [])
    steps, dropped = plan_last_steps(left, none, limits, 2)
    assert (steps, dropped.tolist()) == ([], [])


def test_the_same_generator_makes_the_same_plan_and_another_one_another() -> None:
    seconds = lengths_of_speech(300, np.random.default_rng(0))
    limits = BatchLimits(60.0)
    edges = estimate_edges(seconds, limits, 2)

    def planned(seed: int) -> list[list[list[int]]]:
        steps, _ = plan_steps(seconds, np.arange(300) % 2, edges, limits, 2, np.random.default_rng(seed))
        return [[batch.tolist() for batch in step] for step in steps]

    assert planned(1) == planned(1)
    assert planned(1) != planned(2)


def test_who_has_waited_goes_first() -> None:
    for rng, seconds, limits, ranks in cases(100):
        edges = estimate_edges(seconds, limits, ranks)
        waited = len(seconds) // 4
        steps, left = plan_steps(seconds, None, edges, limits, ranks, rng, waited=waited)
        buckets = bucket_of(seconds, edges)
        for bucket in set(buckets):
            given = [row for row in rows_of(steps) if buckets[row] == bucket]
            if any(row >= waited for row in given):  # then none that had waited is behind
                assert not np.any(buckets[left[left < waited]] == bucket)


def test_nobody_waits_twice_over_many_windows() -> None:
    rng = np.random.default_rng(3)
    limits, ranks, window = BatchLimits(60.0), 2, 400
    seconds = lengths_of_speech(20 * window, rng)
    edges = estimate_edges(seconds[:window], limits, ranks)
    windows_waited: Counter[int] = Counter()
    waiting = np.empty(0, dtype=np.int64)
    for start in range(0, len(seconds), window):
        rows = np.concatenate([waiting, np.arange(start, start + window)])
        buckets = bucket_of(seconds[rows], edges)
        steps, left = plan_steps(seconds[rows], None, edges, limits, ranks, rng, waited=len(waiting))
        gave = {int(buckets[step[0][0]]) for step in steps}
        windows_waited.update(int(row) for position, row in enumerate(rows[left]) if buckets[left[position]] in gave)
        waiting = rows[left]
    assert max(windows_waited.values()) == 1


def test_own_rows_are_preferred() -> None:
    for rng, seconds, limits, ranks in cases(100):
        edges = estimate_edges(seconds, limits, ranks)
        holders = rng.integers(0, ranks, len(seconds))
        steps, _ = plan_steps(seconds, holders, edges, limits, ranks, rng)
        buckets = bucket_of(seconds, edges)
        for bucket in set(buckets):
            shares = [[batch for batch in step if buckets[batch[0]] == bucket] for step in steps]
            taken = [np.concatenate([np.empty(0, int), *(s[rank] for s in shares if s)]) for rank in range(ranks)]
            moved = sum(int(np.sum(holders[rows] != rank)) for rank, rows in enumerate(taken))
            held = np.bincount(holders[np.concatenate(taken)], minlength=ranks)
            assert moved == np.maximum(0, len(taken[0]) - held).sum()  # no fewer can move


def test_no_row_moves_between_ranks_that_hold_the_same_lengths() -> None:
    rng = np.random.default_rng(0)
    limits, ranks = BatchLimits(None, 4), 3
    seconds = np.repeat(np.arange(1.0, 9.0), 24)  # 8 lengths, of each 8 rows on every rank: two steps
    holders = np.tile(np.arange(ranks), len(seconds) // ranks)
    steps, left = plan_steps(seconds, holders, np.arange(1.0, 8.0), limits, ranks, rng)
    assert (len(steps), len(left)) == (16, 0)
    assert all(set(holders[batch]) == {rank} for step in steps for rank, batch in enumerate(step))


def test_deal_fills_up_who_lacks_rows() -> None:
    rows = np.array([10, 11, 12, 13, 14, 15])
    holders = np.zeros(16, dtype=np.int64)
    holders[[11, 15]] = 2
    assert [share.tolist() for share in deal(rows, holders, 3)] == [[10, 12], [13, 14], [11, 15]]
    assert [share.tolist() for share in deal(rows[:0], holders, 3)] == [[], [], []]


# --------------------------------------------------------------------------------------------------------------------
# The end of an epoch


def test_last_steps() -> None:
    dropped_some = False
    for rng, seconds, limits, ranks in cases(300):
        rows = rng.permutation(len(seconds))[: rng.integers(0, len(seconds) + 1)]
        steps, dropped = plan_last_steps(rows, seconds, limits, ranks)
        assert sorted([*rows_of(steps), *dropped]) == sorted(rows)
        assert_within(steps, seconds, limits)
        for step in steps:
            sizes = [len(batch) for batch in step]
            assert len(step) == ranks and min(sizes) >= 1 and max(sizes) - min(sizes) <= 1
        assert len(dropped) < ranks
        if len(dropped):
            dropped_some = True
            assert all(len(batch) == 1 for step in steps for batch in step)  # nothing to spare
    assert dropped_some


def test_last_rows_of_similar_length_share_a_step() -> None:
    seconds = np.array([1.0, 9.0, 5.0, 1.1, 8.0, 5.5])
    steps, dropped = plan_last_steps(np.arange(6), seconds, BatchLimits(None, 1), 2)
    assert [[batch.tolist() for batch in step] for step in steps] == [[[1], [4]], [[5], [2]], [[3], [0]]]
    assert not len(dropped)


def test_a_last_row_alone_gets_company_from_the_step_before() -> None:
    seconds = np.array([3.0, 3.0, 3.0, 3.0, 1.0])
    steps, dropped = plan_last_steps(np.arange(5), seconds, BatchLimits(6.0), 2)
    assert [[batch.tolist() for batch in step] for step in steps] == [[[0, 2], [1]], [[3], [4]]]
    assert not len(dropped)


def test_split_to_multiple() -> None:
    for seed in range(100):
        rng = np.random.default_rng(seed)
        ranks, multiple, done = int(rng.integers(1, 4)), int(rng.integers(1, 9)), int(rng.integers(0, 50))
        sizes = rng.integers(1, 9, rng.integers(1, 6))
        numbers = iter(range(1000))
        steps = [[np.array([next(numbers) for _ in range(size)]) for _ in range(ranks)] for size in sizes]
        split = split_to_multiple(steps, done, multiple)
        assert sorted(rows_of(split)) == sorted(rows_of(steps))
        assert all(len({len(batch) for batch in step}) == 1 and len(step[0]) for step in split)
        assert len(split) - len(steps) < multiple
        assert (done + len(split)) % multiple == 0 or all(len(step[0]) == 1 for step in split)


def test_split_to_multiple_halves_the_largest_step_and_leaves_the_others() -> None:
    steps = [[np.array([0])], [np.array([1, 2, 3, 4, 5])], [np.array([6, 7])]]
    split = split_to_multiple(steps, 4, 4)
    assert [batch.tolist() for (batch,) in split] == [[0], [1, 2], [3, 4, 5], [6, 7]]
    assert [batch.tolist() for (batch,) in split_to_multiple(steps, 5, 4)] == [b.tolist() for (b,) in steps]
    assert split_to_multiple([], 3, 2) == []
    uneven = [[np.array([0, 1, 2]), np.array([3, 4])]]
    assert [[len(batch) for batch in step] for step in split_to_multiple(uneven, 0, 2)] == [[1, 1], [2, 1]]


def test_longest_first() -> None:
    seconds = np.array([1.0, 2.0, 7.0, 3.0])
    steps = [[np.array([0]), np.array([1])], [np.array([3]), np.array([2])]]
    assert [step[1].tolist() for step in longest_first(steps, seconds)] == [[2], [1]]
    assert [step[1].tolist() for step in longest_first(steps[:1], seconds)] == [[1]]
    mixed = [[np.array([1, 3])], [np.array([0, 2])]]
    assert [batch.tolist() for (batch,) in longest_first(mixed, seconds)] == [[0, 2], [1, 3]]
    assert longest_first([], seconds) == []
