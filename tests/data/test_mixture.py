from collections import Counter
from itertools import islice

import numpy as np
import pytest

from hfaudio.data.mixture import Mixture, replay_mixture, temperature_mixture
from hfaudio.data.sampler import BucketSampler

LABELS = ["big"] * 90 + ["small"] * 10


def shares(mixture: Mixture, epochs: int) -> dict[str, float]:
    rows = np.concatenate([mixture.rows(epoch) for epoch in range(epochs)])
    counts = Counter(LABELS[row] for row in rows)
    return {label: count / len(rows) for label, count in counts.items()}


@pytest.mark.parametrize(("temperature", "small"), [(1, 0.1), (2, 0.25), (1e9, 0.5)])
def test_small_languages_gain_with_the_temperature(temperature, small):
    # 10 ** (1/2) / (90 ** (1/2) + 10 ** (1/2)) = 1/4
    mixture = temperature_mixture(LABELS, temperature, seed=0)
    assert mixture.num_rows == 100
    assert shares(mixture, 20)["small"] == pytest.approx(small, abs=0.01)


def test_no_row_comes_again_before_all_of_its_group_have_come():
    mixture = temperature_mixture(LABELS, 2, seed=1)
    drawn = {label: [] for label in ("big", "small")}
    for epoch in range(12):
        for row in mixture.rows(epoch):
            drawn[LABELS[row]].append(int(row))
    for label, size in (("big", 90), ("small", 10)):
        for start in range(0, len(drawn[label]) - size + 1, size):
            assert len(set(drawn[label][start : start + size])) == size


def test_an_epoch_depends_on_seed_and_epoch_only():
    first, second = (temperature_mixture(LABELS, 2, seed=1) for _ in range(2))
    assert first.rows(3).tolist() == second.rows(3).tolist() != first.rows(4).tolist()
    assert first.digest == second.digest != temperature_mixture(LABELS, 2, seed=2).digest


def test_replay_adds_its_share_to_all_own_rows():
    mixture = replay_mixture(80, 7, 0.2, seed=0)
    rows = mixture.rows(5)
    assert sorted(row for row in rows if row < 80) == list(range(80))
    assert sum(row >= 80 for row in rows) == 20  # of 100, though there are only 7 of them
    assert rows.max() < 87


def test_batches_hold_the_rows_of_the_mixture_and_resume():
    seconds = np.linspace(1, 3, 100)
    mixture = temperature_mixture(LABELS, 2, seed=0)

    def sampler() -> BucketSampler:
        return BucketSampler(seconds, None, 8, seed=3, mixture=mixture)

    whole = sampler()
    first, second = list(whole), list(whole)
    assert Counter(row for batch in first for row in batch) == Counter(mixture.rows(0).tolist())
    assert Counter(row for batch in second for row in batch) == Counter(mixture.rows(1).tolist())
    broken = sampler()
    taken = list(islice(broken, 5))
    resumed = sampler()
    resumed.load_state_dict(broken.state_dict())
    assert taken + list(resumed) == first
    with pytest.raises(ValueError, match="another mixture"):
        BucketSampler(seconds, None, 8, seed=3).load_state_dict(broken.state_dict())


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_shares_that_make_no_sense(rate):
    with pytest.raises(ValueError, match="above 0 and below 1"):
        replay_mixture(10, 10, rate, seed=0)
    with pytest.raises(ValueError, match="at least 1"):
        temperature_mixture(LABELS, 0.5, seed=0)
    with pytest.raises(ValueError, match="needs rows"):
        replay_mixture(10, 0, 0.5, seed=0)
