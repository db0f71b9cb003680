"""What follows the training of a CTC model: a language model, its weights, and what it is worth."""

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from hfaudio.decoding.beam import BeamSearchDecoder, Hypothesis
from hfaudio.decoding.confidence import Calibration, calibrate, reliability
from hfaudio.decoding.rescore import NeuralRescorer, RescoreWeights, fit_weights, rescore, score_n_best
from hfaudio.decoding.tune import tune
from hfaudio.metrics.error_rate import ErrorRate, ErrorTally, correct_words, count_word_errors, paired_bootstrap
from hfaudio.metrics.results import split_rates
from hfaudio.ngram.estimate import MAX_ORDER
from hfaudio.ngram.model import LM_ENDINGS, NGramLM, model_file
from hfaudio.processing.language_model import lm_path, open_lm, save_language_model
from hfaudio.text.lines import text_lines
from hfaudio.training.report import plot_tuning
from hfaudio.training.scoring import CTCScorer

logger = logging.getLogger(__name__)


@dataclass
class LanguageModelArguments:
    """Which language model a CTC model is decoded with."""

    lm: str = field(
        default="train",
        metadata={
            "help": "'train' estimates one from the training transcripts, 'none' decodes greedily only; else a "
            "folder, also of a model with its LM, an ARPA or KenLM file, or a Hub id."
        },
    )
    lm_order: int = field(default=3, metadata={"help": "Words of the longest n-grams of --lm train."})
    lm_text: list[str] | None = field(
        default=None,
        metadata={"help": "Text files, a sentence a line, that --lm train reads besides the transcripts."},
    )
    beam_width: int = field(default=100, metadata={"help": "Of the beam search, before tuning."})
    tune_examples: int = field(default=400, metadata={"help": "Validation utterances that the weights are tuned on."})
    n_best: int = field(default=50, metadata={"help": "Hypotheses of an utterance for the oracle and rescoring."})
    rescore_with: str | None = field(
        default=None, metadata={"help": "A causal language model (folder or Hub id) that rescores the n-best lists."}
    )

    def __post_init__(self) -> None:
        if self.lm != "train" and self.lm_text:
            raise ValueError("--lm_text is read by --lm train only; leave one of the two out")
        if self.lm == "none" and self.rescore_with:
            raise ValueError("--rescore_with needs the n-best lists of a language model; leave out --lm none")
        if not 1 <= self.lm_order <= MAX_ORDER:
            raise ValueError(f"--lm_order is {self.lm_order}; give 1 to {MAX_ORDER} words")
        for name in ("beam_width", "tune_examples", "n_best"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} is {getattr(self, name)}; give at least 1")
        if missing := [file for file in self.lm_text or [] if file != "-" and not Path(file).is_file()]:
            raise ValueError(f"--lm_text: there is no file {', '.join(missing)}; check the path")
        if self.lm not in ("train", "none"):
            check_name("lm", self.lm, (".ngram", *LM_ENDINGS))
            if Path(self.lm).exists():
                model_file(lm_path(Path(self.lm)))
        if self.rescore_with:
            check_name("rescore_with", self.rescore_with)
            if Path(self.rescore_with).exists() and not Path(self.rescore_with, "config.json").is_file():
                raise ValueError(f"--rescore_with: {self.rescore_with} is no model folder, it has no config.json")


def check_name(option: str, name: str, file_endings: tuple[str, ...] = ()) -> None:
    """Raise for what neither is there nor can be a Hub id, without asking the Hub."""
    if Path(name).exists():
        return
    try:
        validate_repo_id(name)
        is_file = name.endswith(file_endings)
    except HFValidationError:
        is_file = True
    if is_file:
        raise ValueError(f"--{option}: there is no {name} here, and it is no Hub id (user/name); check the path")


def build_lm(args: LanguageModelArguments, transcripts: Sequence[str], normalizer: str) -> NGramLM:
    """The n-gram LM that the arguments ask for; texts are normalised as the transcripts are."""
    if args.lm == "train":
        lines = chain(transcripts, text_lines(args.lm_text or [], normalizer))
        return NGramLM.from_text(lines, order=args.lm_order)
    return open_lm(args.lm)


@dataclass(frozen=True, eq=False)
class DecodedSplit:
    """Texts of every utterance by each way of decoding, beside their references and n-best lists."""

    references: list[str]
    speakers: list[str] | None
    texts: dict[str, list[str]]
    n_best: list[list[Hypothesis]]


def decode_split(scorer: CTCScorer, decoder: BeamSearchDecoder, args: LanguageModelArguments) -> DecodedSplit:
    """The split that the scorer has just seen: greedy, beam search alone, with the LM, and the best of the n-best."""
    no_lm = BeamSearchDecoder(decoder.labels, blank_id=decoder.blank_id, beam_width=args.beam_width)

    def n_best_of(log_probs: np.ndarray) -> list[Hypothesis]:
        return [hypothesis.without_times() for hypothesis in decoder.decode_n_best(log_probs, args.n_best)]

    with ThreadPoolExecutor() as threads:
        n_best = list(threads.map(n_best_of, scorer.log_probs))
    texts = {
        "greedy": scorer.hypotheses,
        "beam": [hypothesis.text for hypothesis in no_lm.decode_batch(scorer.log_probs)],
        "lm": [hypothesis.text for hypothesis in decoder.decode_batch(scorer.log_probs)],
        "oracle": [
            min((hypothesis.text for hypothesis in hypotheses), key=lambda text: word_errors(reference, text))
            for reference, hypotheses in zip(scorer.references, n_best, strict=True)
        ],
    }
    return DecodedSplit(scorer.references, scorer.speakers, texts, n_best)


def word_confidences(decoder: BeamSearchDecoder, scorer: CTCScorer) -> tuple[list[float], list[bool]]:
    """Confidence of every word that the decoder recognises in what the scorer has seen, and whether it is right."""
    confidences: list[float] = []
    correct: list[bool] = []
    for reference, hypothesis in zip(scorer.references, decoder.decode_batch(scorer.log_probs), strict=True):
        confidences += [word.confidence for word in hypothesis.words]
        correct += correct_words(reference, [word.text for word in hypothesis.words])
    return confidences, correct


def calibrated(decoder: BeamSearchDecoder, scorer: CTCScorer) -> BeamSearchDecoder:
    """The decoder with confidences calibrated on what the scorer has seen, if some words are right and some wrong."""
    try:
        calibration = calibrate(*word_confidences(decoder, scorer))
    except ValueError as error:
        logger.warning("confidences stay as they are: %s", error)
        return decoder
    return decoder.with_calibration(calibration)


def rescore_split(
    split: DecodedSplit, rescorer: NeuralRescorer, weights: RescoreWeights | None
) -> tuple[DecodedSplit, RescoreWeights]:
    """The split with a text "rescored" for every utterance, and the weights; None fits them to this split."""
    scores = score_n_best(split.n_best, rescorer)
    if weights is None:
        texts = [[hypothesis.text for hypothesis in hypotheses] for hypotheses in split.n_best]
        weights = fit_weights(scores, texts, split.references, count_errors=word_errors).weights
        logger.info("weights for rescoring: %s", weights)
    best = [hypotheses[0].text for hypotheses in rescore(split.n_best, scores, weights)]
    return replace(split, texts=split.texts | {"rescored": best}), weights


def describe_lm(decoder: BeamSearchDecoder, references: Sequence[str]) -> dict[str, Any]:
    """What `metrics.json` says about a decoder's LM: its size, its weights, how well it predicts these references."""
    assert decoder.lm is not None
    perplexity = decoder.lm.perplexity(references)
    return {
        "order": decoder.lm.order,
        "ngrams": list(decoder.lm.counts),
        "validation_perplexity": round(perplexity.perplexity, 2),
        "validation_oov": round(perplexity.oov / perplexity.words, 4),
        "settings": asdict(decoder.settings),
    }


def word_errors(reference: str, hypothesis: str) -> int:
    return count_word_errors(reference, hypothesis).errors


def rate_split(split: DecodedSplit, name: str, *, seed: int) -> tuple[dict[str, ErrorRate], dict[str, Any]]:
    """Rates of each way of decoding (`{name}/wer/lm` ...), and how much they differ from greedy, paired by speaker."""
    rates: dict[str, ErrorRate] = {}
    differences = {}
    for variant, texts in split.texts.items():
        tally = ErrorTally()
        for index, (reference, text) in enumerate(zip(split.references, texts, strict=True)):
            tally.add(reference, text, split.speakers[index] if split.speakers else None)
        rates |= split_rates(tally, name, variant, seed=seed)
        if variant not in ("greedy", "oracle"):  # the oracle knows the reference, it needs no test
            greedy = split.texts["greedy"]
            test = paired_bootstrap(split.references, greedy, texts, groups=split.speakers, seed=seed)
            differences[f"{name}/wer/{variant} - {name}/wer/greedy"] = asdict(test)
            logger.info("%s %s against greedy: %+.2f %% (p = %.4f)", name, variant, 100 * test.value, test.p_value)
    return rates, differences


class LMDecoding:
    """Decodes what a scorer has seen in every way there is: greedy, beam search, with an n-gram LM, rescored.

    `fit` finds all weights on one split (validation, never test), `rate` measures any split with them. `facts` is what
    `metrics.json` says beside the rates. Made before the training, so that a model that does not open, or does not
    belong to these labels, is not found after it.
    """

    def __init__(
        self, args: LanguageModelArguments, lm: NGramLM, scorer: CTCScorer, *, seed: int, device: str
    ) -> None:
        self.args = args
        self.scorer = scorer
        self.seed = seed
        self.decoder = BeamSearchDecoder(scorer.labels, lm, blank_id=scorer.blank_id, beam_width=args.beam_width)
        # on the CPU for now: the device's memory belongs to the training
        self.rescorer = NeuralRescorer(args.rescore_with) if args.rescore_with else None
        self.device = device
        self.weights: RescoreWeights | None = None
        self.facts: dict[str, Any] = {"comparisons": {}}

    def fit(self, folder: Path) -> None:
        """Tune on the split that the scorer has just seen, or `tune_examples` of it; save `language_model/`."""
        scorer, count = self.scorer, len(self.scorer.references)
        chosen = np.sort(np.random.default_rng(self.seed).permutation(count)[: self.args.tune_examples])
        log_probs = [scorer.log_probs[index] for index in chosen]
        references = [scorer.references[index] for index in chosen]
        tuning = tune(self.decoder, log_probs, references, count_errors=word_errors)
        logger.info("best settings on %d utterances: %s", len(chosen), tuning.best)
        plot_tuning(tuning, folder / "lm_tuning.png")
        self.decoder = calibrated(self.decoder.with_settings(**asdict(tuning.best)), scorer)
        save_language_model(folder, self.decoder)
        self.facts["language_model"] = describe_lm(self.decoder, scorer.references)
        self.facts["confidence"] = asdict(self.decoder.calibration)

    def rate(self, name: str) -> dict[str, ErrorRate]:
        """Rates of the split that the scorer has just seen; the first one fits the weights for rescoring."""
        split = decode_split(self.scorer, self.decoder, self.args)
        if self.rescorer is not None:
            self.rescorer.model.to(self.device)  # type: ignore[arg-type]
            split, self.weights = rescore_split(split, self.rescorer, self.weights)
            self.facts["rescoring"] = {"model": self.args.rescore_with, **asdict(self.weights)}
        raw, correct = word_confidences(self.decoder.with_calibration(Calibration()), self.scorer)
        if raw:  # a model at its beginning may recognise no word
            for label, confidences in (("ece_not_calibrated", raw), ("ece", self.decoder.calibration.apply(raw))):
                error = reliability(confidences, correct).expected_calibration_error
                self.facts["confidence"][f"{name}/{label}"] = round(error, 4)
        rates, differences = rate_split(split, name, seed=self.seed)
        self.facts["comparisons"] |= differences
        return rates
