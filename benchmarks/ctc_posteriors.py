"""Log-probabilities like a CTC model's, made from text with a seed: a test bed for decoders that needs no model.

A character takes one to three frames in which it stands out; between characters the blank does. In some words ("hard"
ones) a character may go wrong: another letter, the blank, an additional letter, or two letters sharing the mass. Those
are the faults which a language model has to mend. Two confidences come from the same logits: `sharp` as a model
trained with CTC, and `flat` as one that is less sure of itself (the same logits times 0.6).

The figures of `Speech` are chosen so that the best path has a word error rate of 19 %, 1.26 labels a frame are above
ln p = -5 (flat: 2.2), and the blank has more than 0.99 of 46 % of the frames.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

LABELS = ("", "<s>", "</s>", "\ufffd", " ", *"abcdefghijklmnopqrstuvwxyz'")
"""What the 32 ids spell, in the order of the vocabulary of wav2vec2-base-960h's kind; id 0 is the blank."""
SPECIALS = slice(1, 4)  # <s>, </s> and <unk>: never spoken
FRAME_SECONDS = 0.02
FRAMES = 500  # 10 s
CONFUSABLE = ("aeiouy", "bdgkpqt", "cfhjsvxz", "lmnrw")  # letters are taken for others of their group


@dataclass(frozen=True)
class Speech:
    """How clearly it is spoken; logits are natural, pairs are mean and standard deviation."""

    blank: tuple[float, float] = (9.0, 1.0)  # between characters
    background: tuple[float, float] = (-2.0, 1.0)
    special: float = -9.0
    character: tuple[float, float] = (9.5, 1.0)
    blank_beside_character: tuple[float, float] = (0.5, 2.0)  # in the character's own frames
    rival: tuple[float, float] = (2.0, 1.5)  # one to three confusable letters in the character's frames
    leak: tuple[float, float] = (4.7, 1.5)  # of a character into a blank frame beside it
    leak_share: float = 0.5
    durations: tuple[float, float, float] = (0.62, 0.32, 0.06)  # one, two, three frames
    hard_word_share: float = 0.4
    error_share: float = 0.102  # of the characters of hard words
    error_kinds: tuple[float, float, float, float] = (0.62, 0.14, 0.12, 0.12)  # ERRORS
    margin: tuple[float, float] = (4.5, 4.0)  # by which the wrong label beats the right one


ERRORS = ("substitution", "deletion", "insertion", "split")


def confusable(character: str) -> str:
    """The letters that a letter may be taken for; none for the space and the apostrophe."""
    [group] = [group for group in CONFUSABLE if character in group] or [""]
    return group.replace(character, "")


def character_frames(
    rng: np.random.Generator, text: str, speech: Speech, frames: int
) -> tuple[np.ndarray, np.ndarray]:
    """First frames and durations of the characters, both (N,): pauses of gamma-distributed length around them."""
    durations = rng.choice([1, 2, 3], size=len(text), p=speech.durations)
    # equal neighbours need a blank between them
    gaps = np.array([0] + [int(a == b) for a, b in pairwise(text)])
    free = frames - int(durations.sum() + gaps.sum())
    if free < 0:
        raise ValueError(f"{len(text)} characters do not fit into {frames} frames; take shorter sentences")
    pauses = rng.gamma(2.0, size=len(text) + 1)
    before = np.floor(np.cumsum(pauses)[:-1] / pauses.sum() * free).astype(int)
    return before + np.cumsum(gaps) + np.cumsum(durations) - durations, durations


def spoken_logits(
    rng: np.random.Generator, text: str, speech: Speech | None = None, frames: int = FRAMES
) -> np.ndarray:
    """Logits (frames, 32), float64, of somebody saying the text of a-z, ' and single spaces."""
    speech = speech or Speech()
    logits = rng.normal(*speech.background, (frames, len(LABELS)))
    logits[:, SPECIALS] = speech.special
    logits[:, 0] = rng.normal(*speech.blank, frames)
    starts, durations = character_frames(rng, text, speech, frames)
    hard = np.repeat(
        [rng.random() < speech.hard_word_share for _ in text.split(" ")], [len(word) + 1 for word in text.split(" ")]
    )
    spoken = np.zeros(frames, dtype=bool)
    for start, duration in zip(starts, durations, strict=True):
        spoken[start : start + duration] = True
    for character, start, duration, in_hard_word in zip(text, starts, durations, hard, strict=False):
        own, label = slice(start, start + duration), LABELS.index(character)
        for beside in (start - 1, start + duration):
            if 0 <= beside < frames and not spoken[beside] and rng.random() < speech.leak_share:
                logits[beside, label] = max(logits[beside, label], rng.normal(*speech.leak))
        rivals = [LABELS.index(rival) for rival in confusable(character)]
        logits[own, 0] = rng.normal(*speech.blank_beside_character, duration)
        logits[own, label] = rng.normal(*speech.character, duration)
        for rival in rng.permutation(rivals)[: rng.integers(1, 4)]:
            logits[own, rival] = np.maximum(logits[own, rival], rng.normal(*speech.rival, duration))
        if in_hard_word and rng.random() < speech.error_share:
            # a space and an apostrophe have no rivals: they can only be lost
            error = rng.choice(ERRORS, p=speech.error_kinds) if rivals else "deletion"
            wrong = rng.choice(rivals) if rivals else label
            margin = rng.normal(*speech.margin)
            if error == "substitution":
                logits[own, wrong] = logits[own, label] + margin
            elif error == "deletion":
                logits[own, 0] = logits[own, label] + margin
            elif error == "split":
                logits[own, wrong] = logits[own, label] + rng.normal(0, 0.5)
            elif start + duration < frames and not spoken[start + duration]:  # an insertion, in the frame after
                logits[start + duration, wrong] = logits[start + duration, 0] + margin
    return logits


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Natural log-probabilities, float32, of logits (..., V)."""
    shifted = logits - logits.max(-1, keepdims=True)
    return (shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))).astype(np.float32)


def sharp_and_flat(texts: Sequence[str], seed: int, frames: int = FRAMES) -> dict[str, np.ndarray]:
    """Log-probabilities (N, frames, 32) of N texts, of a confident and of a less confident model."""
    logits = np.stack(
        [spoken_logits(np.random.default_rng([seed, i]), text, frames=frames) for i, text in enumerate(texts)]
    )
    return {"sharp": log_softmax(logits), "flat": log_softmax(0.6 * logits)}
