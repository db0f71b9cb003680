"""Estimation of n-gram models: hfaudio against KenLM's lmplz, from the same text file to a model file.

    python benchmarks/ngram_estimation.py --lmplz kenlm/build/bin/lmplz --text corpus.txt -o ngram_estimation.json

Every side is a process of its own, so that figures hold its start: wall and CPU time, the peak of its resident memory
(for hfaudio with a budget this counts file pages, which the system takes back where memory is short), and the size of
what it wrote. lmplz writes an ARPA file; hfaudio writes its own file, and in a second row an ARPA file, too. The sides
take turns, pass after pass; figures are medians. The largest difference of a log10 probability or back-off between
the models is computed over all n-grams, which must be the same. Without --text a made-up text of --words words is
taken, by a seed. Writes JSON, and a Markdown table beside it. Set OMP_NUM_THREADS=1, and run it on an idle machine.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

from hfaudio.metrics.results import command_line, write_results
from hfaudio.ngram.arpa import read_arpa
from hfaudio.ngram.table import BOS, NGramTable

BINARY = "import sys; from hfaudio.cli import main; sys.exit(main())"


@dataclass(frozen=True)
class Run:
    """What one process took."""

    wall_seconds: float
    cpu_seconds: float
    peak_mib: float
    output_bytes: int


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description="Estimation of n-gram models: hfaudio against lmplz.")
    parser.add_argument("--text", type=Path, help="a sentence a line, words parted by spaces")
    parser.add_argument("--words", type=int, default=200_000, help="of the made-up text (200000)")
    parser.add_argument("--lmplz", type=Path, help="KenLM's program; without it only hfaudio is measured")
    parser.add_argument("--orders", type=int, nargs="+", default=[3, 5], help="words of the longest n-grams (3 5)")
    parser.add_argument("--memory", help="budget of both, such as 1G; lmplz takes it up at once")
    parser.add_argument("--repeats", type=int, default=3, help="passes over all sides (3)")
    parser.add_argument("--seed", type=int, default=0, help="of the made-up text (0)")
    parser.add_argument("-o", "--output", type=Path, default=Path("ngram_estimation.json"))
    args = parser.parse_args(argv)

    start, load = perf_counter(), os.getloadavg()[0]
    rows: list[dict[str, Any]] = []
    differences = {}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        text = args.text or made_up_text(work / "text.txt", args.words, args.seed)
        for order in args.orders:
            commands = sides(text, order, args.memory, args.lmplz, work)
            runs: dict[str, list[Run]] = {name: [] for name in commands}
            for command, _ in commands.values():
                subprocess.run(command, check=True, capture_output=True)  # compiled code and the text are in the cache
            for _ in range(args.repeats):
                for name, (command, output) in commands.items():
                    runs[name].append(measure(command, output))
            rows += [{"side": name, "order": order, **medians(found)} for name, found in runs.items()]
            if args.lmplz:
                differences[order] = largest_difference(work / "hfaudio.arpa", work / "lmplz.arpa")
        num_words = sum(len(line.split()) for line in open(text, "rb"))
    table = markdown(rows, differences)
    print(table)
    args.output.with_suffix(".md").write_text(table, encoding="utf-8")
    return write_results(
        args.output,
        {},
        seed=args.seed,
        seconds=perf_counter() - start,
        command=command_line(),
        rows=rows,
        largest_difference=differences,
        words=num_words,
        machine=f"{os.cpu_count()} cores, load average {load:.1f} before",
    )


def made_up_text(file: Path, num_words: int, seed: int) -> Path:
    """Sentences of 20 words: frequencies fall as in Zipf's law, and half of the words follow from the one before."""
    rng = np.random.default_rng(seed)
    words = np.minimum(rng.zipf(1.3, size=num_words), 50_000)
    settled = rng.random(num_words) < 0.5
    for index in range(1, num_words):
        if settled[index]:
            words[index] = (7919 * words[index - 1] + words[index] % 3) % 50_000
    lines = (" ".join(f"w{word}" for word in words[first : first + 20]) for first in range(0, num_words, 20))
    file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return file


def sides(
    text: Path, order: int, memory: str | None, lmplz: Path | None, work: Path
) -> Mapping[str, tuple[list[str], Path]]:
    """Command and output file of each side."""
    own = [sys.executable, "-c", BINARY, "lm", "train", str(text), "--order", str(order), "--normalizer", "none"]
    own += ["--memory", memory, "--temp_dir", str(work)] if memory else []
    commands = {
        f"hfaudio, {kind}": ([*own, "-o", str(work / file)], work / file)
        for kind, file in (("lm.ngram", "lm.ngram"), ("ARPA", "hfaudio.arpa"))
    }
    if lmplz:
        output = work / "lmplz.arpa"
        budget = ["-S", memory] if memory else []
        # a corpus for which the discounts are not defined is estimated by both in the same way
        command = [str(lmplz), "-o", str(order), "--discount_fallback", "-T", str(work), *budget]
        commands["lmplz, ARPA"] = ([*command, "--text", str(text), "--arpa", str(output)], output)
    return commands


def measure(command: list[str], output: Path) -> Run:
    """Run a command to its end."""
    start = perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    wall = perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} failed with exit code {process.returncode}; run it to see why")
    return Run(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, output.stat().st_size)


def medians(runs: Sequence[Run]) -> dict[str, float]:
    names = asdict(runs[0])
    return {name: round(median(asdict(run)[name] for run in runs), 2) for name in names}


def largest_difference(ours: Path, theirs: Path) -> float:
    """The largest |d log10| of a probability or back-off in two ARPA files.

    Raises:
        ValueError: their n-grams are not the same.
    """
    (words_a, a), (words_b, b) = read_arpa(ours), read_arpa(theirs)
    index = {word: row for row, word in enumerate(words_a)}
    words = np.array([index.get(word, -1) for word in words_b])
    if len(words_a) != len(words_b) or (words < 0).any():
        raise ValueError(f"{ours.name} has {len(words_a)} words, {theirs.name} {len(words_b)} and not the same ones")
    rows = words  # of their n-grams in our table, one order lower
    result = 0.0
    for k, (one, other) in enumerate(zip(a, b, strict=True), start=1):
        if k > 1:
            rows = matching_rows(one, rows[other.prefix], words[other.word], len(words), k)
        asked = rows != BOS if k == 1 else np.ones(len(rows), bool)  # nobody asks for p(<s>)
        for name in ("log_prob", "log_backoff"):
            difference = np.abs(getattr(one, name)[rows] - getattr(other, name))
            result = max(result, float(difference[asked | (name == "log_backoff")].max()))
    return result


def matching_rows(table: NGramTable, prefix: np.ndarray, word: np.ndarray, num_words: int, k: int) -> np.ndarray:
    """The rows of n-grams in a table, which must hold these and no others."""
    keys, wanted = table.prefix.astype(np.int64) * num_words + table.word, prefix * num_words + word
    if len(keys) != len(wanted) or not np.array_equal(np.sort(wanted), keys):
        raise ValueError(f"the models do not have the same {k}-grams: {len(keys):,} and {len(wanted):,}")
    return np.searchsorted(keys, wanted)


def markdown(rows: Sequence[Mapping[str, Any]], differences: Mapping[int, float]) -> str:
    lines = ["| order | side | wall s | CPU s | peak MiB | file MiB |", "|---:|---|---:|---:|---:|---:|"]
    for row in rows:
        figures = (row["wall_seconds"], row["cpu_seconds"], row["peak_mib"], row["output_bytes"] / 2**20)
        lines.append(f"| {row['order']} | {row['side']} | {' | '.join(f'{figure:,.1f}' for figure in figures)} |")
    lines += [f"\nOrder {order}: largest difference {value:.1e} (log10)" for order, value in differences.items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
