"""CTC prefix beam search with an n-gram language model, a vocabulary and hotwords.

    decoder = BeamSearchDecoder(labels, NGramLM.load("lm/"), alpha=0.5, beta=1.5)
    decoder.decode(log_probs).text

The score of a text is the sum over all alignments of the acoustic model's probabilities (ln), and for each word

    alpha * ln p(word | words before) + beta

with p(<unk>) and `unk_score_offset` for words that the LM does not know, as in pyctcdecode, and p(</s>) at the end.
"""

import copy
import dataclasses
import itertools
import logging
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from numba import njit
from numba.core import event

from hfaudio.decoding.confidence import Calibration
from hfaudio.decoding.greedy import Word
from hfaudio.decoding.hotwords import Hotwords, build_hotwords, hotword_weights
from hfaudio.decoding.lexicon import Alphabet, Trie, build_trie
from hfaudio.decoding.search import (
    BLANK,
    ENTRY,
    LETTERS,
    LN10,
    NODE,
    PROGRESS,
    SPACE_LABEL,
    UNKNOWN_WORD,
    WORD_START,
    Labels,
    Rules,
    Workspace,
    advance,
    compact,
    finish,
    path,
    settled,
    start,
)
from hfaudio.decoding.token_times import MARGIN, token_times
from hfaudio.ngram.model import NGramLM
from hfaudio.ngram.query import Kernel, step
from hfaudio.ngram.table import MARKS, NGramTable

logger = logging.getLogger(__name__)

NODES = 1 << 15  # first size of a workspace's tree, 3 MB; a sharp 10-second utterance takes 2,000 nodes
SETTLED_EVERY = 500  # frames after which a stream gives up what it no longer needs
WORD_MARK = "\u2581"  # how label LMs write a space

Times = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]  # labels (N,) -> frames (N, 2), sums (N,)
UNCALIBRATED = Calibration()


@dataclass(frozen=True)
class BeamSettings:
    """What is tuned for a model and saved beside it.

    Args:
        alpha: weight of the LM's ln probabilities.
        beta: ln bonus of each word; without an LM or a lexicon neither has a part.
        unk_score_offset: log10 penalty of a word that the LM does not know, on top of p(<unk>); -inf forbids them.
        beam_width: entries that survive a frame; a prefix has up to two, by whether it ends in a blank.
        token_min_logp: labels of a frame below this ln probability are left out, but for the best one.
        beam_prune_logp: entries this far (ln, negative) below the best one of a frame are dropped.
        hotword_weight: ln bonus of a hotword that comes without a weight of its own.
        score_boundary: the text starts after <s> and ends with </s>.
        look_ahead: words that are being spelled are lent the LM's unigram score of the best word they can become.
        recombine: of prefixes with the same future only the best is kept; n-best lists are made without.
    """

    alpha: float = 0.5
    beta: float = 1.5
    unk_score_offset: float = -10.0
    beam_width: int = 100
    token_min_logp: float = -8.0
    beam_prune_logp: float = -10.0
    hotword_weight: float = 10.0
    score_boundary: bool = True
    look_ahead: bool = True
    recombine: bool = True

    def __post_init__(self) -> None:
        if self.beam_width < 1:
            raise ValueError(f"beam_width is {self.beam_width}; the search needs a beam of at least 1")
        if not (math.isfinite(self.alpha) and self.alpha >= 0 and math.isfinite(self.beta)):
            raise ValueError(f"alpha is {self.alpha} and beta {self.beta}; alpha is at least 0 and both are finite")
        for name in ("unk_score_offset", "token_min_logp", "beam_prune_logp"):
            if not getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it is a logarithm of at most 0")


@dataclass(frozen=True, eq=False)
class Hypothesis:
    """A text with its ln scores (`score` is the sum of the other two) and N labels.

    When the labels and words were spoken is looked for when it is asked for: it costs a fifth of the search. Until
    then a hypothesis holds the log-probabilities of its utterance; `without_times` lets them go.
    """

    text: str
    score: float
    acoustic_score: float  # ln of the sum over alignments
    lm_score: float  # all else: LM, word bonus, unknown words, hotwords
    tokens: np.ndarray  # (N,) int32 label ids
    labels: Sequence[str]  # what label ids spell
    align: Callable[[], tuple[np.ndarray, np.ndarray]]  # frames and sums of the labels, and maybe of some after them
    seconds_per_frame: float = 1.0
    calibration: Calibration = UNCALIBRATED

    @cached_property
    def _times(self) -> tuple[np.ndarray, np.ndarray]:
        frames, sums = self.align()
        return frames[: len(self.tokens)], sums[: len(self.tokens)]

    def without_times(self) -> "Hypothesis":
        """The same text, scores and labels, for lists that are kept: it has no frames and no words."""
        return dataclasses.replace(self, align=no_times)

    @property
    def frames(self) -> np.ndarray:
        """First frame and frame after the last (N, 2) of each label, in the best alignment."""
        return self._times[0]

    @property
    def token_sums(self) -> np.ndarray:
        """Probabilities (N,) of each label, summed over its frames."""
        return self._times[1]

    @cached_property
    def words(self) -> list[Word]:
        """Words from their first letter's first frame to their last one's end, in seconds.

        A word's confidence is the mean probability of its labels over their frames, calibrated.
        """
        words: list[Word] = []
        spelled, first, end, total, count = "", 0, 0, 0.0, 0

        def close() -> None:
            if spelled:
                seconds = self.seconds_per_frame
                confidence = min(total / count, 1.0) if count else 0.0
                words.append(Word(spelled, first * seconds, end * seconds, confidence))

        rows = zip(self.tokens.tolist(), self.frames.tolist(), self.token_sums.tolist(), strict=True)
        for token, (token_first, token_end), token_sum in rows:
            label = self.labels[token]
            letters = label.lstrip(" ")
            if label != letters:
                close()
                spelled, total, count = "", 0.0, 0
            if letters:
                first = first if spelled else token_first
                spelled += letters
                end, total, count = token_end, total + token_sum, count + token_end - token_first
        close()
        confidences = self.calibration.apply([word.confidence for word in words])
        return [dataclasses.replace(word, confidence=float(c)) for word, c in zip(words, confidences, strict=True)]


class BeamSearchDecoder:
    """Texts from CTC log-probabilities.

    Args:
        labels: what each id spells: "" for the blank and marks, " " for the space, " the" for a piece that starts a
            word, as `hfaudio.processing.tokenizer.ctc_labels` gives them.
        lm: of words (looked up where a word ends), or of the labels' characters or pieces (`lm.unit`).
        lexicon: words that count as known beside the LM's; without a word LM, the only ones that are.
        hotwords: phrases that get a bonus where they are recognised, with or without weights (ln).
        blank_id: id of the CTC blank; the first label that spells nothing if not given.
        seconds_per_frame: for the times of words; frames if left at 1.
        calibration: of the words' confidences (`hfaudio.decoding.confidence.calibrate`).
        **settings: the other fields of `BeamSettings`.

    Raises:
        ValueError: labels without a blank or with spaces inside, an LM none of whose words the labels can spell.
    """

    def __init__(
        self,
        labels: Sequence[str],
        lm: NGramLM | None = None,
        alpha: float = BeamSettings.alpha,
        beta: float = BeamSettings.beta,
        beam_width: int = BeamSettings.beam_width,
        lexicon: Iterable[str] | None = None,
        hotwords: Mapping[str, float] | Sequence[str] | None = None,
        *,
        blank_id: int | None = None,
        seconds_per_frame: float = 1.0,
        calibration: Calibration = UNCALIBRATED,
        **settings: Any,
    ) -> None:
        self.labels = tuple(labels)
        self.lm = lm
        self.seconds_per_frame = seconds_per_frame
        self.calibration = calibration
        self.blank_id = self.labels.index("") if blank_id is None and "" in self.labels else blank_id
        if self.blank_id is None or not 0 <= self.blank_id < len(self.labels):
            raise ValueError(
                f"blank_id is {blank_id} and there are {len(self.labels)} labels; give the id of the CTC blank"
            )
        spelled = ["" if i == self.blank_id else label for i, label in enumerate(self.labels)]
        self._alphabet = Alphabet.of(spelled)
        self._labels = encode_labels(spelled, self._alphabet, lm)
        words = list(lexicon) if lexicon is not None else []
        self._has_lexicon = lexicon is not None or (lm is not None and lm.unit == "word")
        self._lexicon = build_lexicon(words, self._alphabet, lm if self._has_lexicon else None)
        self._lm_kernel = (lm or no_lm()).kernel
        self._hotword_list = hotwords
        self._workspaces: list[Workspace] = []
        self.settings = BeamSettings(alpha=alpha, beta=beta, beam_width=beam_width, **settings)
        self._rules = make_rules(self.settings, lm, self._has_lexicon)
        self._hotwords = self._encode_hotwords(hotwords)

    @classmethod
    def from_settings(
        cls, labels: Sequence[str], lm: NGramLM | None, settings: BeamSettings, **options: Any
    ) -> "BeamSearchDecoder":
        """A decoder with these settings; `options` are the other arguments of the constructor."""
        return cls(labels, lm, **options, **dataclasses.asdict(settings))

    def with_settings(self, **changes: Any) -> "BeamSearchDecoder":
        """The same decoder with other fields of `BeamSettings`; LM and vocabulary are shared, so it costs little."""
        decoder = copy.copy(self)
        decoder.settings = dataclasses.replace(self.settings, **changes)
        decoder._rules = make_rules(decoder.settings, self.lm, self._has_lexicon)
        if decoder.settings.hotword_weight != self.settings.hotword_weight:
            decoder._hotwords = decoder._encode_hotwords(self._hotword_list)
        return decoder

    def with_calibration(self, calibration: Calibration) -> "BeamSearchDecoder":
        """The same decoder with another calibration of its words' confidences."""
        decoder = copy.copy(self)
        decoder.calibration = calibration
        return decoder

    def decode(
        self,
        log_probs: np.ndarray | torch.Tensor,
        *,
        length: int | None = None,
        logits: bool = False,
        hotwords: Mapping[str, float] | Sequence[str] | None = None,
    ) -> Hypothesis:
        """The best hypothesis for ln probabilities (T, V), of any float type and on any device.

        Args:
            length: frames that count; the rest is padding.
            logits: the values are logits, to be normalised.
            hotwords: instead of the decoder's.

        Raises:
            ValueError: another shape than (T, V), NaN, values above 0, a frame in which no label has a probability.
        """
        values = self._prepare(log_probs, length, logits)
        hotwords_encoded, rules = self._for_hotwords(hotwords)
        with self._workspace(rules, values.shape[1]) as work, announced_compilation():
            end, tokens, acoustic, other = decode_best(
                values, self._labels, self._lexicon, hotwords_encoded, self._lm_kernel, rules, work[0]
            )
            if end < len(values) or other == -math.inf:
                search = Search(self, hotwords_encoded, rules, work)
                search.run(values)
                return search.hypotheses(1, partial(align_tokens, values, self._labels))[0]
        return self._hypothesis(tokens, acoustic, other, partial(align_tokens, values, self._labels, tokens))

    def decode_n_best(
        self,
        log_probs: np.ndarray | torch.Tensor,
        n: int,
        *,
        length: int | None = None,
        logits: bool = False,
        hotwords: Mapping[str, float] | Sequence[str] | None = None,
    ) -> list[Hypothesis]:
        """Up to n hypotheses of different texts, best first; arguments as `decode`'s.

        Prefixes with the same future are not recombined, so the best one may differ from `decode`'s in rare cases.
        """
        if n < 1:
            raise ValueError(f"n is {n}; ask for at least 1 hypothesis")
        values = self._prepare(log_probs, length, logits)
        hotwords_encoded, rules = self._for_hotwords(hotwords)
        rules = rules._replace(recombine=False)
        with self._workspace(rules, values.shape[1]) as work, announced_compilation():
            search = Search(self, hotwords_encoded, rules, work)
            search.run(values)
            return search.hypotheses(n, partial(align_tokens, values, self._labels))

    def decode_batch(
        self,
        batch: Sequence[np.ndarray | torch.Tensor] | np.ndarray | torch.Tensor,
        lengths: Sequence[int] | np.ndarray | torch.Tensor | None = None,
        num_threads: int | None = None,
        *,
        logits: bool = False,
        hotwords: Mapping[str, float] | Sequence[str] | None = None,
    ) -> list[Hypothesis]:
        """The best hypothesis of each utterance of a list, or of (B, T, V) with `lengths`; each as `decode` gives it.

        Threads share the work, as many as there are processors if not told.
        """
        if lengths is not None and len(lengths) != len(batch):
            raise ValueError(f"{len(lengths)} lengths for {len(batch)} utterances; give one for each")
        decoder = self if hotwords is None else self._with_hotwords(hotwords)
        hypotheses: list[Hypothesis | None] = [None] * len(batch)
        places = iter(range(len(batch)))  # shared: each thread takes the next utterance that is left

        def work() -> None:
            for place in places:
                length = None if lengths is None else int(lengths[place])
                hypotheses[place] = decoder.decode(batch[place], length=length, logits=logits)

        threads = min(num_threads or os.cpu_count() or 1, len(batch))
        if threads <= 1:
            work()
        else:
            with ThreadPoolExecutor(threads) as executor:
                for future in [executor.submit(work) for _ in range(threads)]:
                    future.result()
        return [hypothesis for hypothesis in hypotheses if hypothesis is not None]

    def stream(self, *, hotwords: Mapping[str, float] | Sequence[str] | None = None) -> "Stream":
        """A live search: push frames as they come, read the text so far."""
        return Stream(self if hotwords is None else self._with_hotwords(hotwords))

    def _with_hotwords(self, hotwords: Mapping[str, float] | Sequence[str]) -> "BeamSearchDecoder":
        decoder = copy.copy(self)
        decoder._hotword_list = hotwords
        decoder._hotwords = decoder._encode_hotwords(hotwords)
        return decoder

    def _for_hotwords(self, hotwords: Mapping[str, float] | Sequence[str] | None) -> tuple[Hotwords, Rules]:
        encoded = self._hotwords if hotwords is None else self._encode_hotwords(hotwords)
        return encoded, self._rules._replace(has_hotwords=len(encoded.bonus) > 1)

    def _encode_hotwords(self, hotwords: Mapping[str, float] | Sequence[str] | None) -> Hotwords:
        weights = hotword_weights(hotwords or {}, self.settings.hotword_weight)
        phrases = list(weights)
        spelled = self._alphabet.spells([phrase.replace(" ", "") for phrase in phrases])
        unspelled = [phrase for phrase, ok in zip(phrases, spelled, strict=True) if not ok]
        if unspelled:
            logger.warning(
                "%d of %d hotwords are left out, as the labels cannot spell them: %s",
                len(unspelled),
                len(phrases),
                ", ".join(map(repr, unspelled[:10])),
            )
        return build_hotwords(
            {phrase: weights[phrase] for phrase, ok in zip(phrases, spelled, strict=True) if ok}, self._alphabet
        )

    def _prepare(self, log_probs: np.ndarray | torch.Tensor, length: int | None, logits: bool) -> np.ndarray:
        """Checked ln probabilities (length, V), C-contiguous writeable float32: one type, so one compilation."""
        if isinstance(log_probs, torch.Tensor):
            log_probs = log_probs.detach().to("cpu", torch.float32).numpy()
        if log_probs.ndim != 2 or log_probs.shape[1] != len(self.labels):
            raise ValueError(
                f"expected log-probabilities (T, {len(self.labels)}) of one utterance, got shape {log_probs.shape}; "
                "decode_batch takes several, and the labels have to be those of the model"
            )
        if length is not None:
            if not 0 <= length <= len(log_probs):
                raise ValueError(f"length is {length} of {len(log_probs)} frames; give a number of frames")
            log_probs = log_probs[:length]
        values = np.array(log_probs, np.float32, order="C")  # a copy: times are looked for later
        top = values.max() if values.size else 0.0  # NaN if there is one
        if logits:
            if not top < math.inf:
                raise ValueError(f"the logits hold {top}: the model's training diverged, or half precision overflowed")
            return log_softmax(values)
        if not top <= 1e-3:
            frame = int(np.argmin((values <= 1e-3).all(1)))
            raise ValueError(
                f"frame {frame} has log-probability {values[frame].max()}, above 0 or NaN; pass logits with "
                "logits=True"
            )
        return values

    @contextmanager
    def _workspace(self, rules: Rules, num_labels: int) -> Iterator[list[Workspace]]:
        """Memory for one search, in a list so that it can be exchanged for a larger one; kept for the next search."""
        try:
            work = self._workspaces.pop()
        except IndexError:
            work = new_workspace(rules.beam_width, num_labels)
        if len(work.beam) <= rules.beam_width or len(work.labels) < num_labels:
            work = new_workspace(rules.beam_width, num_labels)
        start(work, self._start_state(rules))
        held = [work]
        yield held
        self._workspaces.append(held[0])

    def _start_state(self, rules: Rules) -> int:
        return int(self._lm_kernel.start_state) if rules.score_boundary else 0

    def _text(self, tokens: np.ndarray) -> str:
        return " ".join("".join([self.labels[token] for token in tokens.tolist()]).split())

    def _hypothesis(
        self,
        tokens: np.ndarray,
        acoustic: float,
        other: float,
        align: Callable[[], tuple[np.ndarray, np.ndarray]],
    ) -> Hypothesis:
        text = self._text(tokens)
        score, seconds, calibration = acoustic + other, self.seconds_per_frame, self.calibration
        return Hypothesis(text, score, acoustic, other, tokens, self.labels, align, seconds, calibration)


@dataclass(frozen=True)
class Partial:
    """What a stream has recognised so far; `stable_text` starts every text that can still come."""

    text: str
    stable_text: str


class Search:
    """One search that may need more memory as it goes on, between `BeamSearchDecoder._workspace`'s start and end."""

    def __init__(self, decoder: BeamSearchDecoder, hotwords: Hotwords, rules: Rules, work: list[Workspace]) -> None:
        self.decoder = decoder
        self.arguments = (decoder._labels, decoder._lexicon, hotwords, decoder._lm_kernel, rules)
        self.held = work
        self.settled: list[np.ndarray] = []  # labels before the root of the tree
        start(work[0], decoder._start_state(rules))

    def run(self, log_probs: np.ndarray) -> None:
        """Search these frames."""
        frame = 0
        while True:
            frame = advance(log_probs, frame, *self.arguments, self.held[0])
            if frame == len(log_probs):
                return
            if frame < 0:
                raise ValueError(
                    f"frame {-1 - frame} gives no label a probability; are the values log-probabilities (natural)?"
                )
            self.make_room(log_probs.shape[1])

    def settle(self) -> None:
        """Drop the tree but for what the beam descends from, and move the root to the last prefix that is sure."""
        work = self.held[0]
        root = settled(self.arguments[0], work)
        self.settled.append(path(work.nodes, root))
        compact(root, np.empty(work.progress[0]["nodes"], np.int32), work)

    def make_room(self, num_labels: int) -> None:
        """Compact the tree, then double what is less than half empty, until the next frame fits."""
        self.settle()
        work = self.held[0]
        progress = work.progress[0]
        room = int(progress["entries"]) * num_labels
        nodes, slots = len(work.nodes), len(work.slots)
        while nodes < 2 * (progress["nodes"] + room):
            nodes *= 2
        while slots < progress["entries"] + room:
            slots *= 2
        if nodes > len(work.nodes):
            grown = np.empty(nodes, NODE)
            grown[: progress["nodes"]] = work.nodes[: progress["nodes"]]
            work = work._replace(nodes=grown)
        if slots > len(work.slots):
            work = work._replace(slots=np.empty(slots, ENTRY), ranking=np.empty(2 * slots))
        self.held[0] = work

    def ends(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Last nodes, acoustic and other scores of the beam as whole texts."""
        work = self.held[0]
        size = int(work.progress[0]["entries"])
        nodes, acoustic, other = np.empty(size, np.int32), np.empty(size), np.empty(size)
        size = finish(*self.arguments, work, nodes, acoustic, other)
        return nodes[:size], acoustic[:size], other[:size]

    def tokens(self, node: int) -> np.ndarray:
        """Labels (N,) of a node, from the start of the text."""
        return np.concatenate([*self.settled, path(self.held[0].nodes, node)])

    def best(self) -> int:
        """The node that is ahead."""
        work = self.held[0]
        beam = work.beam[: work.progress[0]["entries"]]
        return int(beam["node"][np.argmax((beam["blank"] + beam["label"]) * beam["weight"])])

    def hypotheses(self, n: int, times: Times) -> list[Hypothesis]:
        """The n best texts; `times` aligns labels to frames."""
        nodes, acoustic, other = self.ends()
        if not (other > -math.inf).any():
            return [self.without_open_word(nodes, acoustic, times)]
        hypotheses: list[Hypothesis] = []
        texts: set[str] = set()
        for k in np.argsort(-(acoustic + other), kind="stable"):
            if len(hypotheses) == n or other[k] == -math.inf:
                break
            tokens = self.tokens(nodes[k])
            text = self.decoder._text(tokens)
            if text not in texts:  # word pieces spell a text in several ways
                texts.add(text)
                hypotheses.append(self.decoder._hypothesis(tokens, acoustic[k], other[k], partial(times, tokens)))
        return hypotheses

    def without_open_word(self, nodes: np.ndarray, acoustic: np.ndarray, times: Times) -> Hypothesis:
        """The best hypothesis where all of them end inside a word of a closed vocabulary: without that word."""
        tree = self.held[0].nodes[nodes]
        best = int(np.argmax(acoustic + tree["score"] + tree["open"]))
        tokens = self.tokens(nodes[best])
        lengths = np.diff(self.arguments[0].first_symbol)[tokens]
        open_labels = int(np.searchsorted(np.cumsum(lengths[::-1]), tree["letters"][best])) + 1
        kept = len(tokens) - open_labels
        score = float(tree["score"][best])
        return self.decoder._hypothesis(tokens[:kept], acoustic[best], score, partial(times, tokens))


class Stream:
    """A search over frames that are still coming, in memory that does not grow with their number.

        stream = decoder.stream()
        for log_probs in live:
            print(stream.push(log_probs).text)
        hypothesis = stream.finish()

    Kept are the frames and the tree since the last label on which the whole beam agrees.
    """

    def __init__(self, decoder: BeamSearchDecoder) -> None:
        self._decoder = decoder
        hotwords, rules = decoder._for_hotwords(None)
        work = new_workspace(rules.beam_width, len(decoder.labels))
        self._search = Search(decoder, hotwords, rules, [work])
        self._frames: list[np.ndarray] = []  # log-probabilities that the labels without times may lie in
        self._first = 0  # the number of the first of them
        self._times = [(np.empty((0, 2), np.int32), np.empty(0))]  # of the labels that have them

    def push(self, log_probs: np.ndarray | torch.Tensor, *, logits: bool = False) -> Partial:
        """Search more frames (T, V); T can be 0 or 1."""
        values = self._decoder._prepare(log_probs, None, logits)
        with announced_compilation():
            self._search.run(values)
        self._frames.append(values)
        if sum(map(len, self._frames)) >= SETTLED_EVERY:
            self._settle()
        text = self._decoder._text(self._search.tokens(self._search.best()))
        stable = settled(self._decoder._labels, self._search.held[0])
        return Partial(text, self._decoder._text(self._search.tokens(stable)))

    def peek(self, log_probs: np.ndarray | torch.Tensor) -> str:
        """The text if these frames (T, V) came next; they are not taken in."""
        search = copy.copy(self._search)
        search.held = [Workspace(*(array.copy() for array in self._search.held[0]))]
        search.settled = list(self._search.settled)
        with announced_compilation():
            search.run(self._decoder._prepare(log_probs, None, False))
        return self._decoder._text(search.tokens(search.best()))

    def finish(self) -> Hypothesis:
        """The best hypothesis if the utterance ends here."""
        return self._search.hypotheses(1, self._token_times)[0]

    def _token_times(self, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Frames and sums of all labels, of which the first ones have theirs already."""
        timed = sum(len(sums) for _, sums in self._times)
        log_probs = np.concatenate(self._frames) if self._frames else np.empty((0, len(self._decoder.labels)), "f4")
        frames, sums = token_times(log_probs, tokens[timed:], self._decoder._labels, MARGIN)
        all_frames, all_sums = zip(*self._times, (frames + self._first, sums), strict=True)
        return np.concatenate(all_frames), np.concatenate(all_sums)

    def _settle(self) -> None:
        """Give times to the labels on which the beam agrees, by aligning the text so far, and let their frames go."""
        self._search.settle()
        frames, sums = self._token_times(self._search.tokens(self._search.best()))
        count = sum(map(len, self._search.settled))
        self._times = [(frames[:count], sums[:count])]
        if count and frames[count - 1, 1] > self._first:
            log_probs = np.concatenate(self._frames)[frames[count - 1, 1] - self._first :]
            self._frames, self._first = [log_probs.copy()], int(frames[count - 1, 1])


@njit(cache=True, nogil=True, error_model="numpy")
def decode_best(
    log_probs: np.ndarray,
    labels: Labels,
    lexicon: Trie,
    hotwords: Hotwords,
    lm: Kernel,
    rules: Rules,
    work: Workspace,
) -> tuple[int, np.ndarray, float, float]:
    """Frames searched, then labels and scores of the best text, if that was all of them."""
    searched = advance(log_probs, 0, labels, lexicon, hotwords, lm, rules, work)
    tokens = np.empty(0, np.int32)
    acoustic_score, other_score = 0.0, -math.inf
    if searched == len(log_probs):
        size = work.progress[0].entries
        ends, acoustic, other = np.empty(size, np.int32), np.empty(size), np.empty(size)
        size = finish(labels, lexicon, hotwords, lm, rules, work, ends, acoustic, other)
        best = np.argmax(acoustic[:size] + other[:size])
        tokens = path(work.nodes, ends[best])
        acoustic_score, other_score = acoustic[best], other[best]
    return searched, tokens, acoustic_score, other_score


def align_tokens(log_probs: np.ndarray, labels: Labels, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Frames and sums of a hypothesis's labels."""
    return token_times(log_probs, tokens, labels, MARGIN)


def no_times() -> tuple[np.ndarray, np.ndarray]:
    raise ValueError("this hypothesis was kept without its times; ask for words before without_times()")


@njit(cache=True, nogil=True, error_model="numpy")
def log_softmax(logits: np.ndarray) -> np.ndarray:
    """ln probabilities (T, V) of logits; what is 30 below a frame's best adds less than float32 can hold."""
    log_probs = np.empty_like(logits)
    for t in range(logits.shape[0]):
        best = logits[t].max()
        total = 0.0
        for value in logits[t]:
            if value > best - 30.0:
                total += math.exp(value - best)
        norm = best + math.log(total)
        for label in range(logits.shape[1]):
            log_probs[t, label] = logits[t, label] - norm
    return log_probs


@njit(cache=True, nogil=True, error_model="numpy")
def unigram_log_probs(lm: Kernel, size: int) -> np.ndarray:
    """log10 p (size,) of every word in the empty context."""
    log_probs = np.empty(size)
    for word in range(size):
        log_probs[word] = step(lm, np.int64(0), np.int64(word))[0]
    return log_probs


def no_lm() -> NGramLM:
    """A model of nothing: what the compiled search is given where there is no LM, as it takes one type."""
    nothing = np.zeros(len(MARKS), np.int32)
    scores = np.zeros(len(MARKS), np.float32)
    return NGramLM.from_tables(
        list(MARKS), [NGramTable(nothing, np.arange(3, dtype=np.int32), nothing, scores, scores)]
    )


def encode_labels(labels: Sequence[str], alphabet: Alphabet, lm: NGramLM | None) -> Labels:
    """Labels as numbers: their kinds, letters, and units in an LM of characters or pieces."""
    letters = [label.lstrip(" ") for label in labels]
    for label, spelled in zip(labels, letters, strict=True):
        if " " in spelled:
            raise ValueError(f"label {label!r} has a space behind a letter; a label may only start with one")
    kinds = [
        BLANK if not label else SPACE_LABEL if not spelled else WORD_START if label != spelled else LETTERS
        for label, spelled in zip(labels, letters, strict=True)
    ]
    units: list[list[int]] = [[] for _ in labels]
    space_unit = -1
    if lm is not None and lm.unit == "char":
        space_unit = lm.word_id(WORD_MARK)
        units = [[lm.word_id(letter) for letter in spelled] for spelled in letters]
    elif lm is not None and lm.unit == "bpe":
        units = [[lm.word_id(label.replace(" ", WORD_MARK))] if label else [] for label in labels]
    kind = np.array(kinds, dtype=np.int8)
    return Labels(
        kind=kind,
        first_symbol=offsets(letters),
        symbols=alphabet.symbols("".join(letters)),
        first_unit=offsets(units),
        units=np.array(list(itertools.chain(*units)), dtype=np.int32),
        space_unit=space_unit,
        blanks=np.flatnonzero(kind == BLANK).astype(np.int32),
        spaces=np.flatnonzero(kind == SPACE_LABEL).astype(np.int32),
    )


def offsets(rows: Sequence[Sequence[Any]]) -> np.ndarray:
    """Where each row begins in all of them joined, and where the last one ends: (n + 1,) int32."""
    return np.cumsum([0, *map(len, rows)], dtype=np.int32)


def build_lexicon(words: Sequence[str], alphabet: Alphabet, lm: NGramLM | None) -> Trie:
    """The tree of the words of a word LM and others, with the unigram ln p of the best word below each node."""
    known = list(lm.words[len(MARKS) :]) if lm is not None and lm.unit == "word" else []
    texts = [*known, *words]
    numbers = np.concatenate([np.arange(len(known)) + len(MARKS), np.full(len(words), UNKNOWN_WORD)])
    values = np.zeros(len(texts))
    if known and lm is not None:
        values = LN10 * unigram_log_probs(lm.kernel, len(lm.words))[numbers]
    spelled = alphabet.spells(texts)
    if texts and not spelled.any():
        raise ValueError(
            f"the labels can spell none of the {len(texts)} words, such as {texts[0]!r}; are case and script the same?"
        )
    if not spelled.all():
        examples = ", ".join(repr(texts[i]) for i in np.flatnonzero(~spelled)[:5])
        logger.warning(
            "%d of %d words are left out, as the labels cannot spell them: %s", (~spelled).sum(), len(texts), examples
        )
    chosen = np.flatnonzero(spelled)
    return build_trie([texts[i] for i in chosen], alphabet, numbers=numbers[chosen], values=values[chosen])


def make_rules(settings: BeamSettings, lm: NGramLM | None, has_lexicon: bool) -> Rules:
    """Settings in the units of the search."""
    scores_words = lm is not None and lm.unit == "word"
    unknown = settings.unk_score_offset
    return Rules(
        alpha=settings.alpha,
        word_bonus=settings.beta if lm is not None or has_lexicon else 0.0,
        unknown_offset=settings.alpha * LN10 * unknown if math.isfinite(unknown) else unknown,
        open_unknown=unknown,
        beam_width=settings.beam_width,
        token_min_logp=settings.token_min_logp,
        beam_prune=math.exp(settings.beam_prune_logp),
        scores_words=scores_words,
        scores_labels=lm is not None and not scores_words,
        score_boundary=settings.score_boundary,
        look_ahead=settings.look_ahead,
        has_lexicon=has_lexicon,
        has_hotwords=False,
        recombine=settings.recombine and scores_words,
    )


def new_workspace(beam_width: int, num_labels: int) -> Workspace:
    """Memory for a beam; 64 labels a frame fit, and more are made room for when a frame has them."""
    slots = (beam_width + 1) * (min(num_labels, 64) + 1)
    return Workspace(
        nodes=np.empty(max(NODES, slots), NODE),
        beam=np.empty(beam_width + 1, ENTRY),
        slots=np.empty(slots, ENTRY),
        ranking=np.empty(2 * slots),
        labels=np.empty(num_labels, np.int32),
        probabilities=np.empty(num_labels),
        table=np.empty((1 << (4 * beam_width).bit_length(), 2), np.int32),
        progress=np.zeros(1, PROGRESS),
    )


class CompilationNotice(event.Listener):
    """Says once that the search is being compiled; nothing where numba finds it in its cache."""

    said = False

    def on_start(self, event: event.Event) -> None:
        if not CompilationNotice.said:
            CompilationNotice.said = True
            logger.warning("compiling the beam search, once; numba keeps it for the next time")

    def on_end(self, event: event.Event) -> None:
        pass


@contextmanager
def announced_compilation() -> Iterator[None]:
    """While numba compiles in here, the log says so."""
    if decode_best.overloads:
        yield
        return
    with event.install_listener("numba:compile", CompilationNotice()):
        yield
