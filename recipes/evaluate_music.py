"""How much of music, or speech, is left after a codec; and whether a generator plays what a text asks for.

    python recipes/evaluate_music.py codec --model output/codec --dataset bundled_music
    python recipes/evaluate_music.py codec --model output/codec --dataset bundled --asr output/asr_ctc --facts none
    python recipes/evaluate_music.py generation --model output/musicgen --dataset bundled_music

**codec**, beside Opus, MP3 and AAC at measured bit rates. Each test clip goes through the codec at each of its
bandwidths and through the peers. Scored are SI-SDR, mel and STFT distance, a Fréchet distance with its floor, and what
can still be heard: instrument, tempo and key by judges that were trained on other tunes after the same codec, and
words by a recogniser. Writes metrics.json, table.md and rate_distortion.png to --output_dir.

**generation**. Prompts that name instrument, tempo and key are played; judges, trained on the training split after the
generator's codec, hear what came. Beside it: what they hear of real clips of the test split after that codec
(ceiling), the same audio scored by the prompts of other clips (shuffled), audio made without a prompt (null), prompts
whose pair of instrument and key was kept from training (unseen), other guidance scales, a Fréchet distance with its
floor, and how near the audio comes to single training clips. No judge from outside is asked. Writes metrics.json,
table.md, obedience.png, guidance.png, confusion.png and samples/ to --output_dir.
"""

import logging
import random
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from tqdm import tqdm

from hfaudio.audio.io import save_audio
from hfaudio.audio.lossy import Lossy, round_trip
from hfaudio.data.datasets import DataArguments, RowCheck, check_rows, load_split
from hfaudio.data.examples import random_rows
from hfaudio.inference.codec import Codec
from hfaudio.inference.generate import MusicGenerator, Sampling
from hfaudio.inference.music_report import (
    codec_table,
    confusion,
    generation_table,
    plot_codecs,
    plot_confusion,
    plot_guidance,
    plot_obedience,
)
from hfaudio.inference.spectrogram import plot_spectrograms
from hfaudio.inference.transcribe import Transcriber
from hfaudio.metrics.error_rate import word_error_rate
from hfaudio.metrics.frechet import HubEmbedding, LogMelStatistics, frechet_with_floor
from hfaudio.metrics.memorisation import OVERLAP_SECONDS, MemorisationReport, chroma_sequence, memorisation
from hfaudio.metrics.obedience import (
    KEYS,
    Facts,
    Judges,
    MusicFeatures,
    balanced_prompts,
    binomial_bar,
    music_features,
    shuffled,
)
from hfaudio.metrics.results import Result, command_line, result_line, write_results
from hfaudio.metrics.signal import mean_distances, signal_distances
from hfaudio.models.musicgen import encode_audio
from hfaudio.text.normalize import normalize
from hfaudio.text.prompts import INSTRUMENTS
from hfaudio.training.arguments import parse_arguments

logger = logging.getLogger(__name__)

Coder = Callable[[np.ndarray], tuple[np.ndarray, float]]  # samples (N,) -> samples (N,), bits a second

SAMPLES = 4  # clips that are saved

T = TypeVar("T")


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


@dataclass
class GenerationEvaluation:
    model: str = field(default="bundled", metadata={"help": "MusicGen: folder, Hub id or 'bundled'."})
    adapter: str | None = field(default=None, metadata={"help": "PEFT adapter of the model."})
    prompts: int = field(default=192, metadata={"help": "192: each of 8 instruments in each of 24 keys."})
    prompt_source: str = field(
        default="language",
        metadata={
            "help": "language: drawn from the closed language of the bundled data. dataset: the test captions, "
            "scored by the facts of their rows, those too that a caption leaves out."
        },
    )
    facts: list[str] = field(
        default_factory=lambda: ["instrument", "tempo", "key"],
        metadata={"help": "Columns that judges listen for: which instrument, how fast, in which key."},
    )
    unseen_column: str = field(
        default="unseen_pair",
        metadata={"help": "Column that is true where the pair of instrument and key was kept from training; 'none'."},
    )
    guidance_scale: float = field(default=3.0, metadata={"help": "Of the main figures."})
    guidance: list[float] = field(
        default_factory=lambda: [1.0, 2.0, 3.0, 5.0], metadata={"help": "Scales that are compared."}
    )
    temperature: float = field(default=1.0, metadata={"help": "Of the sampling."})
    top_k: int = field(default=250, metadata={"help": "Of the sampling; 0 for all codes."})
    judge_clips: int = field(default=600, metadata={"help": "Training clips of which the judges learn."})
    test_clips: int = field(default=300, metadata={"help": "Test clips: ceiling of the judges, real tunes."})
    memorisation_clips: int = field(default=3000, metadata={"help": "Training clips that are looked through."})
    output_dir: str = field(default="output/evaluate_generation", metadata={"help": "Where results go."})
    batch_size: int = field(default=16, metadata={"help": "Clips generated at once."})
    device: str = field(default="cpu", metadata={"help": "Of the generator."})
    seed: int = field(default=0, metadata={"help": "Of prompts, audio and the choice of clips."})

    def __post_init__(self) -> None:
        if self.prompt_source not in ("language", "dataset"):
            raise ValueError(f"--prompt_source must be language or dataset; got {self.prompt_source!r}")
        if len(self.facts) != 3:
            raise ValueError(f"--facts must name three columns, of instrument, tempo and key; got {self.facts}")
        if binomial_bar(self.prompts, 1 / 2) > self.prompts:
            raise ValueError(
                f"--prompts must be at least 7; got {self.prompts}, of which guessing the mode hits all too often"
            )


ARGUMENTS = {"codec": (MusicDataArguments, CodecEvaluation), "generation": (MusicDataArguments, GenerationEvaluation)}


def evaluate_codec(argv: list[str]) -> dict[str, Any]:
    start = time.time()
    data_args, args = parse_arguments(*ARGUMENTS["codec"], argv=argv)
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

    (output_dir / "table.md").write_text(codec_table(table, chances), encoding="utf-8")
    plot_codecs(table, chances, output_dir / "rate_distortion.png")
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


def evaluate_generation(argv: list[str]) -> dict[str, Any]:
    start = time.time()
    data_args, args = parse_arguments(*ARGUMENTS["generation"], argv=argv)
    logging.basicConfig(level=logging.INFO)
    output_dir = Path(args.output_dir)
    (output_dir / "samples").mkdir(parents=True, exist_ok=True)
    generator = MusicGenerator(args.model, adapter=args.adapter, device=args.device)

    # Real clips as the generator's codec gives them back: judges learn of one split and are tried on the other.
    has_unseen = args.unseen_column != "none"
    data_args.fact_columns = [*args.facts, *([args.unseen_column] if has_unseen else [])]
    check = RowCheck(
        generator.sample_rate,
        "none",
        max_seconds=data_args.max_seconds,
        labelled=args.prompt_source == "dataset",
        channels=generator.channels,
    )
    train_rows = usable_rows(data_args, check, data_args.train_split)
    test_rows = usable_rows(data_args, check, data_args.test_split or "test")
    unseen = unseen_pairs(train_rows, test_rows, args.facts, args.unseen_column) if has_unseen else set()
    if args.prompt_source == "dataset":
        asked, more = captions(test_rows, args.facts, args.prompts, args.seed), []
    else:
        rng = random.Random(args.seed)
        asked = balanced_prompts([*product(INSTRUMENTS, KEYS)], args.prompts, rng)
        more = balanced_prompts(sorted(unseen), 3 * len(unseen), rng)  # each in three tempo bands
    order = np.random.default_rng(args.seed).permutation(len(train_rows))
    train_rows = train_rows.select(order[: max(args.judge_clips, args.memorisation_clips)])
    test_rows = random_rows(test_rows, args.test_clips, args.seed)
    train_facts, test_facts = (facts_of(rows, args.facts) for rows in (train_rows, test_rows))
    if args.prompt_source == "language":
        check_labels([fact for _, fact in asked], train_facts[: args.judge_clips])
    train, test = (listen(generator, real_codes(generator, rows, check)) for rows in (train_rows, test_rows))
    judges = Judges.fit(train.features[: args.judge_clips], train_facts[: args.judge_clips])
    ceiling = judges.score(judges.hear(test.features), test_facts)

    # What is played, each prompt with a seed of its own, and what is heard.
    def play(prompts: Sequence[str | None], scale: float, first_seed: int) -> list[torch.Tensor]:
        logger.info("%d clips, guidance %g", len(prompts), scale)
        seeds = range(first_seed, first_seed + len(prompts))
        sampling = Sampling(scale, args.temperature, args.top_k)
        return generator.codes(prompts, seeds=seeds, sampling=sampling, batch_size=args.batch_size, progress=True)

    texts, facts = [text for text, _ in asked], [fact for _, fact in asked]
    first = args.seed * 1_000_000
    codes = play(texts, args.guidance_scale, first)
    made = listen(generator, codes)
    heard = {args.guidance_scale: judges.hear(made.features)}
    for scale in args.guidance:
        if scale not in heard:
            heard[scale] = judges.hear(features_of(generator, play(texts, scale, first)))
    null = judges.hear(features_of(generator, play([None] * len(texts), 1.0, first)))
    more_codes = play([text for text, _ in more], args.guidance_scale, first + len(texts))
    answers = list(zip(heard[args.guidance_scale], facts, strict=True))
    more_answers = zip(judges.hear(features_of(generator, more_codes)), (fact for _, fact in more), strict=True)
    surprising = [(ear, fact) for ear, fact in (*answers, *more_answers) if pair_of(fact) in unseen]

    # How much of what was asked for was heard, by chance and otherwise.
    groups = {
        "asked": judges.score(heard[args.guidance_scale], facts),
        "ceiling": ceiling,
        "shuffled": judges.score(heard[args.guidance_scale], shuffled(facts, args.seed)),
        "null": judges.score(null, facts),
    }
    if surprising:
        groups["unseen"] = judges.score([ear for ear, _ in surprising], [fact for _, fact in surprising])
    curve = {scale: judges.score(heard[scale], facts) for scale in sorted(heard)}
    confused = confusion(
        [fact["instrument"] for fact in facts], [ear.instrument for ear in heard[args.guidance_scale]]
    )

    # How far the audio is from real audio as a whole, and how near it comes to single clips.
    distance = or_none(lambda: frechet_with_floor(test.statistics, made.statistics, seed=args.seed))
    copies = or_none(lambda: likeness(made, test, train, generator))

    # Results, pictures, and some of the audio.
    plot_obedience(groups, output_dir / "obedience.png")
    plot_guidance(curve, output_dir / "guidance.png")
    plot_confusion(confused, output_dir / "confusion.png")
    samples = [generator.decode(clip) for clip in codes[:SAMPLES]]
    for number, clip in enumerate(samples, 1):
        save_audio(output_dir / "samples" / f"{number}.ogg", clip, generator.sample_rate)
    titles = [f"{number}: {text}" for number, text in enumerate(texts[:SAMPLES], 1)]
    plot_spectrograms(
        dict(zip(titles, samples, strict=True)), generator.sample_rate, output_dir / "samples" / "spectrograms.png"
    )
    groups |= {f"guidance {scale:g}": score for scale, score in curve.items()}
    (output_dir / "table.md").write_text(generation_table(groups, distance, copies), encoding="utf-8")
    results: dict[str, Result] = {
        f"test/{attribute}/{name}": score.hits for name, group in groups.items() for attribute, score in group.items()
    }
    for name, result in results.items():
        logger.info("%s %s", name, result_line(result))
    return write_results(
        output_dir / "metrics.json",
        results,
        seed=args.seed,
        seconds=time.time() - start,
        command=command_line(),
        dataset=data_args.dataset,
        model=args.model,
        chances=judges.chances,
        bars={name: {a: score.bar / score.hits.n for a, score in group.items()} for name, group in groups.items()},
        judge_clips=min(args.judge_clips, len(train_rows)),
        frechet=asdict(distance) if distance else {},
        memorisation=asdict(copies) if copies else {},
        confusion=confused,
        prompts=[text for text, _ in (*asked, *more)],
        first_seed=first,
        sampling={"guidance_scale": args.guidance_scale, "temperature": args.temperature, "top_k": args.top_k},
    )


@dataclass(frozen=True)
class Listened:
    """What is measured of clips: by the judges, of all together, and beside other clips (codes (K, T))."""

    features: list[MusicFeatures]
    statistics: np.ndarray
    codes: list[np.ndarray]
    chroma: list[np.ndarray]


def listen(generator: MusicGenerator, clips: Iterable[torch.Tensor]) -> Listened:
    """Of codes (K, T), each decoded once, so that real and generated clips have the codec in common."""
    rate = generator.sample_rate
    embed = LogMelStatistics(rate)
    features, statistics, codes, chroma = [], [], [], []
    for clip in tqdm(clips, desc="listening"):
        samples = generator.decode(clip).mean(0)
        features.append(music_features(samples, rate))
        statistics.append(embed([samples], rate)[0])
        codes.append(clip.cpu().numpy())
        chroma.append(chroma_sequence(samples, rate))
    return Listened(features, np.array(statistics), codes, chroma)


def features_of(generator: MusicGenerator, clips: Iterable[torch.Tensor]) -> list[MusicFeatures]:
    """Of codes (K, T), what the judges need alone."""
    rate = generator.sample_rate
    return [music_features(generator.decode(clip).mean(0), rate) for clip in tqdm(clips, desc="listening")]


def real_codes(generator: MusicGenerator, rows: Any, check: RowCheck) -> list[torch.Tensor]:
    """Codes (K, T) of the beginning of each row's audio, as long as what is generated."""
    codec, config = generator.model.audio_encoder, generator.model.decoder.config
    length = round(generator.window_seconds * generator.sample_rate)
    codes = []
    for row in tqdm(rows, desc="coding"):
        audio = torch.from_numpy(np.atleast_2d(check.decode(row)[0])[None, :, :length])
        codes.append(encode_audio(codec, audio.to(generator.model.device), config.num_codebooks)[0].cpu())
    return codes


def or_none(measure: Callable[[], T]) -> T | None:
    """What is measured, or None, with a warning, where there are too few clips, or too short ones."""
    try:
        return measure()
    except ValueError as refusal:
        logger.warning("left out: %s", refusal)
        return None


def likeness(made: Listened, real: Listened, train: Listened, generator: MusicGenerator) -> MemorisationReport:
    """To training clips; of the real ones those are taken that are as long as what is generated."""
    frames = made.codes[0].shape[1]
    whole = [number for number, codes in enumerate(real.codes) if codes.shape[1] == frames]
    chroma = made.chroma, [real.chroma[number] for number in whole], train.chroma
    return memorisation(
        made.codes,
        [real.codes[number] for number in whole],
        train.codes,
        frame_rate=generator.frame_rate,
        chroma=chroma if generator.window_seconds >= OVERLAP_SECONDS else None,
    )


def unseen_pairs(train: Any, test: Any, facts: list[str], column: str) -> set[tuple[str, str]]:
    """Instruments and keys that rows of the test split mark as kept from training; ValueError if they were not."""
    marked = test.select(np.flatnonzero(test[column]))
    pairs = {pair_of(fact) for fact in facts_of(marked, facts)}
    if known := sorted(pairs & {pair_of(fact) for fact in facts_of(train, facts)}):
        raise ValueError(
            f"{len(known)} pairs that {column!r} of the test split marks as unseen are in the training split, such as "
            f"{' in '.join(known[0])}; correct the column, or give --unseen_column none"
        )
    return pairs


def pair_of(fact: Facts) -> tuple[str, str]:
    return fact["instrument"], fact["key"]


def captions(rows: Any, columns: list[str], count: int, seed: int) -> list[tuple[str, Facts]]:
    """Captions and facts of so many rows of the test split."""
    if len(rows) < count:
        raise ValueError(
            f"--prompts {count} needs as many rows of the test split, which has {len(rows)}; ask for fewer"
        )
    rows = random_rows(rows, count, seed)
    return list(zip(rows["text"], facts_of(rows, columns), strict=True))


def check_labels(asked: list[Facts], known: list[Facts]) -> None:
    """ValueError for an instrument or tempo that the judges, who know those of the training clips, cannot name."""
    for what in ("instrument", "tempo"):
        labels = {fact[what] for fact in known}
        if strange := sorted({fact[what] for fact in asked} - labels):
            raise ValueError(
                f"the prompts ask for the {what} {strange[0]!r}, the judges know {', '.join(sorted(labels))}; use "
                "--prompt_source dataset for music that the closed language does not describe, or more --judge_clips"
            )


def usable_rows(data_args: DataArguments, check: RowCheck, split: str) -> Any:
    rows, counts = check_rows(load_split(data_args, split, labelled=check.labelled), check)
    logger.info("%s: %s", split, counts)
    return rows


def clips_of(
    data_args: DataArguments, check: RowCheck, split: str, count: int, seed: int
) -> tuple[Any, list[np.ndarray]]:
    """Rows without their audio, and their samples (N,)."""
    rows = random_rows(usable_rows(data_args, check, split), count, seed)
    return rows.remove_columns("audio"), [check.decode(row)[0] for row in rows]


def facts_of(rows: Any, columns: list[str]) -> list[Facts]:
    """What the judges are told of each row, under the names that they know."""
    return [
        dict(zip(("instrument", "tempo", "key"), values, strict=True))
        for values in zip(*map(rows.__getitem__, columns), strict=True)
    ]


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


COMMANDS = {"codec": evaluate_codec, "generation": evaluate_generation}


def main(argv: list[str] | None = None) -> dict[str, Any]:
    words = sys.argv[1:] if argv is None else argv
    if not words or words[0] not in COMMANDS:
        raise SystemExit(f"{__doc__}\nthe first word says what is evaluated: {', '.join(COMMANDS)}")
    return COMMANDS[words[0]](words[1:])


if __name__ == "__main__":
    main()
