import json

import numpy as np
import pytest

from hfaudio.data.sampler import BucketSampler

SECONDS = np.random.default_rng(0).gamma(3.0, 1.5, 500).round(2) + 0.2


def batches(sampler: BucketSampler, epochs: int = 1) -> list[list[int]]:
    return [batch for _ in range(epochs) for batch in sampler]


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_every_row_once_in_batches_within_their_limits(ranks: int) -> None:
    samplers = [BucketSampler(SECONDS, 40.0, 10, ranks, rank) for rank in range(ranks)]
    given = [batches(sampler) for sampler in samplers]
    assert len({len(rank) for rank in given}) == 1
    rows = [row for rank in given for batch in rank for row in batch]
    assert sorted(rows) == list(range(500)) and samplers[0].counts.dropped == 0
    assert all(len(batch) <= 10 and len(batch) * SECONDS[batch].max() <= 40.0 for rank in given for batch in rank)
    longest = [[SECONDS[batch].max() for batch in rank] for rank in given]
    assert np.median(np.ptp(longest, axis=0)) < 0.7  # the ranks' lengths are alike, 0.2 to 16 s though they are
    assert SECONDS.argmax() in [row for rank in given for row in rank[0]]


def test_padding_is_small_and_told() -> None:
    sampler = BucketSampler(SECONDS, None, 10)
    given = batches(sampler)
    padded = sum(len(batch) * SECONDS[batch].max() for batch in given)
    assert sampler.counts.padding_share == pytest.approx(1 - SECONDS.sum() / padded)
    assert sampler.counts.padding_share < 0.15
    assert sampler.counts.rows == 500 and sampler.counts.seconds == pytest.approx(SECONDS.sum())


def test_two_ranks_share_the_steps_of_one_with_twice_the_batch() -> None:
    one = batches(BucketSampler(SECONDS, None, 8))
    halves = [batches(BucketSampler(SECONDS, None, 4, 2, rank)) for rank in (0, 1)]
    assert [sorted([*a, *b]) for a, b in zip(*halves, strict=True)] == [sorted(batch) for batch in one]


def test_order_depends_on_seed_and_epoch_alone() -> None:
    first = BucketSampler(SECONDS, 30.0, None, seed=1)
    orders = [batches(first), batches(first)]
    assert first.epoch == 2 and orders[0] != orders[1]
    assert batches(BucketSampler(SECONDS, 30.0, None, seed=1)) == orders[0]
    assert batches(BucketSampler(SECONDS, 30.0, None, seed=2)) != orders[0]
    again = BucketSampler(SECONDS, 30.0, None, seed=1)
    again.begin_epoch(1)
    assert batches(again) == orders[1]


@pytest.mark.parametrize("stop", [1, 17, 40])
def test_it_goes_on_where_its_state_was(stop: int) -> None:
    whole = BucketSampler(SECONDS, 40.0, None)
    expected = batches(whole, 2)
    first, given = BucketSampler(SECONDS, 40.0, None), []
    for batch in first:
        given.append(batch)
        if len(given) == stop:
            break
    resumed = BucketSampler(SECONDS, 40.0, None)
    resumed.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert given + batches(resumed, 2) == expected
    assert resumed.counts == whole.counts


def test_behind_the_last_step_comes_the_next_epoch() -> None:
    sampler = BucketSampler(SECONDS, 40.0, None)
    steps = iter(sampler)
    while not sampler.is_last_step:
        next(steps)
    resumed = BucketSampler(SECONDS, 40.0, None)
    resumed.load_state_dict(sampler.state_dict())
    assert (resumed.epoch, resumed.step) == (1, 0)


@pytest.mark.parametrize(
    ("name", "changed"),
    [("seed", {"seed": 3}), ("max_examples", {"max_examples": 7}), ("step_multiple", {"step_multiple": 4})],
)
def test_a_state_of_other_settings_is_refused(name: str, changed: dict[str, int]) -> None:
    state = BucketSampler(SECONDS, None, 8).state_dict()
    with pytest.raises(ValueError, match=f"another {name}"):
        BucketSampler(SECONDS, None, **{"max_examples": 8} | changed).load_state_dict(state)


def test_steps_fit_the_gradient_accumulation() -> None:
    sampler = BucketSampler(SECONDS, 40.0, None, step_multiple=7)
    given = batches(sampler)
    assert len(given) % 7 == 0 == sampler.steps_an_epoch() % 7
    assert sorted(row for batch in given for row in batch) == list(range(500))


def test_impossible_limits_are_named() -> None:
    with pytest.raises(ValueError, match=r"a batch of 5 s cannot hold the longest row of .* --batch_seconds"):
        BucketSampler(SECONDS, 5.0, None)
    with pytest.raises(ValueError, match="2 rows do not divide over 3 processes"):
        BucketSampler([1.0, 2.0], None, 4, 3)
    with pytest.raises(ValueError, match="needs a limit"):
        BucketSampler(SECONDS, None, None)
