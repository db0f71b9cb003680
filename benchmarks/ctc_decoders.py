"""The decoders that benchmarks/decoding.py compares, each as a class that is built from a `Task`.

A class has a `name`, the importable `modules` it needs, `points` (named settings, the first one its default), and
`decoder(**settings)`, which returns a function from log-probabilities (T, V) to text. What a decoder imports and loads
it does in `__init__`, so a process has what its decoder needs and no more. LM weight, word bonus, unknown-word score
and beam width are the task's for all.
"""

import itertools
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

if TYPE_CHECKING:
    from hfaudio.decoding.beam import BeamSearchDecoder

Decode = Callable[[np.ndarray], str]
Point = Mapping[str, Any]

BLANK = 0
PRIVATE = 0xE000  # first of the characters that Unicode leaves to private use


@dataclass(frozen=True)
class Task:
    """What every decoder gets."""

    labels: Sequence[str]  # what the ids spell; "" the blank (id 0) and other silent ones, " " between words
    words: Sequence[str]  # that the LM knows, without <unk>, <s> and </s>
    lm: str  # path: ARPA, or KenLM's probing .bin
    own_lm: str  # the same model as hfaudio saves it
    graph_arpa: str  # a pruned model for decoders that expand it into a graph
    alpha: float = 0.5
    beta: float = 1.5
    unk_score_offset: float = -10.0  # log10
    beam_width: int = 100

    @property
    def space(self) -> int:
        return self.labels.index(" ")

    def spelling(self, word: str) -> list[int]:
        """Label ids of a word and of the space after it."""
        return [self.labels.index(character) for character in f"{word} "]

    def text(self, ids: Sequence[int]) -> str:
        return " ".join("".join(self.labels[i] for i in ids).split())


class Contestant:
    """What the classes below are."""

    name: ClassVar[str]
    modules: ClassVar[tuple[str, ...]] = ()
    points: ClassVar[Mapping[str, Point]]

    def __init__(self, task: Task) -> None:
        self.task = task

    def decoder(self, *args: Any, **settings: Any) -> Decode:
        raise NotImplementedError


def missing(contestant: type[Contestant]) -> list[str]:
    """The modules that this decoder needs and that are not installed."""
    return [module for module in contestant.modules if find_spec(module) is None]


def with_last_space(log_probs: np.ndarray, space: int) -> np.ndarray:
    """One more frame, a certain space: decoders that accept whole lexicon words need an end for the last one."""
    frame = np.full((1, log_probs.shape[1]), -50.0, dtype=log_probs.dtype)
    frame[0, space] = 0
    return np.concatenate([log_probs, frame])


class Greedy(Contestant):
    """The best label of each frame, in NumPy: the floor of time and the ceiling of errors."""

    name = "greedy"
    points: ClassVar[Mapping[str, Point]] = {"best path": {}}

    def decoder(self, **settings: Any) -> Decode:
        def decode(log_probs: np.ndarray) -> str:
            ids = log_probs.argmax(1)
            return self.task.text(ids[np.flatnonzero(np.diff(ids, prepend=-1))])

        return decode


class HFAudio(Contestant):
    """`hfaudio.decoding.BeamSearchDecoder` with the word LM."""

    name = "hfaudio"
    points: ClassVar[Mapping[str, Point]] = {
        "default": {},
        "pyctcdecode's pruning (-5, -10)": {"token_min_logp": -5.0, "beam_prune_logp": -10.0},
        "-6, -10, beam 50": {"token_min_logp": -6.0, "beam_prune_logp": -10.0, "beam_width": 50},
        "-7, -10, beam 30": {"token_min_logp": -7.0, "beam_prune_logp": -10.0, "beam_width": 30},
        "-8, -10, beam 30": {"token_min_logp": -8.0, "beam_prune_logp": -10.0, "beam_width": 30},
        "-9, -12, beam 50": {"token_min_logp": -9.0, "beam_prune_logp": -12.0, "beam_width": 50},
        "-12, -14, beam 50": {"token_min_logp": -12.0, "beam_prune_logp": -14.0, "beam_width": 50},
        "vocabulary only, -12, -12": {"token_min_logp": -12.0, "beam_prune_logp": -12.0, "unk_score_offset": -1000.0},
        "vocabulary only, -12, -15": {"token_min_logp": -12.0, "beam_prune_logp": -15.0, "unk_score_offset": -1000.0},
    }

    def __init__(self, task: Task) -> None:
        from hfaudio.decoding.beam import BeamSearchDecoder
        from hfaudio.ngram.model import NGramLM

        super().__init__(task)
        self._decoder = BeamSearchDecoder(
            task.labels,
            NGramLM.load(task.own_lm),
            alpha=task.alpha,
            beta=task.beta,
            beam_width=task.beam_width,
            blank_id=BLANK,
            unk_score_offset=task.unk_score_offset,
        )

    def searcher(self, **settings: Any) -> "BeamSearchDecoder":
        return self._decoder.with_settings(**settings)

    def decoder(self, **settings: Any) -> Decode:
        searcher = self.searcher(**settings)
        return lambda log_probs: searcher.decode(log_probs).text


class PyCTCDecode(Contestant):
    """pyctcdecode 0.5.0 with kenlm, as released."""

    name = "pyctcdecode"
    modules = ("pyctcdecode", "kenlm")
    points: ClassVar[Mapping[str, Point]] = {
        "default (-5, -10)": {},
        "-8, -10": {"token_min_logp": -8.0},
        "-8, -20": {"token_min_logp": -8.0, "beam_prune_logp": -20.0},
    }

    def __init__(self, task: Task) -> None:
        from pyctcdecode import build_ctcdecoder

        super().__init__(task)
        self._decoder = build_ctcdecoder(
            peer_labels(task),
            task.lm,
            list(task.words),
            alpha=task.alpha,
            beta=task.beta,
            unk_score_offset=task.unk_score_offset,
        )

    def decoder(self, **settings: Any) -> Decode:
        return lambda log_probs: self._decoder.decode(log_probs, beam_width=self.task.beam_width, **settings)


class PatchedPyCTCDecode(PyCTCDecode):
    """pyctcdecode whose end of an utterance is mended: there it scores the empty word after a space as unknown."""

    name = "pyctcdecode, end mended"
    points: ClassVar[Mapping[str, Point]] = {"default (-5, -10)": {}}

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        from pyctcdecode.language_model import LanguageModel

        class Mended(LanguageModel):
            def score(self, prev_state: Any, word: str, is_last_word: bool = False) -> tuple[float, Any]:
                if word or not is_last_word:
                    return super().score(prev_state, word, is_last_word)
                return self.alpha * self._get_raw_end_score(prev_state) * math.log(10), prev_state

        self._decoder._language_model.__class__ = Mended


class CTCBeamDecoder(Contestant):
    """ctc-beam-decoder, a C++ port of pyctcdecode with KenLM inside."""

    name = "ctc-beam-decoder"
    modules = ("ctc_beam_decoder",)
    points: ClassVar[Mapping[str, Point]] = {
        "default (-5, -10)": {},
        "-8, -10": {"token_min_logp": -8.0},
        "-8, -20": {"token_min_logp": -8.0, "beam_prune_logp": -20.0},
    }

    def __init__(self, task: Task) -> None:
        from ctc_beam_decoder import build_ctcdecoder

        super().__init__(task)
        self._decoder = build_ctcdecoder(
            peer_labels(task),
            task.lm,
            list(task.words),
            alpha=task.alpha,
            beta=task.beta,
            unk_score_offset=task.unk_score_offset,
        )

    def decoder(self, **settings: Any) -> Decode:
        return lambda log_probs: self._decoder.decode(log_probs, beam_width=self.task.beam_width, **settings)


def peer_labels(task: Task) -> list[str]:
    """Labels for decoders that take each for a letter and allow none twice: silent ones get private characters."""
    return [label if label or i == BLANK else chr(PRIVATE + i) for i, label in enumerate(task.labels)]


class Flashlight(Contestant):
    """flashlight-text's lexicon decoder with KenLM, which torchaudio's `ctc_decoder` wraps."""

    name = "flashlight (torchaudio)"
    modules = ("flashlight.lib.text",)
    points: ClassVar[Mapping[str, Point]] = {
        "threshold 10": {"beam_threshold": 10.0},
        "threshold 10, 8 labels": {"beam_threshold": 10.0, "beam_size_token": 8},
        "threshold 15, 8 labels": {"beam_threshold": 15.0, "beam_size_token": 8},
        "threshold 25, 8 labels": {"beam_threshold": 25.0, "beam_size_token": 8},
    }

    def __init__(self, task: Task) -> None:
        from flashlight.lib.text.decoder import SmearingMode, Trie
        from flashlight.lib.text.decoder.kenlm import KenLM
        from flashlight.lib.text.dictionary import create_word_dict

        super().__init__(task)
        self._words = create_word_dict({word: [] for word in ("<unk>", *task.words)})
        self._lm = KenLM(task.lm, self._words)
        self._trie = Trie(len(task.labels), task.space)
        start = self._lm.start(False)
        for word in task.words:
            index = self._words.get_index(word)
            _, score = self._lm.score(start, index)
            self._trie.insert(task.spelling(word), index, score)
        self._trie.smear(SmearingMode.MAX)

    def decoder(self, *, beam_threshold: float, beam_size_token: int | None = None) -> Decode:
        from flashlight.lib.text.decoder import CriterionType, LexiconDecoder, LexiconDecoderOptions

        task = self.task
        options = LexiconDecoderOptions(
            beam_size=task.beam_width,
            beam_size_token=beam_size_token or len(task.labels),
            beam_threshold=beam_threshold,
            lm_weight=task.alpha * math.log(10),
            word_score=task.beta,
            unk_score=-math.inf,
            sil_score=0.0,
            log_add=False,
            criterion_type=CriterionType.CTC,
        )
        unknown = self._words.get_index("<unk>")
        search = LexiconDecoder(options, self._trie, self._lm, task.space, BLANK, unknown, [], False)

        def decode(log_probs: np.ndarray) -> str:
            frames = np.ascontiguousarray(with_last_space(log_probs, task.space))
            best = search.decode(frames.ctypes.data, *frames.shape)[0]
            return " ".join(self._words.get_entry(word) for word in best.words if word >= 0)

        return decode


class KaldiGraph(Contestant):
    """kaldi-decoder on a graph of CTC labels, lexicon and a pruned LM, T o min(det(L o G)), built by kaldifst.

    Its LM weight and word bonus are inside the graph, so log-probabilities are divided by the LM weight instead.
    """

    name = "kaldi-decoder graph, pruned LM"
    modules = ("kaldi_decoder", "kaldifst", "kaldilm")
    points: ClassVar[Mapping[str, Point]] = {
        "beam 12": {"beam": 12.0},
        "beam 16": {"beam": 16.0},
        "beam 20": {"beam": 20.0},
        "beam 25": {"beam": 25.0},
        "beam 30": {"beam": 30.0},
    }

    def __init__(self, task: Task) -> None:
        import kaldifst
        import kaldilm

        super().__init__(task)
        with tempfile.TemporaryDirectory() as folder:
            table = Path(folder, "words.txt")
            arguments = {"disambig_symbol": "#0", "write_symbol_table": str(table), "max_arpa_warnings": 0}
            grammar = kaldifst.compile(kaldilm.arpa2fst(task.graph_arpa, **arguments))
            entries = (line.split() for line in table.read_text(encoding="utf-8").splitlines())
            ids = {word: int(number) for word, number in entries}
        self._words = {number: word for word, number in ids.items()}
        spoken = {word: number for word, number in ids.items() if word[0] not in "<#"}
        back_off = len(task.labels) + 1  # the input label of back-off arcs until the graph is deterministic
        graph = kaldifst.compile(lexicon_fst(task, spoken, back_off, ids["#0"]))
        kaldifst.arcsort(graph, "olabel")
        kaldifst.arcsort(grammar, "ilabel")
        graph = kaldifst.compose(graph, grammar)
        kaldifst.determinize_star(graph)
        kaldifst.minimize_encoded(graph)
        for state in kaldifst.StateIterator(graph):
            for arc in kaldifst.ArcIterator(graph, state):
                if arc.ilabel == back_off:
                    arc.ilabel = 0
        kaldifst.arcsort(graph, "ilabel")
        topology = kaldifst.compile(ctc_fst(len(task.labels)))
        kaldifst.arcsort(topology, "olabel")
        self._graph = kaldifst.StdConstFst(kaldifst.compose(topology, graph))

    def decoder(self, *, beam: float, max_active: int = 1000) -> Decode:
        import kaldi_decoder
        import kaldifst

        search = kaldi_decoder.FasterDecoder(
            self._graph, kaldi_decoder.FasterDecoderOptions(beam=beam, max_active=max_active)
        )

        def decode(log_probs: np.ndarray) -> str:
            scores = with_last_space(log_probs, self.task.space) / self.task.alpha
            search.decode(kaldi_decoder.DecodableCtc(scores))
            reached, lattice = search.get_best_path()
            if not reached:
                return ""
            _, _, words, _ = kaldifst.get_linear_symbol_sequence(lattice)
            return " ".join(self._words[word] for word in words)

        return decode


def lexicon_fst(task: Task, words: Mapping[str, int], back_off: int, back_off_word: int) -> str:
    """Text form: words spelled by label id + 1 and a space; a word costs minus its bonus; "#0" passes through."""
    arcs = [f"0 0 {back_off} {back_off_word} 0", f"0 0 {task.space + 1} 0 0"]
    states = itertools.count(1)
    for word, number in words.items():
        state, output, cost = 0, number, -task.beta / task.alpha
        spelling = task.spelling(word)
        for label in spelling[:-1]:
            following = next(states)
            arcs.append(f"{state} {following} {label + 1} {output} {cost}")
            state, output, cost = following, 0, 0.0
        arcs.append(f"{state} 0 {spelling[-1] + 1} 0 0")
    return "\n".join([*arcs, "0 0"]) + "\n"


def ctc_fst(num_labels: int) -> str:
    """Text form of the CTC topology (label id + 1, blank is id 0): state 0 after a blank, state i after label i."""
    arcs = [f"0 0 {BLANK + 1} 0 0"]
    for label in range(1, num_labels):
        arcs += [f"0 {label} {label + 1} {label + 1} 0", f"{label} {label} {label + 1} 0 0"]
        arcs += [f"{label} 0 {BLANK + 1} 0 0"]
        arcs += [f"{label} {other} {other + 1} {other + 1} 0" for other in range(1, num_labels) if other != label]
    return "\n".join([*arcs, *(f"{state} 0" for state in range(num_labels))]) + "\n"


class FastCTCDecode(Contestant):
    """fast-ctc-decode, a beam search in Rust that has no LM."""

    name = "fast-ctc-decode, no LM"
    modules = ("fast_ctc_decode",)
    points: ClassVar[Mapping[str, Point]] = {"beam 100": {"beam_cut_threshold": 0.006}}  # about exp(-5)

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self._alphabet = [label or chr(PRIVATE) for label in peer_labels(task)]  # the blank needs a character, too

    def decoder(self, *, beam_cut_threshold: float) -> Decode:
        from fast_ctc_decode import beam_search

        def decode(log_probs: np.ndarray) -> str:
            text, _ = beam_search(np.exp(log_probs), self._alphabet, self.task.beam_width, beam_cut_threshold)
            return " ".join(text.split())

        return decode


CONTESTANTS: tuple[type[Contestant], ...] = (
    Greedy,
    HFAudio,
    PyCTCDecode,
    PatchedPyCTCDecode,
    CTCBeamDecoder,
    Flashlight,
    KaldiGraph,
    FastCTCDecode,
)
