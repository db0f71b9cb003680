"""pyctcdecode's objects and folders over hfaudio's decoder, so that existing code changes one import.

    from hfaudio.decoding.compat import build_ctcdecoder    # was: from pyctcdecode import build_ctcdecoder

Signatures, defaults, scores and files are those of pyctcdecode 0.5.0; kenlm is not needed. What differs, on purpose:

- A space before the end of an utterance costs nothing. There pyctcdecode scores the empty word as unknown, which
  changes about one transcript in ten of models that end with the word delimiter.
- Every word of the LM is known, whatever the `unigrams` are; a warning says how many were not among them. Without
  `unigrams` pyctcdecode takes every word for unknown.
- Labels in brackets ("<s>", "[CLS]") are silent; pyctcdecode would write them. "<unk>" is written as it does it, "⁇".
- "|" beside word pieces is a space, which pyctcdecode takes for a letter.
- A hotword that the LM does not know pays no `unk_score_offset`, so its weight is a real bonus.
- Words that are being spelled are lent the LM's score of what they can become, so equal pruning loses less.
- `prune_history` has no effect: the best text is searched with equal futures merged, a list of beams without.
- Batches run in threads of this process, as many as there are cores; a `pool` is not used, None or any will do.
- Word frames come from the best alignment of the text, not from the last of the prefixes that were merged.
"""

import json
import logging
import math
import os
import re
import shutil
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from multiprocessing.pool import Pool
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from huggingface_hub import snapshot_download
from numba import njit

from hfaudio.decoding.beam import BeamSearchDecoder, Hypothesis
from hfaudio.decoding.search import Rules
from hfaudio.ngram.model import NGramLM
from hfaudio.ngram.query import Kernel, step

logger = logging.getLogger(__name__)

ALPHABET_FILE, FOLDER = "alphabet.json", "language_model"
ATTRIBUTES_FILE, UNIGRAMS_FILE = "attrs.json", "unigrams.txt"
LM_SUFFIXES = (".arpa", ".bin", ".binary")
ATTRIBUTES = ("alpha", "beta", "unk_score_offset", "score_boundary")

WORD_START = "\u2581"  # "▁" begins a word of BPE
DELIMITER = "|"  # stands for the space
UNKNOWN, UNKNOWN_PIECE = "\u2047", "\u2581\u2047\u2581"  # "⁇"
REPLACEMENT_CHARACTER = "\ufffd"  # spells the unknown label in hfaudio
BRACKETED = re.compile(r"[<\[].+[>\]]")
BLANK_MARK = re.compile(r"[<\[]pad[>\]]", re.IGNORECASE)
UNKNOWN_MARK = re.compile(r"[<\[]unk[>\]]", re.IGNORECASE)

MIN_PROBABILITY = 1e-15  # pyctcdecode's floor

WordFrames = tuple[str, tuple[int, int]]  # word, first frame, frame after the last


@dataclass(frozen=True)
class LMState:
    """A state of the n-gram LM after the words of a beam; hand it back as `lm_start_state` to go on from there."""

    state: int


Beam = tuple[str, LMState | None, list[WordFrames], float, float]
"""Text, LM state, words with frames, acoustic score, combined score."""
BeamWithoutState = tuple[str, list[WordFrames], float, float]


@dataclass(frozen=True)
class Alphabet:
    """Labels as pyctcdecode writes them: "" the blank, " " the word delimiter or "▁" before words, "⁇" unknown."""

    labels: list[str]
    is_bpe: bool

    @classmethod
    def build_alphabet(cls, labels: Sequence[str]) -> "Alphabet":
        """The alphabet of a tokenizer's tokens: "|" becomes " ", "[PAD]" becomes "", "##ing" becomes "ing".

        Raises:
            ValueError: a label twice, or a space in labels that are word pieces.
        """
        if len(set(labels)) < len(labels):
            twice = next(label for index, label in enumerate(labels) if label in labels[:index])
            raise ValueError(f"the label {twice!r} is there twice; give every id a label of its own")
        is_bpe = any(label.startswith(("##", WORD_START)) for label in labels)
        if is_bpe and any(" " in label for label in labels):
            raise ValueError("labels are word pieces (## or ▁) and hold a space; leave the space out")
        return cls(normalized_pieces(labels) if is_bpe else normalized_characters(labels), is_bpe)

    @classmethod
    def loads(cls, text: str) -> "Alphabet":
        """The alphabet in the text of an `alphabet.json`."""
        content = json.loads(text)
        if set(content) != {"labels", "is_bpe"}:
            raise ValueError(f"an alphabet has the keys labels and is_bpe, this one has {sorted(content)}")
        return cls(content["labels"], content["is_bpe"])

    def dumps(self) -> str:
        """The text of an `alphabet.json`."""
        return json.dumps({"labels": self.labels, "is_bpe": self.is_bpe})

    @property
    def blank_id(self) -> int:
        return self.labels.index("")

    @property
    def spellings(self) -> list[str]:
        """What the ids spell, as `hfaudio.processing.ctc_labels` has it."""
        return [spelling(label, self.is_bpe) for label in self.labels]


def spelling(label: str, is_bpe: bool) -> str:
    """What a label of pyctcdecode spells in hfaudio: "" if it is silent, U+FFFD if unknown, " the" of "▁the"."""
    if label in (UNKNOWN, UNKNOWN_PIECE):
        return REPLACEMENT_CHARACTER
    if BRACKETED.fullmatch(label):
        return ""
    if is_bpe and label == DELIMITER:  # which Wav2Vec2CTCTokenizer adds to every vocabulary
        return " "
    return label.replace(WORD_START, " ") if is_bpe else label


def normalized_characters(labels: Sequence[str]) -> list[str]:
    """pyctcdecode's labels of a vocabulary without word pieces; a blank is added if there is none."""
    found = list(labels)
    if DELIMITER in found and " " not in found:
        found[found.index(DELIMITER)] = " "
    found = ["" if BLANK_MARK.fullmatch(label) else label for label in found]
    if "_" in found and "" not in found:
        found[found.index("_")] = ""
    if "" not in found:
        found.append("")
    if " " not in found:
        logger.warning("the labels have no word delimiter (' ' or '|'): a whole utterance will be one word")
    return [UNKNOWN if UNKNOWN_MARK.fullmatch(label) else label for label in found]


def normalized_pieces(labels: Sequence[str]) -> list[str]:
    """pyctcdecode's labels of word pieces: "▁the" begins a word, "ing" goes on; "##ing" style is converted."""
    found = list(labels)
    if any(label.startswith("##") for label in found):
        kept = ("", WORD_START, UNKNOWN_PIECE)
        found = [
            label.removeprefix("##")
            if label.startswith("##") or label in kept or BRACKETED.fullmatch(label)
            else WORD_START + label
            for label in found
        ]
    found = ["" if BLANK_MARK.fullmatch(label) else label for label in found]
    if "" not in found:
        found.append("")
    return [UNKNOWN_PIECE if UNKNOWN_MARK.fullmatch(label) else label for label in found]


@dataclass(frozen=True)
class LanguageModel:
    """An n-gram LM with pyctcdecode's weights; `file` is where it was read, if from an ARPA or KenLM file."""

    lm: NGramLM
    unigrams: Collection[str] | None = None
    alpha: float = 0.5
    beta: float = 1.5
    unk_score_offset: float = -10.0
    score_boundary: bool = True
    file: Path | None = None

    @classmethod
    def load_from_dir(cls, filepath: str | os.PathLike[str], unigram_encoding: str | None = None) -> "LanguageModel":
        """Read a folder of attrs.json, unigrams.txt and one ARPA or KenLM file.

        Raises:
            ValueError: a file is missing, there are several LM files, or attrs.json has other keys.
        """
        folder = Path(filepath)
        names = sorted(file.name for file in folder.iterdir() if not file.name.startswith((".", "__")))
        files = [folder / name for name in names if name.endswith(LM_SUFFIXES)]
        if len(files) != 1 or {ATTRIBUTES_FILE, UNIGRAMS_FILE} - set(names):
            raise ValueError(
                f"{folder} holds {', '.join(names) or 'nothing'}; pyctcdecode's folders hold {ATTRIBUTES_FILE}, "
                f"{UNIGRAMS_FILE} and one file that ends in {', '.join(LM_SUFFIXES)}"
            )
        attributes = json.loads((folder / ATTRIBUTES_FILE).read_text(encoding="utf-8"))
        if set(attributes) != set(ATTRIBUTES):
            raise ValueError(f"{folder / ATTRIBUTES_FILE} has {sorted(attributes)}, expected {sorted(ATTRIBUTES)}")
        unigrams = (folder / UNIGRAMS_FILE).read_text(encoding=unigram_encoding or "utf-8").splitlines()
        return cls(NGramLM.load(files[0]), unigrams, **attributes, file=files[0])

    def save_to_dir(self, filepath: str | os.PathLike[str], unigram_encoding: str | None = None) -> None:
        """Write these files into an existing folder; an LM of another format is written as ARPA."""
        folder = Path(filepath)
        attributes = {name: getattr(self, name) for name in ATTRIBUTES}
        (folder / ATTRIBUTES_FILE).write_text(json.dumps(attributes), encoding="utf-8")
        words = known_words(self.lm) if self.unigrams is None else self.unigrams
        text = "".join(f"{word}\n" for word in sorted(words))
        (folder / UNIGRAMS_FILE).write_text(text, encoding=unigram_encoding or "utf-8")
        if self.file is None:
            self.lm.save(folder / "lm.arpa")
        else:
            shutil.copy2(self.file, folder / self.file.name)


def known_words(lm: NGramLM) -> list[str]:
    """Words of an LM without its three marks."""
    return [word for word in lm.words if word not in ("<unk>", "<s>", "</s>")]


def warn_of_more_words(lm: NGramLM, unigrams: Collection[str]) -> None:
    """Say how many words the LM knows that are not among the unigrams: they are no unknown words here."""
    words = known_words(lm)
    more = len(set(words) - set(unigrams))
    if more:
        logger.warning(
            "%d of the LM's %d words are not among the unigrams, and are known all the same", more, len(words)
        )


class LanguageModelFolder(NamedTuple):
    """What a folder of pyctcdecode or `Wav2Vec2ProcessorWithLM` says; `settings` are keywords of the decoder."""

    labels: list[str]  # what the ids spell, as `ctc_labels` has it
    lm: NGramLM
    unigrams: list[str]
    settings: dict[str, Any]


def load_language_model_folder(folder: str | os.PathLike[str]) -> LanguageModelFolder:
    """The alphabet, LM, word list and weights beside a model saved by transformers 4 or 5, or by pyctcdecode.

    Raises:
        ValueError: no alphabet.json, or a language_model/ that is not as pyctcdecode writes it.
    """
    language_model = LanguageModel.load_from_dir(Path(folder, FOLDER))
    settings = {name: getattr(language_model, name) for name in ATTRIBUTES}
    unigrams = list(language_model.unigrams or ())
    return LanguageModelFolder(read_alphabet(Path(folder)).spellings, language_model.lm, unigrams, settings)


def read_alphabet(folder: Path) -> Alphabet:
    file = folder / ALPHABET_FILE
    if not file.exists():
        raise ValueError(f"{folder} has no {ALPHABET_FILE}; it is no folder of pyctcdecode or Wav2Vec2ProcessorWithLM")
    return Alphabet.loads(file.read_text(encoding="utf-8"))


class ContinuingDecoder(BeamSearchDecoder):
    """A decoder whose LM can start after other words than the sentence's beginning."""

    first_state: int | None = None

    def _start_state(self, rules: Rules) -> int:
        return super()._start_state(rules) if self.first_state is None else self.first_state

    def with_settings(self, **changes: Any) -> "ContinuingDecoder":
        decoder = super().with_settings(**changes)
        assert isinstance(decoder, ContinuingDecoder)
        return decoder


class BeamSearchDecoderCTC:
    """pyctcdecode's decoder object, also for the `decoder=` of transformers 5's speech recognition pipeline."""

    def __init__(self, alphabet: Alphabet, language_model: LanguageModel | None = None) -> None:
        self._alphabet = alphabet
        self._language_model = language_model
        unknown = f" {UNKNOWN}" if alphabet.is_bpe else UNKNOWN
        labels = [unknown if label == REPLACEMENT_CHARACTER else label for label in alphabet.spellings]
        if language_model is None:
            self._decoder = ContinuingDecoder(labels, blank_id=alphabet.blank_id)
            return
        if language_model.unigrams:
            warn_of_more_words(language_model.lm, language_model.unigrams)
        self._decoder = ContinuingDecoder(
            labels,
            language_model.lm,
            alpha=language_model.alpha,
            beta=language_model.beta,
            unk_score_offset=language_model.unk_score_offset,
            score_boundary=language_model.score_boundary,
            blank_id=alphabet.blank_id,
        )

    def reset_params(
        self,
        alpha: float | None = None,
        beta: float | None = None,
        unk_score_offset: float | None = None,
        lm_score_boundary: bool | None = None,
    ) -> None:
        """Change weights in place; what is None stays, and without an LM nothing does."""
        if self._language_model is None:
            return
        given = {
            "alpha": alpha,
            "beta": beta,
            "unk_score_offset": unk_score_offset,
            "score_boundary": lm_score_boundary,
        }
        changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        self._language_model = replace(self._language_model, **changes)
        self._decoder = self._decoder.with_settings(**changes)

    def decode(
        self,
        logits: np.ndarray,
        beam_width: int = 100,
        beam_prune_logp: float = -10.0,
        token_min_logp: float = -5.0,
        hotwords: Iterable[str] | None = None,
        hotword_weight: float = 10.0,
        lm_start_state: LMState | None = None,
    ) -> str:
        """The best text of logits, log-probabilities or probabilities (T, V)."""
        decoder = self._with(beam_width, beam_prune_logp, token_min_logp, lm_start_state)
        weights = word_weights(hotwords, hotword_weight)
        return decoder.decode(self._log_probs(logits), hotwords=weights).text

    def decode_beams(
        self,
        logits: np.ndarray,
        beam_width: int = 100,
        beam_prune_logp: float = -10.0,
        token_min_logp: float = -5.0,
        prune_history: bool = False,
        hotwords: Iterable[str] | None = None,
        hotword_weight: float = 10.0,
        lm_start_state: LMState | None = None,
    ) -> list[Beam]:
        """The best texts, at most `beam_width`, best first; `prune_history` has no effect."""
        decoder = self._with(beam_width, beam_prune_logp, token_min_logp, lm_start_state)
        weights = word_weights(hotwords, hotword_weight)
        found = decoder.decode_n_best(self._log_probs(logits), beam_width, hotwords=weights)
        return [self._beam(hypothesis, lm_start_state) for hypothesis in found]

    def decode_batch(
        self,
        pool: Pool | None,
        logits_list: Iterable[np.ndarray],
        beam_width: int = 100,
        beam_prune_logp: float = -10.0,
        token_min_logp: float = -5.0,
        hotwords: Iterable[str] | None = None,
        hotword_weight: float = 10.0,
    ) -> list[str]:
        """The best text of each, by all cores; the processes of a pool are not used."""
        decoder = self._with(beam_width, beam_prune_logp, token_min_logp)
        log_probs = [self._log_probs(logits) for logits in logits_list]
        weights = word_weights(hotwords, hotword_weight)
        return [hypothesis.text for hypothesis in decoder.decode_batch(log_probs, hotwords=weights)]

    def decode_beams_batch(
        self,
        pool: Pool | None,
        logits_list: Iterable[np.ndarray],
        beam_width: int = 100,
        beam_prune_logp: float = -10.0,
        token_min_logp: float = -5.0,
        prune_history: bool = False,
        hotwords: Iterable[str] | None = None,
        hotword_weight: float = 10.0,
    ) -> list[list[BeamWithoutState]]:
        """The beams of each, without LM states, one utterance after the other."""
        settings = (beam_width, beam_prune_logp, token_min_logp, prune_history, hotwords, hotword_weight)
        batch = (self.decode_beams(logits, *settings) for logits in logits_list)
        return [[(text, frames, acoustic, score) for text, _, frames, acoustic, score in beams] for beams in batch]

    def save_to_dir(self, filepath: str | os.PathLike[str]) -> None:
        """Write alphabet.json and, with an LM, language_model/ into an existing folder."""
        folder = Path(filepath)
        (folder / ALPHABET_FILE).write_text(self._alphabet.dumps(), encoding="utf-8")
        if self._language_model is not None:
            (folder / FOLDER).mkdir()
            self._language_model.save_to_dir(folder / FOLDER)

    @classmethod
    def load_from_dir(
        cls, filepath: str | os.PathLike[str], unigram_encoding: str | None = None
    ) -> "BeamSearchDecoderCTC":
        """The decoder of such a folder; other files, as of a model, may lie there too."""
        folder = Path(filepath)
        alphabet = read_alphabet(folder)
        if not (folder / FOLDER).exists():
            return cls(alphabet)
        return cls(alphabet, LanguageModel.load_from_dir(folder / FOLDER, unigram_encoding))

    @classmethod
    def load_from_hf_hub(cls, model_id: str, cache_dir: str | None = None, **kwargs: Any) -> "BeamSearchDecoderCTC":
        """The decoder in a Hub repository; `kwargs` go to `snapshot_download`, which here fetches no more than it."""
        options: dict[str, Any] = {"allow_patterns": [ALPHABET_FILE, f"{FOLDER}/*"], **kwargs}
        return cls.load_from_dir(snapshot_download(model_id, cache_dir=cache_dir, **options))

    def _with(
        self, beam_width: int, beam_prune_logp: float, token_min_logp: float, state: LMState | None = None
    ) -> ContinuingDecoder:
        decoder = self._decoder.with_settings(
            beam_width=beam_width, beam_prune_logp=beam_prune_logp, token_min_logp=token_min_logp
        )
        if state is not None:
            if not isinstance(state, LMState):
                raise TypeError(
                    f"lm_start_state is a {type(state).__name__}; give the state of a beam of this decoder"
                )
            decoder.first_state = state.state
        return decoder

    def _log_probs(self, logits: np.ndarray) -> np.ndarray:
        """Natural log-probabilities (T, V) of what pyctcdecode accepts; rows that sum to one are probabilities."""
        if logits.ndim != 2 or logits.shape[1] != len(self._alphabet.labels):
            raise ValueError(
                f"expected logits (T, {len(self._alphabet.labels)}), one column a label, got shape {logits.shape}"
            )
        if not len(logits):
            return logits
        logits = logits.astype(np.promote_types(logits.dtype, np.float32), copy=False)  # no half precision below
        if logits.min() >= 0 and math.isclose(logits.sum(axis=1).mean(), 1, abs_tol=1e-3):
            return np.log(np.clip(logits, MIN_PROBABILITY, 1))
        shifted = logits - logits.max(axis=1, keepdims=True)
        log_probs = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        return np.clip(log_probs, math.log(MIN_PROBABILITY), 0)

    def _beam(self, hypothesis: Hypothesis, start: LMState | None) -> Beam:
        frames = [(word.text, (round(word.start), round(word.end))) for word in hypothesis.words]
        state = self._state_after([word.text for word in hypothesis.words], start)
        return hypothesis.text, state, frames, hypothesis.acoustic_score, hypothesis.score

    def _state_after(self, words: Iterable[str], start: LMState | None) -> LMState | None:
        """LM state after the words, without the sentence end."""
        if self._language_model is None:
            return None
        lm = self._language_model.lm
        state = 0
        if start is not None:
            state = start.state
        elif self._language_model.score_boundary:
            state = lm.kernel.start_state
        ids = np.array([lm.word_id(word) for word in words], dtype=np.int64)
        return LMState(int(state_after(lm.kernel, state, ids)))


@njit(cache=True, nogil=True, error_model="numpy")
def state_after(kernel: Kernel, state: int, words: np.ndarray) -> int:
    """LM state after word ids (n,)."""
    for word in words:
        _, state = step(kernel, state, word)
    return state


def word_weights(hotwords: Iterable[str] | None, weight: float) -> dict[str, float] | None:
    """The weight for each word of the hotwords, as pyctcdecode takes phrases apart."""
    words = [word for phrase in hotwords or () for word in phrase.split()]
    return dict.fromkeys(words, weight) or None


def build_ctcdecoder(
    labels: Sequence[str],
    kenlm_model_path: str | os.PathLike[str] | None = None,
    unigrams: Collection[str] | None = None,
    alpha: float = 0.5,
    beta: float = 1.5,
    unk_score_offset: float = -10.0,
    lm_score_boundary: bool = True,
) -> BeamSearchDecoderCTC:
    """A decoder for the tokens of a vocabulary; `kenlm_model_path` is ARPA, KenLM's .bin, or a file of hfaudio."""
    alphabet = Alphabet.build_alphabet(labels)
    if kenlm_model_path is None:
        return BeamSearchDecoderCTC(alphabet)
    file = Path(kenlm_model_path)
    weights = {"alpha": alpha, "beta": beta, "unk_score_offset": unk_score_offset}
    kept = file if file.suffix in LM_SUFFIXES else None
    model = LanguageModel(NGramLM.load(file), unigrams, **weights, score_boundary=lm_score_boundary, file=kept)
    return BeamSearchDecoderCTC(alphabet, model)
