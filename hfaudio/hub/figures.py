"""The figures in a run's `metrics.json`: as tables of a model card, and as results that the Hub reads."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from huggingface_hub import EvalResult

Results = Mapping[str, Any]  # what `hfaudio.metrics.results.write_results` has written

# Left to metrics.json: the third error rate of each text, and the best of n-best lists, which no decoder can choose.
LEFT_OUT_MEASURES = ("mer",)
LEFT_OUT_VARIANTS = ("oracle",)
MEASURES = {
    "wer": "WER",
    "cer": "CER",
    "chrf": "chrF",
    "bleu": "BLEU",
    "perplexity": "perplexity of a word",
    "loops": "repeats itself",
    "run_on": "runs on",
    "empty": "writes nothing",
    "text": "writes text on silence",
    "well_timed": "plausible times",
    "nats": "loss, nats a code",
    "null_gap": "gain by the caption, nats",
    "wrong_gap": "gain over a wrong caption, nats",
    "si_sdr": "SI-SDR, dB",
    "mel": "mel distance",
    "stft": "STFT distance",
    "key_or_relative": "key or its relative",
    "tempo": "tempo band",
    "frechet": "Fréchet distance",
}
RESCORED = "rescored by another model"  # which is not in the folder
VARIANTS = {
    "beam": "beam search",
    "rescored": RESCORED,
    "generate": "",  # the only way of decoding there is
    "asked": "asked for",
    "ceiling": "real clips after the same codec",
    "shuffled": "prompts of other clips",
    "null": "no prompt",
    "unseen": "pairs never trained on",
}
METRICS_OF_THE_HUB = ("wer", "cer", "perplexity", "chrf", "bleu")


@dataclass(frozen=True)
class Figure:
    """One entry of `metrics`."""

    split: str
    measure: str  # key of MEASURES, or any other name
    variant: str  # as a reader calls it: "greedy", "with 3-gram", or "" where there is one only
    group: str | None  # a speaker
    value: float
    low: float | None
    high: float | None
    n: int
    decimals: int | None  # of percent; None of what is no share
    is_reference: bool = False  # measured on something else, to compare with

    @property
    def title(self) -> str:
        """Of a column: measure and unit."""
        return MEASURES.get(self.measure, escape(self.measure)) + ("" if self.decimals is None else ", %")

    @property
    def percent_or_value(self) -> float:
        """On the scale on which it is shown."""
        return self.rounded(self.value)

    def rounded(self, value: float) -> float:
        """Shares in percent, others to four digits."""
        return float(f"{value:.4g}") if self.decimals is None else round(100 * value, self.decimals)

    @property
    def text(self) -> str:
        """Value and 95 % interval, on that scale."""
        ends = "" if self.low is None or self.high is None else f" ({self._show(self.low)} to {self._show(self.high)})"
        return self._show(self.value) + ends

    def _show(self, value: float) -> str:
        return number(value) if self.decimals is None else f"{100 * value:.{self.decimals}f}"


def number(value: float) -> str:
    """Three digits, and no exponent for large numbers."""
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def figures(results: Results) -> list[Figure]:
    """All figures of a run but the comparisons before and after (`forgetting`), in the order of the file."""
    found = []
    for key, entry in results["metrics"].items():
        split, measure, *rest = key.split("/")
        if split == "forgetting" or measure in LEFT_OUT_MEASURES or rest[:1] == list(LEFT_OUT_VARIANTS):
            continue
        variant, group = "/".join(rest), None
        if measure in ("wer", "cer") and rest:  # then a speaker may follow, in whose name there may be strokes
            variant, group = rest[0], "/".join(rest[1:]) or None
        elif measure == "codebook":
            measure, variant = f"codebook {variant}", ""
        elif measure == "fact":
            measure, variant = f"names the {variant}", ""
        figure = _figure(split, measure, variant_name(variant, results), group, entry)
        found.append(replace(figure, is_reference=_is_reference(variant, results)))
    for name, one in results.get("frechet", {}).items():  # of a codec at each bit rate
        if isinstance(one, dict) and "frechet" in one:
            distance = {"value": one["frechet"], "low": None, "high": None, "n": one["frechet_n"]}
            figure = _figure("test", "frechet", variant_name(name, results), None, distance)
            found.append(replace(figure, is_reference=_is_reference(name, results)))
    return found


def _is_reference(variant: str, results: Results) -> bool:
    """Whether real clips, other prompts or other codecs were measured in place of the model."""
    if "bits_per_second" in results:  # by `recipes/evaluate_music.py codec`
        return not variant.startswith("codec ")
    return variant in ("ceiling", "shuffled", "null")


def _figure(split: str, measure: str, variant: str, group: str | None, entry: Mapping[str, Any]) -> Figure:
    """Of some hundred cases a share has no second decimal, of their many words an error rate has."""
    decimals = 1 if "count" in entry else 2 if "reference_length" in entry else None
    return Figure(split, measure, variant, group, entry["value"], entry["low"], entry["high"], entry["n"], decimals)


def variant_name(variant: str, results: Results) -> str:
    """A way of decoding, a bit rate or a group of prompts, as a reader would call it."""
    if variant == "lm":
        return f"with {results['language_model']['order']}-gram" if "language_model" in results else "with n-gram"
    if bandwidth := re.fullmatch(r"([\d.]+)kbps", variant):
        return f"{bandwidth[1]} kbit/s"
    return VARIANTS.get(variant, variant)


# ---------------------------------------------------------------------------------------------------------------
# Tables


def result_table(found: Sequence[Figure], results: Results) -> str:
    """Markdown: a row for each split and variant, a column for each measure.

    With more than one way of decoding it says how far the word error rate is from greedy, where that was compared.
    """
    whole = [figure for figure in found if figure.group is None]
    titles = list(dict.fromkeys(figure.title for figure in whole))
    differences = greedy_differences(results)
    rows = []
    for split, variant in dict.fromkeys((figure.split, figure.variant) for figure in whole):
        row = {f.title: f for f in whole if (f.split, f.variant) == (split, variant)}
        n = max(figure.n for figure in row.values())
        cells = [_cell(row[title], n) if title in row else "" for title in titles]
        rows.append([split, escape(variant), *cells, differences.get((split, variant), ""), f"{n:,}"])
    return table(["split", "variant", *titles, "WER less greedy's, points", "n"], rows, left=2)


def _cell(figure: Figure, n: int) -> str:
    return figure.text if figure.n == n else f"{figure.text}, n = {figure.n:,}"


def greedy_differences(results: Results) -> dict[tuple[str, str], str]:
    """By split and variant: how much its word error rate differs from greedy's, in points."""
    found = {}
    for key, entry in results.get("comparisons", {}).items():
        split, _, variant = key.split(" - ")[0].split("/")
        value, low, high = (100 * entry[name] for name in ("value", "low", "high"))
        p_value = f"p = {entry['p_value']:.2g}" if entry["p_value"] >= 0.001 else "p < 0.001"
        found[split, variant_name(variant, results)] = f"{value:+.2f} ({low:+.2f} to {high:+.2f}), {p_value}"
    return found


def speaker_table(found: Sequence[Figure]) -> str | None:
    """Markdown: word error rates of the last split by speaker, or None where there are fewer than two."""
    groups = [figure for figure in found if figure.group is not None and figure.measure == "wer"]
    groups = [figure for figure in groups if figure.split == groups[-1].split]
    names = list(dict.fromkeys(str(figure.group) for figure in groups))
    if len(names) < 2:
        return None
    variants = list(dict.fromkeys(figure.variant for figure in groups))
    by_place = {(figure.group, figure.variant): figure for figure in groups}
    rows = []
    for name in names:
        row = [by_place[name, variant] for variant in variants]
        rows.append([escape(name), *(figure.text for figure in row), f"{row[0].n:,}"])
    return table(["speaker", *(escape(variant) or "WER, %" for variant in variants), "n"], rows, left=1)


def forgetting_table(results: Results) -> str | None:
    """Markdown: what the model could do before and after its training on other data, or None where nobody looked."""
    pairs: dict[tuple[str, str], dict[str, Figure]] = {}
    for key, entry in results["metrics"].items():
        if key.startswith("forgetting/"):
            probe, measure, when = key.removeprefix("forgetting/").rsplit("/", 2)
            pairs.setdefault((probe, measure), {})[when] = _figure("", measure, "", None, entry)
    rows = [
        [escape(probe), pair["before"].title, pair["before"].text, pair["after"].text, f"{pair['after'].n:,}"]
        for (probe, _), pair in pairs.items()
    ]
    return table(["asked", "measure", "before", "after", "n"], rows, left=2) if rows else None


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, left: int) -> str:
    """Markdown: the first `left` columns to the left, the others to the right; columns of empty cells are left out."""
    kept = [column for column in range(len(head)) if any(row[column] for row in rows)]
    rule = ["---" if column < left else "---:" for column in kept]
    lines = [[head[column] for column in kept], rule, *([row[column] for column in kept] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines).replace("| --- ", "|---").replace("| ---: ", "|---:")


def escape(name: str) -> str:
    """A name from outside, such that Markdown and HTML show it as it is, in a table, too."""
    return re.sub(r"([\\`*{}\[\]<>#|~&]|(?<![^\W_])_|_(?![^\W_]))", r"\\\1", " ".join(name.split()))


# ---------------------------------------------------------------------------------------------------------------
# For the Hub


def evaluation_results(
    found: Iterable[Figure], *, task: str, dataset: str, dataset_name: str, revision: str | None = None
) -> list[EvalResult]:
    """Results as the model-index of a card holds them: the model's own, of whole splits, shares in percent.

    `dataset` is an id of the Hub, or a word for data that is not there. The interval and the number of cases stand
    in the arguments of the metric, as the format has no other place for them.
    """
    return [
        EvalResult(
            task_type=task,
            dataset_type=dataset,
            dataset_name=dataset_name,
            dataset_split=figure.split,
            dataset_revision=revision,
            metric_type=figure.measure,
            metric_name=figure.title.removesuffix(", %") + (f" ({figure.variant})" if figure.variant else ""),
            metric_value=figure.percent_or_value,
            metric_args=_interval(figure),
        )
        for figure in found
        if figure.group is None and not figure.is_reference
    ]


def _interval(figure: Figure) -> dict[str, Any]:
    if figure.low is None or figure.high is None:
        return {"n": figure.n}
    return {"interval_95": [figure.rounded(figure.low), figure.rounded(figure.high)], "n": figure.n}
