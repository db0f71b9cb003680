"""Which rows make up an epoch when groups of rows do not come as often as they stand in the data."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Mixture:
    """Groups of row numbers with the number of rows that an epoch takes of each.

    A group is walked through in random orders, one after the other and on over the epochs: no row comes again before
    all others of its group have come.
    """

    groups: tuple[np.ndarray, ...]
    counts: tuple[int, ...]
    seed: int

    def __post_init__(self) -> None:
        if any(not len(group) for group in self.groups) or any(count < 0 for count in self.counts):
            raise ValueError("each group of a mixture needs rows and a count that is not negative")

    @property
    def num_rows(self) -> int:
        """Rows of an epoch."""
        return sum(self.counts)

    def rows(self, epoch: int) -> np.ndarray:
        """The row numbers of an epoch, group by group, repeats included."""
        parts = [
            self._walk(number, epoch * count, (epoch + 1) * count) for number, count in enumerate(self.counts) if count
        ]
        return np.concatenate(parts)

    def _walk(self, number: int, start: int, end: int) -> np.ndarray:
        group = self.groups[number]
        rounds = range(start // len(group), (end - 1) // len(group) + 1)
        orders = [np.random.default_rng([self.seed, number, lap]).permutation(group) for lap in rounds]
        offset = rounds.start * len(group)
        return np.concatenate(orders)[start - offset : end - offset]

    @property
    def digest(self) -> str:
        """A name of the mixture: runs with different ones cannot be resumed from each other."""
        state = hashlib.blake2b(repr((self.counts, self.seed)).encode(), digest_size=8)
        for group in self.groups:
            state.update(np.ascontiguousarray(group, dtype=np.int64).tobytes())
        return state.hexdigest()


def temperature_mixture(labels: Sequence[str], temperature: float, seed: int) -> Mixture:
    """Epochs as long as the data, in which label l has a share in proportion to n_l ** (1 / temperature).

    1 leaves shares as they are, infinity makes them equal (Arivazhagan et al. 2019, arXiv:1907.05019). Labels come in
    alphabetic order.
    """
    if not temperature >= 1:
        raise ValueError(f"the temperature must be at least 1, got {temperature:g}")
    names, numbers, sizes = np.unique(np.asarray(labels, dtype=str), return_inverse=True, return_counts=True)
    weights = sizes ** (1 / temperature)
    counts = np.maximum(1, np.rint(len(numbers) * weights / weights.sum()).astype(int))
    groups = tuple(np.flatnonzero(numbers == number) for number in range(len(names)))
    return Mixture(groups, tuple(counts.tolist()), seed)


def replay_mixture(num_rows: int, num_replay_rows: int, replay_rate: float, seed: int) -> Mixture:
    """Epochs of all rows (the first ones) and of so many replayed rows (behind them) that these are `replay_rate`."""
    if not 0 < replay_rate < 1:
        raise ValueError(f"the replay rate must be above 0 and below 1, got {replay_rate:g}")
    groups = (np.arange(num_rows), num_rows + np.arange(num_replay_rows))
    return Mixture(groups, (num_rows, max(1, round(num_rows * replay_rate / (1 - replay_rate)))), seed)
