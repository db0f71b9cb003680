"""When the labels of a hypothesis were spoken: the best alignment of its labels to the frames (Viterbi).

States are the labels and the gaps around them, as in CTC:   gap 0, label 0, gap 1, label 1, ..., gap N
"""

import math

import numpy as np
from numba import njit

from hfaudio.decoding.search import SPACE_LABEL, Labels

MARGIN = 20.0  # nats behind the best state of a frame at which a state at the rim of the window is given up
STAY, NEXT, SKIP = 0, 1, 2  # from the state itself, the one before, and the one before that


@njit(cache=True, nogil=True, error_model="numpy")
def align(
    log_probs: np.ndarray, tokens: np.ndarray, labels: Labels, margin: float, moves: np.ndarray
) -> tuple[np.ndarray, np.ndarray, int]:
    """Frames, sums, and whether the end was reached (1), was not (0), or `moves` is too small (-1)."""
    num_frames, num_tokens = log_probs.shape[0], len(tokens)
    last = 2 * num_tokens
    frames = np.full((num_tokens, 2), -1, np.int32)
    sums = np.zeros(num_tokens)
    if num_tokens == 0:
        return frames, sums, 1
    before, now = np.full(last + 1, -math.inf), np.full(last + 1, -math.inf)
    lows, offsets = np.empty(num_frames, np.int32), np.empty(num_frames, np.int64)
    before[0] = 0.0  # the gap before the first frame
    low, high, used = 0, 0, 0
    for t in range(num_frames):
        row = log_probs[t]
        gap = space = -math.inf
        for label in labels.blanks:
            gap = max(gap, row[label])
        for label in labels.spaces:
            space = max(space, row[label])
        top = min(high + 2, last) if t > 0 else 1
        if used + top - low + 1 > len(moves):
            return frames, sums, -1
        lows[t], offsets[t] = low, used
        best = -math.inf
        for state in range(low, top + 1):
            score, move = (before[state], STAY) if state <= high else (-math.inf, STAY)
            if low < state <= high + 1 and before[state - 1] > score:
                score, move = before[state - 1], NEXT
            if state & 1:
                token = tokens[state >> 1]
                if state >= low + 2 and state - 2 <= high and before[state - 2] > score:
                    if tokens[(state >> 1) - 1] != token:
                        score, move = before[state - 2], SKIP
                score += row[token]
            elif state == 0 or state == last or labels.kind[tokens[(state >> 1) - 1]] == SPACE_LABEL:
                score += max(gap, space)  # a space after a space, or at an end of the text, spells nothing
            else:
                score += gap
            now[state] = score
            moves[used + state - low] = move
            best = max(best, score)
        used += top - low + 1
        high = top
        while low < high and not now[low] >= best - margin:
            low += 1
        while high > low and not now[high] >= best - margin:
            high -= 1
        before, now = now, before
    end = -1
    for state in (last - 1, last):
        if low <= state <= high and before[state] > -math.inf and (end < 0 or before[state] > before[end]):
            end = state
    if end < 0:
        return frames, sums, 0
    state = end
    for t in range(num_frames - 1, -1, -1):
        if state & 1:
            place = state >> 1
            if frames[place, 1] < 0:
                frames[place, 1] = t + 1
            frames[place, 0] = t
            sums[place] += math.exp(log_probs[t, tokens[place]])
        state -= moves[offsets[t] + state - lows[t]]
    return frames, sums, 1


@njit(cache=True, nogil=True, error_model="numpy")
def token_times(
    log_probs: np.ndarray, tokens: np.ndarray, labels: Labels, margin: float
) -> tuple[np.ndarray, np.ndarray]:
    """Frames (N, 2) of the labels, first and after the last, and the sums (N,) of their probabilities over them.

    The window of states follows the best one; should it lose the way, as with a flat model, it is widened. Without a
    path, as when there are fewer frames than labels, all frames are -1 and the sums 0.
    """
    size = 8 * len(log_probs) + 2 * len(tokens) + 16
    while True:
        frames, sums, found = align(log_probs, tokens, labels, margin, np.empty(size, np.uint8))
        if found == -1:
            size *= 4
        elif found == 1 or margin == math.inf:
            return frames, sums
        else:
            margin = margin * 8.0 if margin < 10_000.0 else math.inf
