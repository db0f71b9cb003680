"""Where the words of a known text are spoken: the best CTC alignment of its labels to the frames (Viterbi).

States are the labels and the gaps between them; what lies before and after the text is not a state:

    before | label 0, gap 0, label 1, gap 1, ..., label N - 1 | after

With infinite costs this is torchaudio's `forced_align`. What is added: a wildcard for what the model cannot spell,
speech before and after the text, words at its ends that nobody says, and a window of states that follows the best
one, so that a recording of hours takes minutes and not terabytes.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numba import njit

WILDCARD = -1  # stands in the ids of a word for something that the model has no label for
BLANK_COLUMN, ANY_COLUMN = 0, 1  # of the emissions; the labels of the text follow
STAY, NEXT, SKIP, ENTER = 0, 1, 2, 3  # from the state itself, the one before, the one before that, before the text

EXACT_CELLS = 20_000_000  # frames times states up to which no state is given up; a byte each
MARGIN = 200.0  # nats behind the best state of its frame at which a state is given up in longer recordings


@dataclass(frozen=True)
class AlignmentCosts:
    """Costs in nats; `math.inf` forbids.

    Args:
        wildcard: of a frame in which something is heard in place of a character the model cannot spell.
        outside: of a frame of speech before or after the text.
        unspoken: of a label at an end of the text that is not said. A letter that is said costs well under 1 in a
            good recording, one that is not said but must have a frame about 10.
    """

    wildcard: float = 1.0
    outside: float = 1.0
    unspoken: float = 4.0


@dataclass(frozen=True, eq=False)
class WordSpan:
    """First frame and frame after the last of each label of a word (n, 2), and the labels' mean probabilities (n,).

    Both are empty for a word that is not spoken.
    """

    frames: np.ndarray
    confidences: np.ndarray

    @property
    def is_spoken(self) -> bool:
        return len(self.frames) > 0

    @property
    def confidence(self) -> float:
        """Geometric mean over the labels, as in greedy decoding; 0 for a word that is not spoken."""
        if not self.is_spoken:
            return 0.0
        return float(np.exp(np.log(np.maximum(self.confidences, 1e-30)).mean()))


def align_words(
    pieces: Iterable[np.ndarray],
    words: Sequence[Sequence[int]],
    blank_id: int,
    *,
    delimiter_id: int | None = None,
    costs: AlignmentCosts | None = None,
    margin: float | None = None,
) -> list[WordSpan]:
    """The frames of each word, given as its label ids (WILDCARD for what has no label).

    Memory is 4 bytes a frame for each different label of the text, and a byte for each state that is kept: (T, V)
    itself is read piece by piece. At most `margin / costs.unspoken` labels at either end can be left unspoken.

    Args:
        pieces: consecutive natural-log probabilities (t, V); `[log_probs]` where there is one array.
        delimiter_id: the label between two words, for models that have one.
        margin: nats behind the best at which a state is given up; by default none in short recordings, else 200.

    Raises:
        ValueError: no word or an empty one, an id that is no label, more labels than frames, NaN, or no path.
    """
    costs = costs or AlignmentCosts()
    ids, owners = label_sequence(words, delimiter_id)
    columns, ids_in_columns = np.unique(ids[ids != WILDCARD], return_inverse=True)
    emissions = read_emissions(pieces, columns, blank_id)
    tokens = np.full(len(ids), ANY_COLUMN)
    tokens[ids != WILDCARD] = ids_in_columns + ANY_COLUMN + 1
    needed = len(ids) + sum(a == b != WILDCARD for a, b in pairwise(ids.tolist()))
    if needed > len(emissions):
        raise ValueError(
            f"the text needs {needed} frames and the recording has {len(emissions)}; is it the text of this recording?"
        )
    is_first = np.append(True, owners[1:] != owners[:-1]) & (owners >= 0)
    is_last = np.append(owners[1:] != owners[:-1], True) & (owners >= 0)
    if margin is None:
        margin = math.inf if len(emissions) * 2 * len(tokens) <= EXACT_CELLS else MARGIN
    while True:
        score, frames = viterbi(
            emissions, tokens, is_first, is_last, costs.wildcard, costs.outside, costs.unspoken, margin
        )
        if score > -math.inf:
            break
        if margin == math.inf:
            raise ValueError("no alignment has a probability above 0; is it the text of this recording?")
        margin = margin * 4 if margin < 10_000 else math.inf
    confidences = mean_probabilities(emissions, tokens, frames)
    spans = []
    for number in range(len(words)):
        chosen = (owners == number) & (frames[:, 0] >= 0)
        spans.append(WordSpan(frames[chosen], confidences[chosen]))
    return spans


def label_sequence(words: Sequence[Sequence[int]], delimiter_id: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Ids (N,) of the whole text, and the number of the word that each belongs to, -1 for a delimiter."""
    if not words:
        raise ValueError("the text has no word; give one that has")
    ids: list[int] = []
    owners: list[int] = []
    for number, word in enumerate(words):
        if not len(word):
            raise ValueError(f"word {number} has no label; leave out words that are not spelled")
        if number and delimiter_id is not None:
            ids.append(delimiter_id)
            owners.append(-1)
        ids += word
        owners += [number] * len(word)
    return np.array(ids), np.array(owners)


def read_emissions(pieces: Iterable[np.ndarray], labels: np.ndarray, blank_id: int) -> np.ndarray:
    """Log-probabilities (T, 2 + labels) float32 of the blank, of the best other label, and of `labels`."""
    parts, first = [], 0
    for piece in pieces:
        if np.isnan(piece).any():
            frame = first + int(np.isnan(piece).any(1).argmax())
            raise ValueError(f"frame {frame} has a log-probability that is not a number; open the model in float32")
        wrong = labels[(labels < 0) | (labels >= piece.shape[1]) | (labels == blank_id)]
        if len(wrong):
            raise ValueError(
                f"id {wrong[0]} is not a label: they are 0 to {piece.shape[1] - 1} without the blank, {blank_id}"
            )
        others = np.delete(piece, blank_id, axis=1).max(1)
        parts.append(np.column_stack([piece[:, blank_id], others, piece[:, labels]]).astype(np.float32))
        first += len(piece)
    return np.concatenate(parts) if parts else np.zeros((0, 2 + len(labels)), np.float32)


def mean_probabilities(emissions: np.ndarray, tokens: np.ndarray, frames: np.ndarray) -> np.ndarray:
    """Mean probability (N,) of each token over its frames (N, 2); 0 for those without."""
    means = np.zeros(len(tokens))
    for index, (start, end) in enumerate(frames.tolist()):
        if start >= 0:
            means[index] = np.exp(emissions[start:end, tokens[index]]).mean()
    return means


@njit(cache=True, nogil=True, error_model="numpy")
def viterbi(
    emissions: np.ndarray,
    tokens: np.ndarray,
    is_first: np.ndarray,
    is_last: np.ndarray,
    wildcard_cost: float,
    outside_cost: float,
    unspoken_cost: float,
    margin: float,
) -> tuple[float, np.ndarray]:
    """Score of the best path and the frames (N, 2) of the tokens on it, -1 for those that are not spoken.

    `tokens` (N,) are columns of the emissions (T, K); a path enters at the first token of a word and leaves after the
    last one of a word. -inf if none of the states that were kept can leave.
    """
    num_frames, last = len(emissions), 2 * len(tokens) - 2
    frames = np.full((len(tokens), 2), -1, np.int32)
    outside = np.zeros(num_frames + 1)  # score of the frames before t if all are outside the text
    for t in range(num_frames):
        row = emissions[t]
        outside[t + 1] = outside[t] + max(row[BLANK_COLUMN], row[ANY_COLUMN] - outside_cost)
    before, now = np.full(last + 1, -math.inf), np.full(last + 1, -math.inf)
    moves = np.empty(4 * num_frames + 2 * last + 16, np.uint8)
    lows, offsets = np.empty(num_frames, np.int64), np.empty(num_frames, np.int64)
    low, high, used = 0, -1, 0
    best, best_end, end_frame, end_state = 0.0, -math.inf, -1, -1
    for t in range(num_frames):
        row = emissions[t]
        bottom, top = low, min(high + 2, last)
        if outside[t] >= best - margin:  # the text may begin here
            bottom = 0
            top = max(top, last_entry(outside[t] - (best - margin), unspoken_cost, last))
        moves = with_room(moves, used, top - bottom + 1)
        lows[t], offsets[t] = bottom, used
        best = outside[t + 1]
        for state in range(bottom, top + 1):
            token = tokens[state >> 1]
            is_label = state & 1 == 0
            is_wildcard = is_label and token == ANY_COLUMN
            score, move = (before[state] if low <= state <= high else -math.inf), STAY
            if is_wildcard:  # what is said there may be several letters, with blanks among them
                score += max(row[BLANK_COLUMN], row[ANY_COLUMN]) - row[ANY_COLUMN]
            if low < state <= high + 1 and before[state - 1] > score:
                score, move = before[state - 1], NEXT
            if is_label:
                if low <= state - 2 <= high and before[state - 2] > score:
                    if is_wildcard or tokens[(state >> 1) - 1] != token:
                        score, move = before[state - 2], SKIP
                if is_first[state >> 1]:
                    entry = outside[t] - cost_of(state >> 1, unspoken_cost)
                    if entry > score:
                        score, move = entry, ENTER
                score += row[token] - (wildcard_cost if is_wildcard else 0.0)
            else:
                score += row[BLANK_COLUMN]
            now[state] = score
            moves[used + state - bottom] = move
            best = max(best, score)
            if is_label and is_last[state >> 1]:
                unspoken = cost_of((last - state) >> 1, unspoken_cost)
                end = score - unspoken - outside[t + 1]  # compared at this frame: what follows is the same for all
                if unspoken < math.inf and unspoken <= margin and end > best_end:
                    best_end, end_frame, end_state = end, t, state
        used += top - bottom + 1
        low, high = bottom, top
        while low < high and not now[low] >= best - margin:
            low += 1
        while high > low and not now[high] >= best - margin:
            high -= 1
        before, now = now, before
    if end_state < 0:
        return -math.inf, frames
    state, t, move = end_state, end_frame, STAY
    while move != ENTER:
        if state & 1 == 0:
            if frames[state >> 1, 1] < 0:
                frames[state >> 1, 1] = t + 1
            frames[state >> 1, 0] = t
        move = moves[offsets[t] + state - lows[t]]
        if move != ENTER:
            state -= move
        t -= 1
    return best_end + outside[num_frames], frames


@njit(cache=True, nogil=True, error_model="numpy")
def cost_of(num_tokens: int, cost_each: float) -> float:
    """Cost of leaving tokens out; of none it is 0, infinite costs included."""
    return cost_each * num_tokens if num_tokens else 0.0


@njit(cache=True, nogil=True, error_model="numpy")
def last_entry(allowance: float, unspoken_cost: float, last: int) -> int:
    """The last state at which a path can enter when leaving out what comes before may cost up to `allowance`."""
    if unspoken_cost == math.inf:
        return 0
    if unspoken_cost == 0 or allowance == math.inf:
        return last
    return int(min(float(last), 2 * (allowance // unspoken_cost)))


@njit(cache=True, nogil=True, error_model="numpy")
def with_room(moves: np.ndarray, used: int, more: int) -> np.ndarray:
    """The array itself, or a copy twice as long where it has no room for `more` entries after `used`."""
    if used + more <= len(moves):
        return moves
    longer = np.empty(2 * len(moves) + more, np.uint8)
    longer[:used] = moves[:used]
    return longer
