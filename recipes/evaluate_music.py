"""How much of music, or speech, is left after a codec, beside Opus, MP3 and AAC at measured bit rates.

    python recipes/evaluate_music.py codec --model output/codec --dataset bundled_music
    python recipes/evaluate_music.py codec --model output/codec --dataset bundled --asr output/asr_ctc --facts none

Each test clip goes through the codec at each of its bandwidths and through the peers. Scored are SI-SDR, mel and STFT
distance, a Fréchet distance with its floor, and what can still be heard: instrument, tempo and key by judges that
were trained on other tunes after the same codec, and words by a recogniser. Writes metrics.json, table.md and
rate_distortion.png to --output_dir.
"""

import logging
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from tqdm import tqdm

from hfaudio.audio.lossy import Lossy, round_trip
from hfaudio.data.datasets import DataArguments, RowCheck, check_rows, load_split
from hfaudio.data.examples import random_rows
from hfaudio.inference.codec import Codec
from hfaudio.inference.transcribe import Transcriber
from hfaudio.metrics.error_rate import word_error_rate
from hfaudio.metrics.frechet import HubEmbedding, LogMelStatistics, frechet_with_floor
from hfaudio.metrics.obedience import ATTRIBUTES, Judges, music_features
from hfaudio.metrics.results import Result, command_line, result_line, write_results
from hfaudio.metrics.signal import mean_distances, signal_distances
from hfaudio.text.normalize import normalize
from hfaudio.training.arguments import parse_arguments

logger = logging.getLogger(__name__)

Coder = Callable[[np.ndarray], tuple[np.ndarray, float]]  # samples (N,) -> samples (N,), bits a second


@dataclass
class MusicDataArguments(DataArguments):
    dataset: str = field(default="bundled_music", metadata={"help": "As of the other recipes."})


@dataclass
class CodecEvaluation:
    model: str = field(default="bundled", metadata={"help": "EnCodec: folder, Hub id or 'bundled'."})
    bandwidths: list[float] | None = field(default=None, metadata={"help": "In kbit/s (all that the model has)."})
    peers: list[str] = field(
        default_factory=lambda: ["opus:6000", "opus:12000", "opus:24000", "mp3:8000", "mp3:32000", "aac:16000"],
        metadata={"help": "Codecs beside it, with bits a second; 'none' for none. By PyAV."},
    )
    facts: list[str] = field(
        default_factory=lambda: ["instrument", "tempo", "key"],
        metadata={"help": "Columns that judges listen for, in this order; 'none' for no judges."},
    )
    judge_split: str = field(default="train", metadata={"help": "Split whose clips train the judges."})
    judge_clips: int = field(default=600, metadata={"help": "Clips that train the judges, for each codec."})
    asr: str | None = field(default=None, metadata={"help": "Recogniser (folder or id) for the word error rate."})
    frechet: str = field(
        default="log_mel", metadata={"help": "Features of the Fréchet distance: log_mel, an audio model's id, none."}
    )
    test_clips: int = field(default=300, metadata={"help": "Clips of the test split that are scored."})
    output_dir: str = field(default="output/evaluate_codec", metadata={"help": "Where results go."})
    device: str = field(default="cpu", metadata={"help": "Of the codec and of the models that judge it."})
    seed: int = field(default=0, metadata={"help": "Of the choice of clips and of random draws."})


ARGUMENTS = (MusicDataArguments, CodecEvaluation)


def evaluate_codec(argv: list[str]) -> dict[str, Any]:
    start = time.time()
    data_args, args = parse_arguments(*ARGUMENTS, argv=argv)
    logging.basicConfig(level=logging.INFO)
    output_dir = Path(args.output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)

    # Who codes: nobody (what the judges hear at best), the codec at each bandwidth, the peers.
    codec = Codec(args.model, args.device)
    rate = codec.config.sampling_rate
    coders: dict[str, Coder] = {"original": lambda samples: (samples, 16.0 * rate)}
    for bandwidth in args.bandwidths or codec.config.target_bandwidths:
        coders[f"codec {bandwidth:g} kbit/s"] = neural_coder(codec, bandwidth)
    for peer in [] if args.peers == ["none"] else args.peers:
        name, _, bit_rate = peer.partition(":")
        coders[f"{name} {int(bit_rate) / 1000:g} kbit/s"] = peer_coder(Lossy(name, int(bit_rate)), rate)  # type: ignore[arg-type]

    # Clips: those that are scored, and others of which judges learn.
    judged = args.facts != ["none"]
    data_args.fact_columns = args.facts if judged else None
    row_check = RowCheck(rate, data_args.normalizer, max_seconds=data_args.max_seconds, labelled=args.asr is not None)
    test_rows, test = clips_of(data_args, row_check, data_args.test_split or "test", args.test_clips, args.seed)
    if judged:
        facts = facts_of(test_rows, args.facts)
        train_rows, train = clips_of(data_args, row_check, args.judge_split, args.judge_clips, args.seed)
        train_facts = facts_of(train_rows, args.facts)
    embed: Any = None
    if args.frechet != "none":
        embed = LogMelStatistics(rate) if args.frechet == "log_mel" else HubEmbedding(args.frechet, args.device)
        real = embed(test, rate)
    asr = Transcriber(args.asr, device=args.device) if args.asr else None
    chances: dict[str, float] = {}

    metrics: dict[str, Result] = {}
    bits: dict[str, float] = {}
    table: list[dict[str, Any]] = []
    for name, code in coders.items():
        coded = [code(clip) for clip in tqdm(test, desc=name)]
        copies = [samples for samples, _ in coded]
        bits[name] = float(np.mean([measured for _, measured in coded]))
        found: dict[str, Result] = {}
        if name != "original":
            pairs = zip(test, copies, strict=True)
            found |= mean_distances(
                [signal_distances(torch.from_numpy(a), torch.from_numpy(b), rate) for a, b in pairs]
            )
        if judged:
            judges = Judges.fit(
                [music_features(code(clip)[0], rate) for clip in tqdm(train, desc="judges")], train_facts
            )
            chances = judges.chances
            scores = judges.score(judges.hear([music_features(copy, rate) for copy in copies]), facts)
            found |= {attribute: score.hits for attribute, score in scores.items()}
        if asr is not None:
            texts = [asr({"array": copy, "sampling_rate": rate}).text for copy in copies]
            found["wer"] = word_error_rate(test_rows["text"], [normalize(t, data_args.normalizer) for t in texts])
        extra = {}
        if embed is not None and name != "original":
            try:
                distance = frechet_with_floor(real, embed(copies, rate), paired=True, seed=args.seed)
                extra = {"frechet": distance.distance, "frechet_floor": distance.floor, "frechet_n": distance.n}
            except ValueError as refusal:
                logger.warning("left out: %s", refusal)
                embed = None
        metrics |= {f"test/{measure}/{name}": result for measure, result in found.items()}
        table.append({"name": name, "bits": bits[name], **{m: r.value for m, r in found.items()}, **extra})
        for measure, result in found.items():
            logger.info("%s (%.0f bit/s): %s %s", name, bits[name], measure, result_line(result))

    (output_dir / "table.md").write_text(markdown(table, chances), encoding="utf-8")
    plot(table, chances, output_dir / "rate_distortion.png")
    return write_results(
        output_dir / "metrics.json",
        metrics,
        seed=args.seed,
        seconds=time.time() - start,
        command=command_line(),
        dataset=data_args.dataset,
        model=args.model,
        bits_per_second=bits,
        frechet={row["name"]: {k: v for k, v in row.items() if k.startswith("frechet")} for row in table[1:]},
        chances=chances,
        judge_clips=len(train) if judged else 0,
    )


def clips_of(
    data_args: DataArguments, check: RowCheck, split: str, count: int, seed: int
) -> tuple[Any, list[np.ndarray]]:
    """Rows without their audio, and their samples (N,)."""
    rows, counts = check_rows(load_split(data_args, split, labelled=check.labelled), check)
    logger.info("%s: %s", split, counts)
    rows = random_rows(rows, count, seed)
    return rows.remove_columns("audio"), [check.decode(row)[0] for row in rows]


def facts_of(rows: Any, columns: list[str]) -> list[dict[str, str]]:
    """What the judges are told of each row, under the names that they know."""
    return [dict(zip(("instrument", "tempo", "key"), map(row.get, columns), strict=True)) for row in rows]


def neural_coder(codec: Codec, bandwidth: float) -> Coder:
    def code(samples: np.ndarray) -> tuple[np.ndarray, float]:
        coded = codec.encode(np.tile(samples, (codec.config.audio_channels, 1)), bandwidth)
        return codec.decode(coded).mean(0), coded.bits_per_second

    return code


def peer_coder(peer: Lossy, rate: int) -> Coder:
    def code(samples: np.ndarray) -> tuple[np.ndarray, float]:
        copy = round_trip(samples, rate, peer)
        return copy.samples, copy.bits_per_second

    return code


COLUMNS = ("si_sdr", "mel", "stft", "frechet", "frechet_floor", *ATTRIBUTES, "wer")


def markdown(table: list[dict[str, Any]], chances: dict[str, float]) -> str:
    """The results as a table; shares and rates in percent."""
    columns = [column for column in COLUMNS if any(column in row for row in table)]
    lines = [f"| codec | bit/s | {' | '.join(columns)} |", "|---|---:|" + "---:|" * len(columns)]
    for row in [*table, {"name": "chance", **chances}] if chances else table:
        cells = [shown(column, row.get(column)) for column in columns]
        bits = f"{row['bits']:,.0f}" if "bits" in row else ""
        lines.append(f"| {row['name']} | {bits} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def shown(column: str, value: float | None) -> str:
    if value is None:
        return ""
    return f"{100 * value:.1f} %" if column in (*ATTRIBUTES, "wer") else f"{value:.2f}"


def plot(table: list[dict[str, Any]], chances: dict[str, float], path: Path) -> None:
    """Each measure over the measured bit rate: the codec as a line, each kind of peer as another."""
    columns = [column for column in COLUMNS if column != "frechet_floor" and any(column in row for row in table)]
    rows = -(-len(columns) // 3)
    figure, axes = plt.subplots(rows, 3, figsize=(13, 3.4 * rows), layout="constrained", squeeze=False)
    for axis in axes.flat[len(columns) :]:
        axis.set_visible(False)
    for axis, column in zip(axes.flat, columns, strict=False):
        for kind in dict.fromkeys(row["name"].split()[0] for row in table):
            points = sorted((r["bits"], r[column]) for r in table if r["name"].split()[0] == kind and column in r)
            if points and kind == "original":
                axis.axhline(points[0][1], color="grey", linestyle="--", label="original")
            elif points:
                axis.plot(*zip(*points, strict=True), marker="o", label=kind)
        if column in chances:
            axis.axhline(chances[column], color="black", linestyle=":", label="chance")
        if column == "frechet":
            axis.axhline(table[1]["frechet_floor"], color="grey", linestyle="--", label="real against real")
        axis.set(title=column, xlabel="bit/s", xscale="log")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    figure.savefig(path, dpi=100)
    plt.close(figure)


COMMANDS = {"codec": evaluate_codec}


def main(argv: list[str] | None = None) -> dict[str, Any]:
    words = sys.argv[1:] if argv is None else argv
    if not words or words[0] not in COMMANDS:
        raise SystemExit(f"{__doc__}\nthe first word says what is evaluated: {', '.join(COMMANDS)}")
    return COMMANDS[words[0]](words[1:])


if __name__ == "__main__":
    main()
