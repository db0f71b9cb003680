"""Speed against word error rate of CTC decoders with a word n-gram LM, all in one process on the same input.

    python benchmarks/decoding.py --text corpus.txt -o decoding.json
    python benchmarks/decoding.py --text corpus.txt --lmplz kenlm/build/bin/lmplz --repeats 5 -o decoding.json

The text (one sentence a line; a-z, ' and spaces are kept) trains the LM, but for the sentences that are spoken:
log-probabilities of 10 seconds each, made from them with a seed (ctc_posteriors.py), once `sharp` and once `flat`.
Without --text the bundled transcripts of spoken prompts are taken, which shows that it runs but is no open language.

Every decoder that is installed (ctc_decoders.py) takes its turn at each of its settings, pass after pass, so that
other load meets all of them. Figures are utterances a second of CPU time of one thread, best pass, and word error
rates. A setting that is too slow for all utterances within --seconds gets the first ones only; the table says how
many. Start-up and peak memory come from a fresh process for each decoder, and for ours one with an empty and one with
a filled cache of compiled code. Writes JSON, beside it a Markdown table and a picture. Set OMP_NUM_THREADS=1, and run
it on an idle machine.
"""

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import packages_distributions, version
from itertools import groupby
from pathlib import Path
from subprocess import DEVNULL, PIPE
from time import perf_counter, process_time
from typing import Any

import numpy as np
from ctc_decoders import CONTESTANTS, Contestant, Decode, HFAudio, PatchedPyCTCDecode, Task, missing
from ctc_posteriors import FRAME_SECONDS, FRAMES, LABELS, SPECIALS, sharp_and_flat

from hfaudio.metrics.error_rate import ErrorTally
from hfaudio.metrics.results import command_line, write_results

SHORTEST, LONGEST = 115, 165  # characters that are spoken in 10 s
GRAPH_CUTOFFS = (0, 1, 1)  # n-grams of two and more words that occur once are left out of the graph decoder's LM
WARM_UP = 10  # utterances at most that are decoded before a setting is timed
FEWEST = 5  # utterances of a setting that is too slow for more
THREADED_CLIPS = 400  # utterances of the thread test: 0.2 s at 2,000 a second


def read_sentences(path: Path | None) -> list[str]:
    """Sentences of a-z, ' and single spaces, without repeats: of a text file, or the bundled transcripts."""
    if path is None:
        from hfaudio.data.datasets import DataArguments, load_split

        lines: Iterable[str] = load_split(DataArguments(), "train")["text"]
    else:
        lines = path.read_text(encoding="utf-8").splitlines()
    cleaned = (" ".join(re.sub("[^a-z']+", " ", line.lower()).split()) for line in lines)
    return list(dict.fromkeys(sentence for sentence in cleaned if sentence))


def utterances(sentences: Sequence[str], number: int) -> list[str]:
    """Texts of 115 to 165 characters: sentences of that length, or, where they are too few, sentences in a row."""
    fitting = [sentence for sentence in sentences if SHORTEST <= len(sentence) <= LONGEST]
    if len(fitting) >= number:
        return fitting[:number]
    found: list[str] = []
    words = [word for sentence in sentences for word in sentence.split()]
    while words and len(found) < number:
        text, first = "", 0
        while first < len(words) and len(text) < SHORTEST:
            text = f"{text} {words[first]}".strip()
            first += 1
        words = words[first:]
        if SHORTEST <= len(text) <= LONGEST:
            found.append(text)
    return found


def split_sentences(sentences: Sequence[str], number: int, seed: int) -> tuple[list[str], list[str]]:
    """Training sentences, and `number` texts to speak whose sentences are not among them."""
    order = [sentences[i] for i in np.random.default_rng(seed).permutation(len(sentences))]
    held_out = order[: max(15 * number, len(order) // 10)] if len(order) > 30 * number else order[: len(order) // 4]
    spoken = utterances(held_out, number)
    if not spoken:
        raise ValueError(f"{len(sentences)} sentences are too few to speak a text of {SHORTEST} characters; give more")
    return order[len(held_out) :], spoken


def estimate(sentences: Sequence[str], order: int, cutoffs: Sequence[int], lmplz: Path | None, path: Path) -> None:
    """Write an ARPA file, estimated by hfaudio or, where it is given, by KenLM's lmplz."""
    if lmplz is None:
        from hfaudio.ngram.model import NGramLM

        NGramLM.from_text(sentences, order=order, prune=tuple(cutoffs)).save(path)
        return
    prune = ["--prune", *map(str, cutoffs)] if any(cutoffs) else []
    command = [os.fspath(lmplz), "-o", str(order), "-S", "500M", "--discount_fallback", *prune]
    subprocess.run(
        [*command, "--arpa", os.fspath(path)],
        input="\n".join(sentences).encode(),
        check=True,
        stderr=DEVNULL,
    )


def make_task(args: argparse.Namespace, folder: Path, sentences: Sequence[str]) -> Task:
    """LM files in the folder, all from one ARPA: KenLM's own where build_binary lies beside lmplz, ours, a graph's."""
    from hfaudio.ngram.model import NGramLM

    arpa, graph_arpa, own_lm = folder / "lm.arpa", folder / "graph.arpa", folder / "lm.ngram"
    if args.lm is None:
        estimate(sentences, args.order, (), args.lmplz, arpa)
    lm = arpa if args.lm is None else args.lm
    own = NGramLM.load(lm)
    if own.kernel.is_probing:
        own_lm = lm  # KenLM's binary, which is mapped as it is
    else:
        own.save(own_lm)
        if args.lmplz is not None and (build_binary := args.lmplz.with_name("build_binary")).exists():
            binary = folder / "lm.bin"
            subprocess.run([build_binary, lm, binary], check=True, stdout=DEVNULL, stderr=DEVNULL)
            lm = binary
    estimate(sentences, 3, GRAPH_CUTOFFS, args.lmplz, graph_arpa)
    labels = tuple("" if i in range(*SPECIALS.indices(len(LABELS))) else label for i, label in enumerate(LABELS))
    words = tuple(word for word in own.words if word not in ("<unk>", "<s>", "</s>"))
    return Task(labels, words, os.fspath(lm), os.fspath(own_lm), os.fspath(graph_arpa), beam_width=args.beam_width)


@dataclass
class Measured:
    """One decoder at one setting on one kind of input: its texts, and CPU seconds of every pass over them."""

    name: str
    point: str
    condition: str
    settings: Mapping[str, Any]
    decode: Decode = field(repr=False)
    log_probs: np.ndarray = field(repr=False)
    texts: list[str] = field(default_factory=list, repr=False)
    passes: list[float] = field(default_factory=list)

    def warm_up(self, seconds: float) -> None:
        """Decode a few utterances, and keep as many of all as fit into the seconds (at least five)."""
        self.decode(self.log_probs[0])  # what the first call compiles or reads does not count
        start, number = process_time(), 0
        while number < min(WARM_UP, len(self.log_probs)) and process_time() - start < seconds / 4:
            self.decode(self.log_probs[number])
            number += 1
        each = max((process_time() - start) / max(number, 1), 1e-9)
        self.log_probs = self.log_probs[: max(FEWEST, int(seconds / each))]

    def run(self) -> None:
        start = process_time()
        self.texts = [self.decode(utterance) for utterance in self.log_probs]
        self.passes.append(process_time() - start)

    def row(self, references: Sequence[str], seed: int) -> dict[str, Any]:
        """Figures: speed of the best pass, slowest and fastest pass, WER with its interval over these utterances."""
        tally = ErrorTally()
        for reference, text in zip(references, self.texts, strict=False):
            tally.add(reference, text)
        rate, number = tally.rate("wer", seed=seed), len(self.log_probs)
        return {
            "decoder": self.name,
            "setting": self.point,
            "condition": self.condition,
            "settings": {name: str(value) for name, value in self.settings.items()},
            "utterances": number,
            "utterances_per_second": number / min(self.passes),
            "slowest_pass": number / max(self.passes),
            "milliseconds_per_audio_second": 1000 * min(self.passes) / (number * FRAMES * FRAME_SECONDS),
            "wer": 100 * rate.value,
            "wer_low": 100 * rate.low,
            "wer_high": 100 * rate.high,
        }


def probe(name: str, task_file: Path) -> dict[str, float]:
    """In a fresh process: seconds until the decoder is there, of its first and tenth utterance, and peak memory."""
    content: dict[str, Any] = json.loads(task_file.read_text(encoding="utf-8"))
    task = Task(**content)
    log_probs = np.load(task_file.with_name("probe.npy"))
    [contestant] = [contestant for contestant in CONTESTANTS if contestant.name == name]
    before, start = peak_megabytes(), perf_counter()
    decode = contestant(task).decoder(**next(iter(contestant.points.values())))
    built = perf_counter()
    decode(log_probs[0])
    first = perf_counter()
    for utterance in log_probs:
        decode(utterance)
    return {
        "start_seconds": built - start,
        "first_utterance_seconds": first - built,
        "later_utterance_seconds": (perf_counter() - first) / len(log_probs),
        "peak_megabytes": peak_megabytes(),
        "megabytes_before": before,
    }


def peak_megabytes() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak / 1e3  # bytes there, kilobytes here


def probe_process(name: str, task_file: Path, **environment: str) -> dict[str, float]:
    """`probe` in a process of its own."""
    command = [sys.executable, __file__, "--probe", name, os.fspath(task_file)]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **environment}
    done = subprocess.run(command, check=True, stdout=PIPE, stderr=DEVNULL, env=environ)
    return json.loads(done.stdout.splitlines()[-1])


def start_up(
    contestants: Sequence[type[Contestant]], task: Task, folder: Path, log_probs: np.ndarray
) -> dict[str, Any]:
    """Start-up time and memory of each decoder; ours with an empty cache of compiled code, then with a full one."""
    np.save(folder / "probe.npy", log_probs[:WARM_UP])
    task_file = folder / "task.json"
    task_file.write_text(json.dumps(asdict(task)), encoding="utf-8")
    cache = {"NUMBA_CACHE_DIR": os.fspath(folder / "numba")}
    found: dict[str, Any] = {}
    if HFAudio in contestants:
        found["hfaudio, first use"] = probe_process(HFAudio.name, task_file, **cache)
    for contestant in contestants:
        found[contestant.name] = probe_process(contestant.name, task_file, **cache)
    return found


def threads(own: HFAudio, log_probs: np.ndarray, repeats: int) -> dict[str, float]:
    """Wall-clock utterances a second of `decode_batch` with one and with two threads, best of alternating runs."""
    searcher = own.searcher()
    batch = np.resize(log_probs, (THREADED_CLIPS, *log_probs.shape[1:]))
    best = {1: float("inf"), 2: float("inf")}
    for _ in range(repeats):
        for number in best:
            start = perf_counter()
            searcher.decode_batch(list(batch), num_threads=number)
            best[number] = min(best[number], perf_counter() - start)
    speeds = {f"{number}_threads": len(batch) / seconds for number, seconds in best.items()}
    return {**speeds, "speedup": best[1] / best[2]}


def agreement(measured: Sequence[Measured]) -> dict[str, float]:
    """Share of equal texts of ours at pyctcdecode's pruning and of pyctcdecode with its end mended, on each input."""
    same_pruning = [name for name in HFAudio.points if name.startswith("pyctcdecode")]
    ours = {m.condition: m for m in measured if m.name == HFAudio.name and m.point in same_pruning}
    theirs = {m.condition: m for m in measured if m.name == PatchedPyCTCDecode.name}
    shares = {}
    for condition in ours.keys() & theirs.keys():
        pairs = list(zip(ours[condition].texts, theirs[condition].texts, strict=False))
        shares[condition] = sum(a == b for a, b in pairs) / len(pairs)
    return shares


def on_front(row: Mapping[str, Any], rows: Iterable[Mapping[str, Any]]) -> bool:
    """Whether no other row of its kind of input is both faster and at most as wrong."""
    rivals = [other for other in rows if other["condition"] == row["condition"] and other is not row]
    return not any(
        other["utterances_per_second"] > row["utterances_per_second"] and other["wer"] <= row["wer"]
        for other in rivals
    )


def table(rows: Sequence[Mapping[str, Any]], starts: Mapping[str, Mapping[str, float]]) -> str:
    """Markdown: speed and WER of every setting, bold where nothing is both faster and better; then start-up."""
    conditions = list(dict.fromkeys(row["condition"] for row in rows))
    titles = [f"{condition}: {column}" for condition in conditions for column in ("utterances/s", "WER %")]
    lines = [f"| decoder | setting | {' | '.join(titles)} |", f"|---|---|{'---:|' * len(titles)}"]
    for (name, setting), group in groupby(rows, key=lambda row: (row["decoder"], row["setting"])):
        cells = []
        for row in group:
            share = "" if row["utterances"] == rows[0]["utterances"] else f" (n = {row['utterances']})"
            mark = "**" if on_front(row, rows) else ""
            cells += [f"{mark}{row['utterances_per_second']:,.4g}{mark}", f"{mark}{row['wer']:.2f}{mark}{share}"]
        lines.append(f"| {name} | {setting} | {' | '.join(cells)} |")
    lines += ["", "| decoder | start s | first utterance s | peak memory MB |", "|---|---:|---:|---:|"]
    for name, start in starts.items():
        figures = start["start_seconds"], start["first_utterance_seconds"], start["peak_megabytes"]
        lines.append(f"| {name} | {figures[0]:.2f} | {figures[1]:.3f} | {figures[2]:.0f} |")
    return "\n".join(lines) + "\n"


def draw(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """A panel for each kind of input: WER over utterances a CPU second, a line for each decoder."""
    from matplotlib.figure import Figure

    conditions = list(dict.fromkeys(row["condition"] for row in rows))
    figure = Figure(figsize=(6.5 * len(conditions), 5), layout="constrained")
    for axes, condition in zip(figure.subplots(1, len(conditions), squeeze=False)[0], conditions, strict=True):
        panel = sorted(
            (row for row in rows if row["condition"] == condition), key=lambda row: row["utterances_per_second"]
        )
        for name in dict.fromkeys(row["decoder"] for row in rows):
            line = [row for row in panel if row["decoder"] == name]
            speeds, rates = [row["utterances_per_second"] for row in line], [row["wer"] for row in line]
            axes.plot(speeds, rates, "o-" if name == HFAudio.name else "s--", label=name)
        front = [row for row in panel if on_front(row, panel)]
        axes.step(
            [row["utterances_per_second"] for row in front],
            [row["wer"] for row in front],
            where="pre",
            color="0.7",
            linewidth=5,
            zorder=0,
            label="front",
        )
        axes.set(xscale="log", xlabel="utterances of 10 s a CPU second", ylabel="WER %", title=f"{condition} input")
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=120)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, help="Sentences, one a line; the bundled transcripts if not given.")
    parser.add_argument("--held_out", type=Path, help="Sentences to speak; some of --text if not given.")
    parser.add_argument("--lm", type=Path, help="ARPA or KenLM probing .bin to take instead of estimating one.")
    parser.add_argument("--lmplz", type=Path, help="KenLM's estimator to use instead of ours.")
    parser.add_argument("--order", type=int, default=3, help="Order of the LM.")
    parser.add_argument("--utterances", type=int, default=200, help="How many are decoded.")
    parser.add_argument("--beam_width", type=int, default=100, help="Of every decoder that has one.")
    parser.add_argument("--repeats", type=int, default=5, help="Passes; the best one counts.")
    parser.add_argument("--seconds", type=float, default=12, help="CPU seconds of a setting in one pass, about.")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="Decoders whose name begins so.")
    parser.add_argument("--seed", type=int, default=1, help="Of the split and of the log-probabilities.")
    parser.add_argument("-o", "--output", type=Path, default=Path("decoding.json"), help="Where figures go.")
    parser.add_argument("--probe", nargs=2, metavar=("NAME", "TASK"), help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    args = parse(argv)
    if args.probe:
        found = probe(args.probe[0], Path(args.probe[1]))
        print(json.dumps(found))
        return found
    start, load = perf_counter(), os.getloadavg()[0]
    wanted = [c for c in CONTESTANTS if not args.only or c.name.startswith(tuple(args.only))]
    absent = {contestant.name: missing(contestant) for contestant in wanted if missing(contestant)}
    for name, modules in absent.items():
        print(f"{name}: not installed ({', '.join(modules)})")
    contestants = [contestant for contestant in wanted if contestant.name not in absent]

    sentences = read_sentences(args.text)
    if args.held_out is None:
        sentences, references = split_sentences(sentences, args.utterances, args.seed)
    else:
        references = utterances(read_sentences(args.held_out), args.utterances)
    inputs = sharp_and_flat(references, args.seed)
    with tempfile.TemporaryDirectory() as work:
        task = make_task(args, Path(work), sentences)
        starts = start_up(contestants, task, Path(work), inputs["sharp"])
        made = {contestant.name: contestant(task) for contestant in contestants}
        measured = [
            Measured(contestant.name, point, condition, settings, made[contestant.name].decoder(**settings), log_probs)
            for contestant in contestants
            for point, settings in contestant.points.items()
            for condition, log_probs in inputs.items()
        ]
        for one in measured:
            one.warm_up(args.seconds)
        for _ in range(args.repeats):
            for one in measured:
                one.run()
        own = made.get(HFAudio.name)
        threaded = {}
        if isinstance(own, HFAudio):
            threaded = {condition: threads(own, log_probs, args.repeats) for condition, log_probs in inputs.items()}

    rows = [one.row(references, args.seed) for one in measured]
    text = table(rows, starts)
    print(text)
    args.output.with_suffix(".md").write_text(text, encoding="utf-8")
    draw(rows, args.output.with_suffix(".png"))
    distributions = packages_distributions()
    peers = {module.split(".")[0] for contestant in contestants for module in contestant.modules}
    facts = {
        "rows": rows,
        "start_up": starts,
        "threads": threaded,
        "agreement_with_mended_pyctcdecode": agreement(measured),
        "not_installed": absent,
        "peer_versions": {name: version(distributions[name][0]) for name in sorted(peers)},
        "utterances": len(references),
        "training_words": sum(len(sentence.split()) for sentence in sentences),
        "machine": f"{os.cpu_count()} cores, load average {load:.1f} before",
    }
    seconds = perf_counter() - start
    return write_results(args.output, {}, seed=args.seed, seconds=seconds, command=command_line(), **facts)


if __name__ == "__main__":
    main()
