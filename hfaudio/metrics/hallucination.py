"""Text that was never said: loops, answers to silence, hypotheses that run on; signs of it, and how often."""

import zlib
from collections.abc import Sequence
from typing import TypeVar

from hfaudio.metrics.results import Share, share

LIMIT = 2.4  # compression ratio at which Whisper's own decoding tries again (openai/whisper, transcribe.py)
SHORTEST = 48  # bytes; zlib's header of 8 makes the ratio of shorter texts meaningless
MAX_ORDER = 10
REPEATS = 4
RUN_ON = 2.0  # a hypothesis of more than twice the reference's words and 5 more

Unit = TypeVar("Unit")


def compression_ratio(text: str) -> float:
    """Bytes of the text (UTF-8) over bytes that zlib needs for it; 0 for an empty one. High where it repeats."""
    content = text.encode("utf-8")
    return len(content) / len(zlib.compress(content)) if content else 0.0


def repeated_ngram(text: str, *, max_order: int = MAX_ORDER, repeats: int = REPEATS) -> str | None:
    """The shortest n-gram of words that comes so many times in a row, anywhere in the text; None if there is none.

    A text that is one word (Chinese, Japanese, Thai, or "hahahaha...") is searched by characters. A single character
    must come four times as often, as "1000000" and "hmmmm" are no loops.
    """
    words = text.split()
    if len(words) > 1:
        found = _repeated(words, max_order, repeats)
        return None if found is None else " ".join(found)
    found = _repeated(list(text), max_order, repeats, single_repeats=4 * repeats)
    return None if found is None else "".join(found)


def _repeated(
    units: Sequence[Unit], max_order: int, repeats: int, single_repeats: int | None = None
) -> Sequence[Unit] | None:
    for order in range(1, max_order + 1):
        needed = (single_repeats or repeats) if order == 1 else repeats
        run = 0  # units in a row that equal the one `order` places before
        for place in range(order, len(units)):
            run = run + 1 if units[place] == units[place - order] else 0
            if run == order * (needed - 1):
                ngram = units[place - order + 1 : place + 1]
                if order == 1 or len(set(ngram)) > 1:  # "aa" four times is "a" eight times, too few of a single one
                    return ngram
    return None


def is_loop(text: str) -> bool:
    """Whether a text repeats itself as decoders do that hang: by its compression ratio or a repeated n-gram."""
    long_enough = len(text.encode("utf-8")) >= SHORTEST
    return (long_enough and compression_ratio(text) > LIMIT) or repeated_ngram(text) is not None


class HallucinationTally:
    """Running counts of loops, run-on and empty hypotheses."""

    def __init__(self) -> None:
        self.n = 0
        self.loops = 0
        self.run_on = 0
        self.empty = 0

    def add(self, reference: str, hypothesis: str) -> None:
        """Count a normalised pair; a loop that stands in the reference, too, is none."""
        said, heard = len(reference.split()), len(hypothesis.split())
        self.n += 1
        self.loops += is_loop(hypothesis) and not is_loop(reference)
        self.run_on += heard > RUN_ON * said + 5
        self.empty += bool(reference) and not hypothesis

    def shares(self) -> dict[str, Share]:
        """Share of the pairs under "loops", "run_on" (more than twice the words and 5 more) and "empty".

        Texts without blanks count as one word: they never run on.
        """
        counts = {"loops": self.loops, "run_on": self.run_on, "empty": self.empty}
        return {name: share(count, self.n) for name, count in counts.items()}
