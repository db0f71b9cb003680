"""How much of music, or speech, is left after a codec; and whether a generator plays what a text asks for.

    python recipes/evaluate_music.py codec --model output/codec --dataset bundled_music
    python recipes/evaluate_music.py codec --model output/codec --dataset bundled --asr output/asr_ctc --facts none
    python recipes/evaluate_music.py generation --model output/musicgen --dataset bundled_music

**codec**, beside Opus, MP3 and AAC at measured bit rates. Each test clip goes through the codec at each of its
bandwidths and through the peers. Scored are SI-SDR, mel and STFT distance, a Fréchet distance with its floor, and what
can still be heard: instrument, tempo and key by judges that were trained on other tunes after the same codec, and
words by a recogniser. Writes metrics.json, table.md and rate_distortion.png to --output_dir.

**generation**. Prompts that name instrument, tempo and key are played; judges, trained on the training split after the
generator's codec, hear what came. Beside it: what they hear of real clips of the test split, the same audio scored by
the prompts of other clips, audio made without a prompt, prompts whose pair of instrument and key the training split
does not have, other guidance scales, a Fréchet distance, and whether training clips are played again. Writes
metrics.json, table.md, memorisation.md, pictures and samples/ to --output_dir.
"""

import logging
import random
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

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
    obedience_table,
    plot_codecs,
    plot_confusion,
    plot_guidance,
    plot_obedience,
    plot_spectrograms,
)
from hfaudio.inference.transcribe import Transcriber
from hfaudio.metrics.error_rate import word_error_rate
from hfaudio.metrics.frechet import HubEmbedding, LogMelStatistics, frechet_with_floor
from hfaudio.metrics.memorisation import Music, chroma_sequence, memorisation
from hfaudio.metrics.obedience import Judges, Obedience, music_features, shuffled
from hfaudio.metrics.results import Result, command_line, result_line, write_results
from hfaudio.metrics.signal import mean_distances, signal_distances
from hfaudio.models.musicgen import encode_audio
from hfaudio.text.normalize import normalize
from hfaudio.text.prompts import INSTRUMENTS, MOODS, TEMPOS, TONICS, Facts, draw_prompt
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


@dataclass
class GenerationEvaluation:
    model: str = field(default="bundled", metadata={"help": "MusicGen: folder, Hub id or 'bundled'."})
    adapter: str | None = field(default=None, metadata={"help": "PEFT adapter of the model."})
    prompts: int = field(default=192, metadata={"help": "Prompts: every instrument in every key, all tempo bands."})
    prompt_source: str = field(
        default="language",
        metadata={"help": "language: drawn from the closed language of the bundled data. dataset: the test captions."},
    )
    facts: list[str] = field(
        default_factory=lambda: ["instrument", "tempo", "key"],
        metadata={"help": "Columns that judges listen for, in this order."},
    )
    guidance_scale: float = field(default=3.0, metadata={"help": "Of the main figures."})
    guidance: list[float] = field(
        default_factory=lambda: [1.0, 2.0, 3.0, 5.0], metadata={"help": "Scales that are compared."}
    )
    temperature: float = field(default=1.0, metadata={"help": "Of the sampling."})
    top_k: int = field(default=250, metadata={"help": "Of the sampling; 0 for all codes."})
    judge_clips: int = field(default=600, metadata={"help": "Training clips of which the judges learn."})
    test_clips: int = field(default=240, metadata={"help": "Test clips: ceiling of the judges, real tunes."})
    memorisation_clips: int = field(default=3000, metadata={"help": "Training clips that are looked through."})
    output_dir: str = field(default="output/evaluate_generation", metadata={"help": "Where results go."})
    batch_size: int = field(default=16, metadata={"help": "Clips generated at once."})
    device: str = field(default="cpu", metadata={"help": "Of the generator."})
    seed: int = field(default=0, metadata={"help": "Of prompts, audio and the choice of clips."})

    def __post_init__(self) -> None:
        if self.prompt_source not in ("language", "dataset"):
            raise ValueError(f"--prompt_source must be language or dataset; got {self.prompt_source!r}")
        if self.prompts < 24:
            raise ValueError(f"--prompts is {self.prompts}: with fewer than 24 no attribute can be told from guessing")
        if self.guidance_scale not in self.guidance:
            raise ValueError(f"--guidance must contain --guidance_scale {self.guidance_scale:g}; got {self.guidance}")


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
    rate, codec = generator.sample_rate, generator.model.audio_encoder
    num_codebooks = generator.model.decoder.config.num_codebooks

    # Real clips: of the training split for judges and memorisation, of the test split for what judges hear at best.
    data_args.fact_columns = args.facts
    check = RowCheck(rate, "none", max_seconds=data_args.max_seconds, channels=generator.channels)
    counts = {"train": max(args.judge_clips, args.memorisation_clips), "test": args.test_clips}
    rows, clips, codes = {}, {}, {}
    for split, name in (("train", data_args.train_split), ("test", data_args.test_split or "test")):
        rows[split], clips[split] = clips_of(data_args, check, name, counts[split], args.seed)
        codes[split] = [
            encode_audio(codec, torch.from_numpy(np.atleast_2d(clip))[None].to(args.device), num_codebooks)[0]
            for clip in tqdm(clips[split], desc=f"coding {split}")
        ]

    def features(coded: list[torch.Tensor]) -> list[Any]:
        return [music_features(generator.decode(c).mean(0), rate) for c in tqdm(coded, desc="listening")]

    real = features(codes["test"])
    train_facts = facts_of(rows["train"], args.facts)
    judges = Judges.fit(features(codes["train"][: args.judge_clips]), train_facts[: args.judge_clips])

    # What is asked for.
    seen = {(fact["instrument"], fact["key"]) for fact in train_facts}
    if args.prompt_source == "dataset":
        chosen = random_rows(rows["test"], args.prompts, args.seed)
        asked = list(zip(chosen["text"], facts_of(chosen, args.facts), strict=True))
        unseen = []
    else:
        pairs = [(i, f"{tonic} {mode}") for tonic in TONICS for mode in MOODS for i in INSTRUMENTS]
        asked = ask([pair for pair in pairs if pair in seen], args.prompts, args.seed)
        missing = [pair for pair in pairs if pair not in seen]
        unseen = ask(missing, 3 * len(missing), args.seed) if missing else []

    def play(prompts: list[str | None], scale: float, first_seed: int) -> list[torch.Tensor]:
        sampling = Sampling(scale, args.temperature, args.top_k)
        seeds = range(first_seed, first_seed + len(prompts))
        return generator.codes(prompts, seeds=seeds, sampling=sampling, batch_size=args.batch_size, progress=True)

    # What was heard.
    texts, facts = [text for text, _ in asked], [fact for _, fact in asked]
    first = args.seed * 1_000_000
    played = {scale: play(texts, scale, first) for scale in args.guidance}
    heard = {scale: judges.hear(features(clips)) for scale, clips in played.items()}
    main_codes, main_heard = played[args.guidance_scale], heard[args.guidance_scale]
    nothing = judges.hear(features(play([None] * len(asked), 1.0, first)))
    groups: dict[str, dict[str, Obedience]] = {
        "asked": judges.score(main_heard, facts),
        "real clips of the test split": judges.score(judges.hear(real), facts_of(rows["test"], args.facts)),
        "prompts of other clips": judges.score(main_heard, shuffled(facts, args.seed)),
        "no prompt": judges.score(nothing, facts),
    }
    if unseen:
        others = play([text for text, _ in unseen], args.guidance_scale, first + len(asked))
        groups["unseen pairs"] = judges.score(judges.hear(features(others)), [fact for _, fact in unseen])
    curve = {scale: judges.score(ears, facts) for scale, ears in heard.items()}

    # How far the audio is from real audio as a whole, and how near to single clips.
    frechet: dict[str, float] = {}
    try:
        embed = LogMelStatistics(rate)
        made, other = (
            embed([generator.decode(c).mean(0) for c in part], rate) for part in (main_codes, codes["test"])
        )
        distance = frechet_with_floor(other, made, seed=args.seed)
        frechet = {"distance": distance.distance, "floor": distance.floor, "n": distance.n}
    except ValueError as refusal:
        logger.warning("no Fréchet distance: %s", refusal)
    kept = slice(args.memorisation_clips)
    copies = memorisation(
        music_of(main_codes, [generator.decode(c) for c in main_codes], rate),
        music_of(codes["test"], clips["test"], rate),
        music_of(codes["train"][kept], clips["train"][kept], rate),
        frame_rate=generator.frame_rate,
    )

    # Results, pictures, and some of the audio.
    (output_dir / "table.md").write_text(obedience_table(groups), encoding="utf-8")
    (output_dir / "memorisation.md").write_text(copies.table(), encoding="utf-8")
    plot_obedience(groups, output_dir / "obedience.png")
    plot_guidance(curve, output_dir / "guidance.png")
    plot_confusion(
        [fact["instrument"] for fact in facts], [h.instrument for h in main_heard], output_dir / "confusion.png"
    )
    samples = {text: generator.decode(clip) for text, clip in list(zip(texts, main_codes, strict=True))[:4]}
    for number, clip in enumerate(samples.values(), 1):
        save_audio(output_dir / "samples" / f"{number}.ogg", clip, rate)
    plot_spectrograms(samples, rate, output_dir / "samples" / "spectrograms.png")
    groups |= {f"guidance {scale:g}": score for scale, score in curve.items()}
    results = {f"test/{a}/{name}": score.hits for name, group in groups.items() for a, score in group.items()}
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
        bars={name: score.bar / score.hits.n for name, score in groups["asked"].items()},
        frechet=frechet,
        memorisation=asdict(copies),
        samples=list(samples),
        seeds=[first, first + len(asked) - 1],
        sampling={"temperature": args.temperature, "top_k": args.top_k, "guidance_scale": args.guidance_scale},
    )


def music_of(codes: list[torch.Tensor], clips: list[np.ndarray], rate: int) -> Music:
    """Codes (K, T) and audio, (N,) or (C, N), as the memorisation report takes them."""
    chroma = [chroma_sequence(np.atleast_2d(clip).mean(0), rate) for clip in tqdm(clips, desc="chroma")]
    return Music([c[0].cpu().numpy() for c in codes], chroma)


def ask(pairs: list[tuple[str, str]], count: int, seed: int) -> list[tuple[str, dict[str, str]]]:
    """Prompts that name instrument, key and tempo, and what they ask for: all pairs and tempo bands alike often."""
    rng = random.Random(seed)
    order = [pair for _ in range(-(-count // len(pairs))) for pair in rng.sample(pairs, len(pairs))]
    asked = []
    for number, (instrument, key) in enumerate(order[:count]):
        band = tuple(TEMPOS)[number % len(TEMPOS)]
        facts = Facts(instrument, rng.choice(TEMPOS[band]), "", key, "", "tune")
        prompt = ""
        while not all(word in prompt for word in (instrument, facts.tempo, key)):  # a template may name two of them
            prompt = draw_prompt(facts, rng)
        asked.append((prompt, {"instrument": instrument, "tempo": band, "key": key}))
    return asked


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


COMMANDS = {"codec": evaluate_codec, "generation": evaluate_generation}


def main(argv: list[str] | None = None) -> dict[str, Any]:
    words = sys.argv[1:] if argv is None else argv
    if not words or words[0] not in COMMANDS:
        raise SystemExit(f"{__doc__}\nthe first word says what is evaluated: {', '.join(COMMANDS)}")
    return COMMANDS[words[0]](words[1:])


if __name__ == "__main__":
    main()
