"""CTC prefix beam search, compiled: the loop over frames behind `BeamSearchDecoder`.

A hypothesis is a node in a tree of label prefixes (Graves 2012, Hannun et al. 2014). The tree is kept for the whole
utterance, so what a prefix costs in the language model is computed once, when its node is made. In the beam a node has
two masses, of the alignments that end in a blank and of those that end in its label, in the linear domain and relative
to the best of the frame: adding them up needs no logarithm. Its weight exp(score + open - reference) multiplies them:

    score    ln: LM, word bonus and hotwords of the finished words (or of all labels, if the LM scores labels)
    open     ln: what the word that is being spelled is lent: look-ahead, a hotword's share, a penalty if no word of
             the vocabulary starts so; given back when the word is finished

Labels that spell nothing (the blank, sentence marks) are blanks. A space at the start of the text or after another
space spells nothing either. T frames, V labels. Calls pass
int64, as functions would be compiled once more for every other type of number.
"""

import math
from typing import NamedTuple

import numpy as np
from numba import njit

from hfaudio.decoding.hotwords import Hotwords, follow
from hfaudio.decoding.lexicon import SPACE, Trie, find_child
from hfaudio.ngram.compiled import compiled, inlined
from hfaudio.ngram.query import Kernel, step

LN10 = math.log(10.0)
UNKNOWN_WORD, SENTENCE_END = 0, 2  # ids of <unk> and </s> in every NGramLM
BLANK, SPACE_LABEL, LETTERS, WORD_START = 0, 1, 2, 3  # kinds of label: "", " ", "ing", " the"
FAR = 1e100  # weights are taken relative to another reference before they leave [1 / FAR, FAR]
RANKED_EVERY = 64  # new entries of a frame after which the K-th best of them is looked up again

# A prefix. `state` and `score` hold after the finished words; the closed_ fields if the open word ended here.
NODE = np.dtype(
    [
        ("parent", "i4"),
        ("token", "i4"),  # last label, -1 at the root
        ("child", "i4"),  # first child and next sibling, -1 for none
        ("sibling", "i4"),
        ("letters", "i4"),  # of the open word; 0 where a word starts
        ("trie", "i4"),  # node of the vocabulary for the open word, -1 outside
        ("hotword", "i4"),  # state of the hotword automaton
        ("frame", "i4"),  # the frame in which `slot` is valid
        ("slot", "i4"),
        ("child_frame", "i4"),  # the last frame in which a child was in the beam
        ("is_closed", "?"),  # the closed_ fields are computed
        ("state", "i8"),  # of the LM
        ("closed_state", "i8"),
        ("score", "f8"),
        ("open", "f8"),
        ("closed_score", "f8"),
    ],
    align=True,
)
# A prefix in the beam.
ENTRY = np.dtype([("node", "i4"), ("blank", "f8"), ("label", "f8"), ("weight", "f8")], align=True)
# What the search keeps between calls; `log_scale` is the ln of the factor that was taken out of all masses.
PROGRESS = np.dtype(
    [("frame", "i4"), ("nodes", "i4"), ("entries", "i4"), ("reference", "f8"), ("log_scale", "f8")], align=True
)


class Labels(NamedTuple):
    """What the labels spell and which units of a label LM they are; arrays over labels, (V,) or flat with (V + 1,)."""

    kind: np.ndarray  # (V,) int8
    first_symbol: np.ndarray  # (V + 1,) int32: the letters of label v are symbols[first_symbol[v]:first_symbol[v + 1]]
    symbols: np.ndarray
    first_unit: np.ndarray  # (V + 1,) int32, all 0 where the LM scores words
    units: np.ndarray
    space_unit: int  # LM unit of the space before a word, -1 where it is part of the label's unit
    blanks: np.ndarray  # ids of the labels that spell nothing
    spaces: np.ndarray  # ids of those that spell a space alone


class Rules(NamedTuple):
    """Settings, as the compiled code wants them."""

    alpha: float  # of ln probabilities
    word_bonus: float
    unknown_offset: float  # ln10 * alpha * unk_score_offset, at the end of an unknown word
    open_unknown: float  # unk_score_offset, while it is being spelled
    beam_width: int
    token_min_logp: float
    beam_prune: float  # exp(beam_prune_logp)
    scores_words: bool  # the LM is one of words
    scores_labels: bool  # the LM is one of characters or word pieces
    score_boundary: bool
    look_ahead: bool
    has_lexicon: bool
    has_hotwords: bool
    recombine: bool


class Workspace(NamedTuple):
    """Memory of one search; grown by the caller when `advance` stops early."""

    nodes: np.ndarray  # NODE
    beam: np.ndarray  # ENTRY, the beam before the frame
    slots: np.ndarray  # ENTRY, the beam after the frame
    ranking: np.ndarray  # (2 * slots,) float64
    labels: np.ndarray  # (V,) int32, candidates of the frame
    probabilities: np.ndarray  # (V,) float64
    table: np.ndarray  # (a power of two, 2) int32: frame and place in the beam, for recombination
    progress: np.ndarray  # PROGRESS (1,)


@compiled
def start(work: Workspace, state: int) -> None:
    """The empty prefix alone in the beam, with the LM in `state`."""
    root = work.nodes[0]
    root.parent = root.token = root.child = root.sibling = -1
    root.letters = root.trie = root.hotword = root.slot = 0
    root.frame = root.child_frame = -1
    root.is_closed = False
    root.state = root.closed_state = state
    root.score = root.open = root.closed_score = 0.0
    entry = work.beam[0]
    entry.node, entry.blank, entry.label, entry.weight = 0, 1.0, 0.0, 1.0
    progress = work.progress[0]
    progress.frame, progress.nodes, progress.entries, progress.reference, progress.log_scale = 0, 1, 1, 0.0, 0.0
    work.table[:, 0] = -1


@compiled
def advance(
    log_probs: np.ndarray,
    first: int,
    labels: Labels,
    lexicon: Trie,
    hotwords: Hotwords,
    lm: Kernel,
    rules: Rules,
    work: Workspace,
) -> int:
    """Search frames from `first` of (T, V) on; returns the first one that was not searched.

    That is T, unless the workspace is too small for the next frame, or (as -1 - t) frame t gives no label a mass.
    """
    nodes, beam, slots, progress = work.nodes, work.beam, work.slots, work.progress[0]
    for t in range(first, log_probs.shape[0]):
        count, blank = select_labels(log_probs[t], labels, rules.token_min_logp, work)
        entries, used, best = progress.entries, 0, 0.0
        # A closed vocabulary may go on with none of the candidates: then all labels are.
        for is_last_try in (False, True):
            if count == 0:
                break
            room = entries * count
            if progress.nodes + room > len(nodes) or entries + room > len(slots):
                return t
            frame = progress.frame = progress.frame + 1
            used, best = stay(frame, count, blank, work)
            used, best = extend(frame, count, used, best, labels, lexicon, hotwords, lm, rules, work)
            if best > 0.0 or is_last_try:
                break
            count, blank = select_labels(log_probs[t], labels, -math.inf, work)
        if count == 0 and blank > 0.0:
            pass_blank(blank, rules.beam_prune, beam, progress)
            continue
        if best == 0.0:
            return -1 - t
        progress.entries = prune(used, best, rules, work)
        progress.log_scale += math.log(best)
        if rules.recombine:
            progress.entries = recombine(progress.frame, work)
        lead(beam, progress.entries)
        if not 1.0 / FAR < beam[0].weight < FAR:
            rebase(nodes, beam, progress)
    return log_probs.shape[0]


@compiled
def select_labels(row: np.ndarray, labels: Labels, minimum: float, work: Workspace) -> tuple[int, float]:
    """Candidates of a frame, those of at least `minimum` (or the best one): their number, and the blanks' mass."""
    above = 0
    for value in row:
        above += value >= minimum  # no branch, so several at once: most frames have the blank alone
    if above == 1 and row[labels.blanks[0]] >= minimum:
        return 0, math.exp(row[labels.blanks[0]])
    count, blank = 0, 0.0
    found = False
    for label in range(len(row)):
        if row[label] >= minimum:
            found = True
            if labels.kind[label] == BLANK:
                blank += math.exp(row[label])
            else:
                work.labels[count] = label
                work.probabilities[count] = math.exp(row[label])
                count += 1
    if not found:
        label = int(row.argmax())
        if labels.kind[label] == BLANK:
            blank = math.exp(row[label])
        else:
            work.labels[0] = label
            work.probabilities[0] = math.exp(row[label])
            count = 1
    return count, blank


@compiled
def pass_blank(blank: float, beam_prune: float, beam: np.ndarray, progress: np.record) -> None:
    """A frame in which only the blank counts: nothing grows, entries only fall below the bound."""
    best = 0.0
    for i in range(progress.entries):
        entry = beam[i]
        entry.blank += entry.label
        entry.label = 0.0
        best = max(best, entry.blank * entry.weight)
    kept = 0
    for i in range(progress.entries):
        entry = beam[i]
        if entry.blank * entry.weight >= best * beam_prune:
            target = beam[kept]
            target.node, target.blank, target.label, target.weight = entry.node, entry.blank / best, 0.0, entry.weight
            kept += 1
    progress.entries = kept
    progress.log_scale += math.log(best) + math.log(blank)


@compiled
def stay(frame: int, count: int, blank: float, work: Workspace) -> tuple[int, float]:
    """Every prefix stays what it is by a blank or by its last label again; returns the slots used and the best."""
    best = 0.0
    entries = work.progress[0].entries
    for i in range(entries):
        entry, slot = work.beam[i], work.slots[i]
        node = work.nodes[entry.node]
        node.frame = frame
        node.slot = i
        if node.parent >= 0:
            work.nodes[node.parent].child_frame = frame
        again = 0.0
        for k in range(count):
            if work.labels[k] == node.token:
                again = work.probabilities[k]
        slot.node, slot.weight = entry.node, entry.weight
        slot.blank = (entry.blank + entry.label) * blank
        slot.label = entry.label * again
        best = max(best, max(slot.blank, slot.label) * slot.weight)
    return entries, best


@compiled
def extend(
    frame: int,
    count: int,
    used: int,
    best: float,
    labels: Labels,
    lexicon: Trie,
    hotwords: Hotwords,
    lm: Kernel,
    rules: Rules,
    work: Workspace,
) -> tuple[int, float]:
    """Every prefix gets every candidate label; returns the slots used and the best entry.

    A child that is not in the beam yet gets mass from this parent alone, so its entry is known before it is made.
    `bar` is a lower bound of what will be kept: it is passed by everything that could be, and it rises.
    """
    nodes, slots, progress = work.nodes, work.slots, work.progress[0]
    bar = best * rules.beam_prune
    ranked = used
    most = 0.0
    for k in range(count):
        most = max(most, work.probabilities[k])
    gain = math.exp(max(rules.word_bonus, 0.0))
    for i in range(progress.entries):
        entry = work.beam[i]
        parent, blank, weight = entry.node, entry.blank, entry.weight
        total = blank + entry.label
        node = nodes[parent]
        if used - ranked >= RANKED_EVERY and used >= rules.beam_width:
            bar = max(bar, kth_entry(slots, np.int64(used), rules.beam_width, bar, work.ranking))
            ranked = used
        # all of a parent's new children at once, if none of them is in the beam and its spaces do not come back to it
        if node.child_frame != frame and node.letters > 0 and not rules.has_hotwords:
            if total * weight * most * gain * math.exp(-min(node.open, 0.0)) < bar:
                continue
        for k in range(count):
            label = work.labels[k]
            mass = (blank if label == node.token else total) * work.probabilities[k]
            if mass == 0.0:
                continue
            kind = labels.kind[label]
            if kind == SPACE_LABEL and node.letters == 0:
                slots[node.slot].label += mass
                continue
            child = node.child
            while child >= 0 and nodes[child].token != label:
                child = nodes[child].sibling
            if child >= 0 and nodes[child].frame == frame:
                slots[nodes[child].slot].label += mass
                continue
            if child < 0:
                child = make_child(
                    parent, label, mass * weight, bar, labels, lexicon, hotwords, lm, rules, nodes, progress
                )
                if child < 0:
                    continue
            new = nodes[child]
            change = (new.score + new.open) - (node.score + node.open)
            new_weight = weight if change == 0.0 else math.exp(new.score + new.open - progress.reference)
            if mass * new_weight < bar:
                continue
            best = max(best, mass * new_weight)
            bar = max(bar, best * rules.beam_prune)
            new.frame = frame
            new.slot = used
            slot = slots[used]
            slot.node, slot.blank, slot.label, slot.weight = child, 0.0, mass, new_weight
            used += 1
    for k in range(used):  # entries have grown since
        best = max(best, max(slots[k].blank, slots[k].label) * slots[k].weight)
    return used, best


@inlined
def make_child(
    parent: int,
    label: int,
    mass: float,
    bar: float,
    labels: Labels,
    lexicon: Trie,
    hotwords: Hotwords,
    lm: Kernel,
    rules: Rules,
    nodes: np.ndarray,
    progress: np.record,
) -> int:
    """The prefix with one more label as a new node, or -1 if its entry (`mass` times a factor) is below the bar."""
    node = nodes[parent]
    kind = labels.kind[label]
    closes = kind != LETTERS and node.letters > 0
    trie, hotword, letters = node.trie, node.hotword, node.letters
    gain = 0.0  # ln: the most that closing the word can add, apart from `open`; ln probabilities are not above 0
    if closes:
        if node.is_closed:
            gain = node.closed_score - node.score
        else:
            gain = max(rules.word_bonus, 0.0)
            if rules.has_hotwords and hotword >= 0:
                gain += hotwords.bonus[hotword]
        trie, letters = 0, 0
        if rules.has_hotwords:
            hotword = follow(hotwords, np.int64(hotword), np.int64(SPACE))
    for k in range(labels.first_symbol[label], labels.first_symbol[label + 1]):
        if trie >= 0:
            trie = find_child(lexicon, np.int64(trie), np.int64(labels.symbols[k]))
        if rules.has_hotwords:
            hotword = follow(hotwords, np.int64(hotword), np.int64(labels.symbols[k]))
        letters += 1
    opened = open_score(trie, hotword, letters, lexicon, hotwords, rules)
    if mass * math.exp(opened - node.open + gain) < bar:
        return -1
    score, state = node.score, node.state
    if closes:
        close_word(parent, lexicon, hotwords, lm, rules, nodes)
        score, state = node.closed_score, node.closed_state
    if rules.scores_labels:
        if closes and labels.space_unit >= 0:
            score, state = score_unit(score, state, labels.space_unit, lm, rules)
        for k in range(labels.first_unit[label], labels.first_unit[label + 1]):
            score, state = score_unit(score, state, np.int64(labels.units[k]), lm, rules)
    if not mass * math.exp(score + opened - node.score - node.open) >= bar or score + opened == -math.inf:
        return -1
    child = progress.nodes
    progress.nodes += 1
    new = nodes[child]
    new.parent, new.token, new.child, new.sibling = parent, label, -1, node.child
    node.child = child
    new.letters, new.trie, new.hotword = letters, trie, hotword
    new.frame = new.child_frame = -1
    new.slot = 0
    new.is_closed = False
    new.state, new.score, new.open = state, score, opened
    return child


@inlined
def open_score(trie: int, hotword: int, letters: int, lexicon: Trie, hotwords: Hotwords, rules: Rules) -> float:
    """What the open word is lent: ln, -inf where no word may start so."""
    lent = 0.0
    if rules.has_hotwords and hotword >= 0:
        lent = hotwords.potential[hotword]
    if letters == 0 or not rules.has_lexicon:
        return lent
    if trie >= 0:
        return lent + rules.alpha * lexicon.best[trie] if rules.look_ahead else lent
    if rules.has_hotwords and hotword >= 0:
        return lent
    # pyctcdecode's penalty: once for up to six letters, then in proportion
    return rules.open_unknown * max(1.0, letters / 6.0)


@compiled
def score_unit(score: float, state: int, unit: int, lm: Kernel, rules: Rules) -> tuple[float, int]:
    """Score and LM state after one label of an LM of labels."""
    log10_prob, next_state = step(lm, state, unit)
    score += rules.alpha * LN10 * log10_prob
    if unit == UNKNOWN_WORD:
        score += rules.unknown_offset
    return score, next_state


@compiled
def close_word(index: int, lexicon: Trie, hotwords: Hotwords, lm: Kernel, rules: Rules, nodes: np.ndarray) -> None:
    """Fill the closed_ fields of a node: score and LM state if its open word ended there."""
    node = nodes[index]
    if node.is_closed:
        return
    node.is_closed = True
    node.closed_score, node.closed_state = node.score, node.state
    if node.letters == 0:
        return
    known = rules.has_lexicon and node.trie >= 0 and lexicon.word[node.trie] >= 0
    word = lexicon.word[node.trie] if known else UNKNOWN_WORD
    if rules.has_hotwords and node.hotword >= 0:
        node.closed_score += hotwords.bonus[node.hotword]
        known |= hotwords.is_word[node.hotword]
    node.closed_score += rules.word_bonus
    if rules.has_lexicon and not known:
        node.closed_score += rules.unknown_offset
    if rules.scores_words:
        log10_prob, node.closed_state = step(lm, node.state, np.int64(word))
        node.closed_score += rules.alpha * LN10 * log10_prob


@compiled
def kth_entry(slots: np.ndarray, used: int, k: int, bar: float, ranking: np.ndarray) -> float:
    """The k-th highest entry of at least `bar`, or 0 if there are fewer."""
    size = np.int64(0)
    for i in range(used):
        slot = slots[i]
        for mass in (slot.blank, slot.label):
            ranking[size] = mass * slot.weight
            size += ranking[size] >= bar
    return kth_highest(ranking, size, k) if size > k else 0.0


@compiled
def kth_highest(values: np.ndarray, size: int, k: int) -> float:
    """The k-th highest of values[:size], which it reorders (Hoare's quickselect)."""
    low, high, k = 0, size - 1, k - 1
    while low < high:
        pivot = values[(low + high) >> 1]
        i, j = low, high
        while i <= j:
            while values[i] > pivot:
                i += 1
            while values[j] < pivot:
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                i += 1
                j -= 1
        if k <= j:
            high = j
        elif k >= i:
            low = i
        else:
            break
    return values[k]


@compiled
def prune(used: int, best: float, rules: Rules, work: Workspace) -> int:
    """Copy the `beam_width` best entries (a prefix has up to two) within the bound to the beam; their prefixes.

    Of equal entries at the limit the first ones stay: prefixes that were there, then new ones by parent and label.
    """
    threshold = best * rules.beam_prune
    limit = kth_entry(work.slots, np.int64(used), rules.beam_width, threshold, work.ranking)
    ties = len(work.ranking) if threshold > 0.0 else 0  # nothing has to be dropped, unless it has no mass
    if limit >= threshold and limit > 0.0:
        threshold = limit
        ties = rules.beam_width
        for i in range(used):
            slot = work.slots[i]
            ties -= (slot.blank * slot.weight > threshold) + (slot.label * slot.weight > threshold)
    kept = 0
    for i in range(used):
        slot = work.slots[i]
        blank, label = slot.blank * slot.weight, slot.label * slot.weight
        if blank == threshold:
            ties -= 1
        keeps_blank = blank > threshold or (blank == threshold and ties >= 0)
        if label == threshold:
            ties -= 1
        keeps_label = label > threshold or (label == threshold and ties >= 0)
        if keeps_blank or keeps_label:
            entry = work.beam[kept]
            entry.node, entry.weight = slot.node, slot.weight
            entry.blank = slot.blank / best if keeps_blank else 0.0
            entry.label = slot.label / best if keeps_label else 0.0
            kept += 1
    return kept


@compiled
def recombine(frame: int, work: Workspace) -> int:
    """Of prefixes with the same future (LM state, open word, last label) keep the best; returns how many are left.

    What follows adds the same to each of them. Only words of the vocabulary: others differ in what they spell.
    """
    nodes, beam, table = work.nodes, work.beam, work.table
    mask = len(table) - 1
    kept = 0
    for i in range(work.progress[0].entries):
        entry = beam[i]
        node = nodes[entry.node]
        place = kept
        if node.trie >= 0:
            key = node.state * 0x9E3779B1 + node.trie * 0x85EBCA77 + node.token * 0xC2B2AE3D + node.hotword
            cell = (key ^ (key >> 29)) & mask
            while table[cell, 0] == frame:
                other = nodes[beam[table[cell, 1]].node]
                if (
                    other.state == node.state
                    and other.trie == node.trie
                    and other.token == node.token
                    and other.hotword == node.hotword
                ):
                    place = table[cell, 1]
                    break
                cell = (cell + 1) & mask
            table[cell, 0], table[cell, 1] = frame, place
        rival = beam[place]
        if place < kept:
            if (entry.blank + entry.label) * entry.weight <= (rival.blank + rival.label) * rival.weight:
                continue
        else:
            kept += 1
        rival.node, rival.blank, rival.label, rival.weight = entry.node, entry.blank, entry.label, entry.weight
    return kept


@compiled
def lead(beam: np.ndarray, entries: int) -> None:
    """Bring the best prefix to the front, so that the bar of the next frame is high from the start."""
    best, place = -1.0, 0
    for i in range(entries):
        value = (beam[i].blank + beam[i].label) * beam[i].weight
        if value > best:
            best, place = value, i
    if place > 0:
        a, b = beam[0], beam[place]
        a.node, b.node = b.node, a.node
        a.blank, b.blank = b.blank, a.blank
        a.label, b.label = b.label, a.label
        a.weight, b.weight = b.weight, a.weight


@compiled
def rebase(nodes: np.ndarray, beam: np.ndarray, progress: np.record) -> None:
    """Take weights relative to the highest score in the beam, and masses to the best entry."""
    progress.reference = -math.inf
    for i in range(progress.entries):
        node = nodes[beam[i].node]
        progress.reference = max(progress.reference, node.score + node.open)
    best = 0.0
    for i in range(progress.entries):
        entry = beam[i]
        node = nodes[entry.node]
        entry.weight = math.exp(node.score + node.open - progress.reference)
        best = max(best, max(entry.blank, entry.label) * entry.weight)
    for i in range(progress.entries):
        beam[i].blank /= best
        beam[i].label /= best
    progress.log_scale += math.log(best)


@compiled
def finish(
    labels: Labels,
    lexicon: Trie,
    hotwords: Hotwords,
    lm: Kernel,
    rules: Rules,
    work: Workspace,
    ends: np.ndarray,
    acoustic: np.ndarray,
    other: np.ndarray,
) -> int:
    """Fill `ends` with the prefixes in the beam as whole texts, with their ln scores; returns how many.

    A text with a space after it is the same text, and their masses are added. `other` is everything but the acoustic
    score; it is -inf where the text ends inside a word that a closed vocabulary does not have.
    """
    nodes, progress = work.nodes, work.progress[0]
    frame = progress.frame = progress.frame + 1
    count = 0
    for i in range(progress.entries):
        entry = work.beam[i]
        index = entry.node
        token = nodes[index].token
        if index > 0 and labels.kind[token] == SPACE_LABEL:
            index = nodes[index].parent
        node = nodes[index]
        if node.frame != frame:
            node.frame = frame
            node.slot = count
            ends[count], acoustic[count] = index, 0.0
            count += 1
        acoustic[node.slot] += entry.blank + entry.label
    for k in range(count):
        close_word(ends[k], lexicon, hotwords, lm, rules, nodes)
        node = nodes[ends[k]]
        acoustic[k] = math.log(acoustic[k]) + progress.log_scale
        other[k] = node.closed_score
        if rules.score_boundary and (rules.scores_words or rules.scores_labels):
            log10_prob, _ = step(lm, node.closed_state, np.int64(SENTENCE_END))
            other[k] += rules.alpha * LN10 * log10_prob
    return count


@njit(cache=True, nogil=True, error_model="numpy")
def path(nodes: np.ndarray, end: int) -> np.ndarray:
    """Labels (N,) int32 from the root (whose own label is not among them) to a node."""
    size, index = 0, end
    while index > 0:
        size += 1
        index = nodes[index].parent
    tokens = np.empty(size, np.int32)
    index = end
    while index > 0:
        size -= 1
        tokens[size] = nodes[index].token
        index = nodes[index].parent
    return tokens


@compiled
def settled(labels: Labels, work: Workspace) -> int:
    """The last prefix that all hypotheses in the beam share, without a space at its end."""
    nodes, beam = work.nodes, work.beam
    common = beam[0].node
    for i in range(1, work.progress[0].entries):
        other = beam[i].node
        while common != other:  # a parent is always made before its children
            if common > other:
                common = nodes[common].parent
            else:
                other = nodes[other].parent
    if common > 0 and labels.kind[nodes[common].token] == SPACE_LABEL:
        common = nodes[common].parent
    return common


@compiled
def compact(root: int, places: np.ndarray, work: Workspace) -> int:
    """Keep only what leads from `root` to the beam, in the same order, with `root` as node 0; returns their number.

    A prefix that is dropped and comes back is computed again, to the same values. `places` (nodes,) is scratch.
    """
    nodes, progress = work.nodes, work.progress[0]
    places[: progress.nodes] = -1
    for i in range(progress.entries):
        index = work.beam[i].node
        while places[index] < 0:
            places[index] = 0
            if index == root:
                break
            index = nodes[index].parent
    kept = 0
    for index in range(root, progress.nodes):
        if places[index] < 0:
            continue
        places[index] = kept
        nodes[kept] = nodes[index]
        node = nodes[kept]
        node.child = -1
        if kept == 0:
            node.parent = node.sibling = -1
        else:  # older siblings stay behind younger ones, as they were
            node.parent = places[node.parent]
            above = nodes[node.parent]
            node.sibling = above.child
            above.child = kept
        kept += 1
    progress.nodes = kept
    for i in range(progress.entries):
        work.beam[i].node = places[work.beam[i].node]
    return kept
