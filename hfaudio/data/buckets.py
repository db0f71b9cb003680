"""Which rows train together: batches of similar length, one for each rank, all ranks in one bucket at a step.

Everything here is a pure function of lengths and of a generator, so that ranks which know the lengths of all rows
agree on every batch without a word. lhotse (`lhotse/dataset/sampling/dynamic_bucketing.py`) lets ranks draw the same
bucket from a shared generator and stops at the first rank that has run out; here the rows of all ranks are planned
together, so that none is left behind at the end.
"""

from dataclasses import dataclass

import numpy as np

Batches = list[np.ndarray]  # one array of row numbers for each rank

# Steps that a bucket gives in a window, so that its rows still mix. More pads more: with windows of 1,000 clips of
# 4.1 s and batches of 60 s the padding is 2.9 % at 2, 5.0 % at 4; fewer lets more rows wait for the next window.
STEPS_A_BUCKET = 2
MAX_BUCKETS = 30  # as lhotse's default; beyond it padding falls by less than a percent


@dataclass(frozen=True)
class BatchLimits:
    """How much one rank takes at a step: seconds of audio, padding included, and rows."""

    max_seconds: float | None = None
    max_examples: int | None = None

    def __post_init__(self) -> None:
        if self.max_seconds is None and self.max_examples is None:
            raise ValueError("a batch needs a limit: max_seconds, max_examples or both")
        for name, value in (("max_seconds", self.max_seconds), ("max_examples", self.max_examples)):
            if value is not None and not value > 0:
                raise ValueError(f"{name} of a batch must be above 0; got {value}")

    def rows(self, longest: float) -> int:
        """How many rows of `longest` seconds a batch holds, at least 1."""
        by_seconds = np.inf if self.max_seconds is None else self.max_seconds / max(longest, 1e-3) + 1e-6
        by_rows = np.inf if self.max_examples is None else self.max_examples
        return max(1, int(min(by_seconds, by_rows, 2**31)))


def estimate_edges(seconds: np.ndarray, limits: BatchLimits, num_replicas: int) -> np.ndarray:
    """Inner edges (K - 1,) in seconds, ascending, of K buckets that hold equal amounts of audio.

    Equal amounts of audio, not of rows, fill all buckets at one speed under a budget of seconds. K grows with the
    number of steps that the given rows make, up to MAX_BUCKETS; one bucket for few rows.
    """
    ordered = np.sort(seconds)
    steps = 0.0
    if limits.max_seconds is not None:
        steps = ordered.sum() / (limits.max_seconds * num_replicas)
    if limits.max_examples is not None:
        steps = max(steps, len(ordered) / (limits.max_examples * num_replicas))
    buckets = int(np.clip(steps / STEPS_A_BUCKET, 1, MAX_BUCKETS))
    audio = np.cumsum(ordered)
    if not len(ordered) or audio[-1] <= 0:
        return np.empty(0)
    shares = np.arange(1, buckets) / buckets
    return np.unique(ordered[np.searchsorted(audio, shares * audio[-1])])


def bucket_of(seconds: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Bucket numbers (N,): bucket k holds edges[k - 1] < seconds <= edges[k]."""
    return np.searchsorted(edges, seconds, side="left")


def plan_steps(
    seconds: np.ndarray,
    holders: np.ndarray | None,
    edges: np.ndarray,
    limits: BatchLimits,
    num_replicas: int,
    rng: np.random.Generator,
    *,
    waited: int = 0,
) -> tuple[list[Batches], np.ndarray]:
    """Steps in random order and the rows (in order) that wait for others of their length.

    A step holds one batch for each rank, all of one bucket and with the same number of rows. Of rows held by a rank
    as many as possible go into that rank's own batches. Who has waited goes first, so that nobody waits twice while
    a bucket gives at least one step (but where a much longer row makes that step smaller than the last one).

    Args:
        seconds: (N,) lengths of all rows of all ranks.
        holders: (N,) the rank that has a row's audio. None: all have; then the rows of a step do not depend on how
            many ranks share them.
        waited: the first so many rows were left over by an earlier plan.
    """
    order = np.concatenate([np.arange(waited), waited + rng.permutation(len(seconds) - waited)])
    buckets = bucket_of(seconds[order], edges)
    steps: list[Batches] = []
    waiting: list[np.ndarray] = []
    for bucket in np.unique(buckets):
        rows = order[buckets == bucket]
        size = limits.rows(seconds[rows].max())
        count = len(rows) // (size * num_replicas)
        used = count * size * num_replicas
        if holders is None:
            steps += [_dealt(hand, num_replicas) for hand in rows[:used].reshape(count, size * num_replicas)]
        else:
            shares = deal(rows[:used], holders, num_replicas)
            for share in shares:
                rng.shuffle(share)  # rows that came from another rank are at its end
            steps += [[share[i * size : (i + 1) * size] for share in shares] for i in range(count)]
        waiting.append(rows[used:])
    rng.shuffle(steps)  # type: ignore[arg-type]  # a list is shuffled in place
    left = np.concatenate([*waiting, np.empty(0, dtype=np.int64)])
    return steps, np.sort(left)


def deal(rows: np.ndarray, holders: np.ndarray, num_replicas: int) -> Batches:
    """Equal shares of the rows for each rank: its own ones first, what it lacks from ranks that have too many."""
    quota = len(rows) // num_replicas
    own = [rows[holders[rows] == rank] for rank in range(num_replicas)]
    spare = np.concatenate([part[quota:] for part in own])
    shares = []
    for part in own:
        lacking = quota - min(len(part), quota)
        shares.append(np.concatenate([part[:quota], spare[:lacking]]))
        spare = spare[lacking:]
    return shares


def plan_last_steps(
    rows: np.ndarray, seconds: np.ndarray, limits: BatchLimits, num_replicas: int
) -> tuple[list[Batches], np.ndarray]:
    """Steps of all that is left over at the end of an epoch, and the rows that are too few for one step.

    Sorted by length and dealt out like cards, so that the ranks' batches differ by at most one row and hardly in
    length; neighbouring buckets mix. Less than one row for each rank is dropped, and only if no earlier step of
    these can spare some.
    """
    rows = rows[np.argsort(-seconds[rows], kind="stable")]
    hands: list[np.ndarray] = []
    start = 0
    while start < len(rows):
        size = limits.rows(seconds[rows[start]]) * num_replicas
        hands.append(rows[start : start + size])
        start += size
    if hands and len(hands[-1]) < num_replicas:
        lacking = num_replicas - len(hands[-1])
        if len(hands) > 1 and len(hands[-2]) - lacking >= num_replicas:
            hands[-2], hands[-1] = hands[-2][:-lacking], np.concatenate([hands[-2][-lacking:], hands[-1]])
        else:
            return [_dealt(hand, num_replicas) for hand in hands[:-1]], hands[-1]
    return [_dealt(hand, num_replicas) for hand in hands], np.empty(0, dtype=np.int64)


def _dealt(hand: np.ndarray, num_replicas: int) -> Batches:
    return [hand[rank::num_replicas] for rank in range(num_replicas)]


def split_to_multiple(steps: list[Batches], done: int, multiple: int) -> list[Batches]:
    """The steps with some halved until `done` + their number is a multiple, as far as batches have two rows.

    The Trainer of transformers 5.23 makes no optimiser step of what is left at the end of a stream whose batches
    are no multiple of `gradient_accumulation_steps`.
    """
    steps = list(steps)
    while (done + len(steps)) % multiple:
        fewest = [min(len(batch) for batch in step) for step in steps]
        if not steps or max(fewest) < 2:
            break
        largest = int(np.argmax(fewest))
        step = steps.pop(largest)
        steps[largest:largest] = [[b[: len(b) // 2] for b in step], [b[len(b) // 2 :] for b in step]]
    return steps


def longest_first(steps: list[Batches], seconds: np.ndarray) -> list[Batches]:
    """The steps with the one of the longest row in front: memory runs out at the start or never."""
    longest = max(range(len(steps)), key=lambda i: max(seconds[batch].max() for batch in steps[i]), default=0)
    return steps[longest : longest + 1] + steps[:longest] + steps[longest + 1 :]
