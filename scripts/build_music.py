"""Music clips with known instrument, tempo, key, mood and metre, and captions: the bundled music dataset.

    sudo apt install fluidsynth fluid-soundfont-gm && pip install mido
    python scripts/build_music.py -o hfaudio/data/bundled/music --tunes 40 --format opus     # what the package ships
    python scripts/build_music.py -o music --tunes 300                                        # 3,000 clips, FLAC

Draws tunes by rule (scripts/music_score.py), plays each of them ten times in other keys, tempos and instruments, cuts
clips of 5.12 s, and writes parquet shards with a dataset card. The same seed, soundfont and fluidsynth give the same
clips. A tune is in one split only, and twelve pairs of instrument and key are in the test split only.
"""

import argparse
import random
import re
import subprocess
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import DatasetInfo
from datasets.info import DatasetInfosDict
from huggingface_hub import DatasetCardData
from music_render import LEVEL_DB, Recording, add_recording_options, features, recorded, recording_of, write_splits
from music_score import BEATS, PHRASE_STARTS, PROGRAMS, TEXTURES, Tune, draw_tune, perform
from tqdm import tqdm

from hfaudio.text.prompts import FORMS, INSTRUMENTS, MOODS, TEMPLATES, TEMPOS, TONICS, Facts, draw_prompt

CLIPS_A_TUNE = 10
BPM = {"slow": (60, 80), "medium": (95, 115), "fast": (140, 165)}  # bands with gaps between them
VALIDATION_SHARE, TEST_SHARE = 1 / 15, 1 / 10  # of the tunes
UNSEEN_PAIRS = 12
UNSEEN_SHARE = 0.25  # of the test clips

FACTS = {
    "instrument": "string",
    "tempo": "string",  # band
    "bpm": "int32",
    "key": "string",
    "mood": "string",
    "metre": "string",
    "form": "string",
    "texture": "string",
    "tune": "string",
    "unseen_pair": "bool",
}


@dataclass(frozen=True)
class Clip:
    """What a clip is; `facts.tempo` and `facts.mood` are words, `tempo` is the band."""

    id: str
    split: str
    number: int
    tune: Tune
    facts: Facts
    tempo: str
    bpm: int
    texture: str
    first_bar: int
    text: str
    unseen_pair: bool


def draw_unseen_pairs(rng: random.Random) -> set[tuple[str, str]]:
    """Twelve pairs of instrument and key: no instrument in more than two of them, no key in more than one."""
    keys = rng.sample([f"{tonic} {mode}" for tonic in TONICS for mode in MOODS], UNSEEN_PAIRS)
    instruments = rng.sample(INSTRUMENTS * 2, UNSEEN_PAIRS)
    return set(zip(instruments, keys, strict=True))


def plan(tunes: int, seed: int) -> list[Clip]:
    """The clips of all splits: which tune is played how, and what is said about it."""
    unseen = draw_unseen_pairs(random.Random(f"{seed} pairs"))
    held_out = round(tunes * VALIDATION_SHARE), round(tunes * TEST_SHARE)
    if min(held_out) < 1:
        raise SystemExit(f"--tunes is {tunes}: validation and test need a tune each, ask for 10 or more")
    splits = ["validation"] * held_out[0] + ["test"] * held_out[1]
    splits += ["train"] * (tunes - len(splits))
    clips = []
    for number, split in enumerate(splits):
        rng = random.Random(f"{seed} tune {number}")
        metre = rng.choice(tuple(BEATS))
        tune, form = draw_tune(metre, rng), rng.choice(FORMS[metre])
        instruments = rng.sample(INSTRUMENTS, len(INSTRUMENTS)) + rng.sample(INSTRUMENTS, CLIPS_A_TUNE % 8)
        for k, instrument in enumerate(instruments):
            key, is_unseen = draw_key(instrument, split, unseen, rng)
            band = tuple(TEMPOS)[(number + k) % len(TEMPOS)]
            mood = rng.choice(MOODS[key.rpartition(" ")[2]])
            facts = Facts(instrument, rng.choice(TEMPOS[band]), mood, key, metre, form)
            clips.append(
                Clip(
                    id=f"{split}-{number:04d}-{k}",
                    split=split,
                    number=number,
                    tune=tune,
                    facts=facts,
                    tempo=band,
                    bpm=rng.randint(*BPM[band]),
                    texture=rng.choices(tuple(TEXTURES), tuple(TEXTURES.values()))[0],
                    first_bar=rng.choice(PHRASE_STARTS),
                    text=draw_prompt(facts, rng),
                    unseen_pair=is_unseen,
                )
            )
    return clips


def draw_key(instrument: str, split: str, unseen: set[tuple[str, str]], rng: random.Random) -> tuple[str, bool]:
    """A key for the instrument, and whether this is one of the unseen pairs, which only the test split has."""
    held_out = sorted(key for other, key in unseen if other == instrument)
    if split == "test" and held_out and rng.random() < UNSEEN_SHARE:
        return rng.choice(held_out), True
    keys = [f"{tonic} {mode}" for tonic in TONICS for mode in MOODS]
    return rng.choice([key for key in keys if key not in held_out]), False


def render(piece: Clip, seed: int, recording: Recording) -> dict[str, Any]:
    """The clip's row, with the audio encoded."""
    sounds = perform(
        piece.tune,
        instrument=piece.facts.instrument,
        key=piece.facts.key,
        bpm=piece.bpm,
        texture=piece.texture,
        first_bar=piece.first_bar,
        seconds=recording.seconds,
        rng=random.Random(f"{seed} {piece.id}"),
    )
    return recorded(sounds, PROGRAMS[piece.facts.instrument], piece.id, seed, recording) | {
        "text": piece.text,
        "instrument": piece.facts.instrument,
        "tempo": piece.tempo,
        "bpm": piece.bpm,
        "key": piece.facts.key,
        "mood": piece.facts.mood,
        "metre": piece.facts.metre,
        "form": piece.facts.form,
        "texture": piece.texture,
        "tune": f"{piece.number:04d}",
        "unseen_pair": piece.unseen_pair,
    }


CARD = """
# Synthetic music clips

{clips:,} clips of {seconds:g} s, {hours:.2f} hours, each with its facts (instrument, tempo, key, mood, metre) and a
caption in the language of hfaudio's bundled spoken prompts. Tunes and performances are made by rule and played by a
**sampled General MIDI soundfont**: nobody composed or played them. They exist so that a codec and a text-to-music
model can be trained, and their obedience measured, where the truth is known.

```python
from datasets import load_dataset

dataset = load_dataset(FOLDER, streaming=True)  # rows hold undecoded {{"bytes", "path"}}
```

## Splits

| split | clips | tunes | parquet files | MB |
|---|---|---|---|---|
{split_table}

No tune is in two splits. These pairs of instrument and key are in the test split only (`unseen_pair`): {pairs}.

## Rows

`text` is the caption: one of {templates} templates, each naming some of the facts. `instrument` is one of
{instruments}. `tempo` is the band of `bpm`: {bands}. `key` is one of 24; the words for mood follow the mode: {moods}.
`metre` is three four or four four, `form` a word that the metre allows (waltz, march), `texture` what plays beside the
melody (all on the same instrument), `tune` the number of the tune.

Audio: {sample_rate:,} Hz, {channels}, {file_format}, {kbits:.0f} kbit/s; clips begin at a phrase and are cut off.

## How it was made

`python {command}`

with {fluidsynth} and FluidR3 GM (Frank Wen, MIT licence; Debian's fluid-soundfont-gm). A tune is a
period of 16 bars (A A' B A') over chords of the first, fourth, fifth and sixth degree with half and full cadences,
written in degrees of the scale; minor has its seventh degree raised over the dominant. Every tune is played
{clips_a_tune} times, with other instruments, keys, tempos and textures. RMS level between {level[0]:g} and
{level[1]:g} dB, peaks below 0.9.

## Limits

One instrument at a time, no voice, no drums, no change of key or tempo, 15 chord patterns: music for measuring, not
for listening. A model trained on it knows this closed language and these eight sounds.
"""


def write_card(
    rows: Mapping[str, Sequence[Mapping[str, Any]]], seed: int, recording: Recording, folder: Path, command: str
) -> None:
    """README.md, with every figure taken from the rows and the files."""
    everything = [row for split in rows.values() for row in split]
    table = []
    for split, clips in rows.items():
        files = sorted(folder.glob(f"data/{split}-*.parquet"))
        megabytes = sum(f.stat().st_size for f in files) / 1e6
        cells = (split, len(clips), len({row["tune"] for row in clips}), len(files), f"{megabytes:.1f}")
        table.append(f"| {' | '.join(map(str, cells))} |")
    seconds = sum(row["seconds"] for row in everything)
    said = subprocess.run(["fluidsynth", "--version"], capture_output=True, text=True, check=True).stdout
    body = CARD.format(
        clips=len(everything),
        seconds=recording.seconds,
        hours=seconds / 3600,
        split_table="\n".join(table),
        pairs=", ".join(sorted(f"{i} in {k}" for i, k in draw_unseen_pairs(random.Random(f"{seed} pairs")))),
        templates=len(TEMPLATES),
        instruments=", ".join(INSTRUMENTS),
        bands=", ".join(f"{band} {low} to {high}" for band, (low, high) in BPM.items()),
        moods="; ".join(f"{mode}: {', '.join(words)}" for mode, words in MOODS.items()),
        sample_rate=recording.sample_rate,
        channels="mono" if recording.channels == 1 else "stereo",
        file_format=recording.file_format.capitalize() if recording.file_format == "opus" else "FLAC",
        kbits=8e-3 * sum(len(row["audio"]["bytes"]) for row in everything) / seconds,
        command=command,
        fluidsynth=f"fluidsynth {re.findall(r'[0-9]+(?:[.][0-9]+)+', said)[0]}",
        clips_a_tune=CLIPS_A_TUNE,
        level=LEVEL_DB,
    )
    metadata = DatasetCardData(
        pretty_name="Synthetic music clips",
        language=["en"],
        license="apache-2.0",
        task_categories=["text-to-audio"],
        size_categories=["1K<n<10K" if len(everything) >= 1000 else "n<1K"],
        tags=["audio", "synthetic", "music"],
        configs=[
            {
                "config_name": "default",
                "data_files": [{"split": split, "path": f"data/{split}-*.parquet"} for split in rows],
            }
        ],
    )
    info = DatasetInfo(features=features(FACTS, recording.sample_rate))
    DatasetInfosDict(default=info).to_dataset_card_data(metadata)
    (folder / "README.md").write_text(f"---\n{metadata.to_yaml()}\n---\n{body}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "-o", "--output", type=Path, required=True, help="folder whose data/ and README.md are replaced"
    )
    parser.add_argument("--tunes", type=int, default=300, help="each is played ten times (default: 300)")
    parser.add_argument("--seed", type=int, default=0, help="of tunes and performances (default: 0)")
    add_recording_options(parser)
    args = parser.parse_args()

    recording = recording_of(args)
    clips = plan(args.tunes, args.seed)
    with ThreadPoolExecutor(2) as pool:  # fluidsynth is a process of its own
        jobs = pool.map(lambda piece: render(piece, args.seed, recording), clips)
        rows = list(tqdm(jobs, total=len(clips), unit="clip"))

    by_split = write_splits(rows, features(FACTS, recording.sample_rate), args.output)
    options = f"--tunes {args.tunes} --seed {args.seed} --seconds {args.seconds:g} --format {args.format}"
    options += f" --sample_rate {args.sample_rate} --channels {args.channels}"
    write_card(by_split, args.seed, recording, args.output, f"scripts/build_music.py {options}")
    size = sum(f.stat().st_size for f in args.output.rglob("*") if f.is_file())
    counts = Counter(row["instrument"] for row in rows)
    print(f"{len(rows):,} clips ({dict(counts)}), {size / 1e6:.1f} MB in {args.output}")


if __name__ == "__main__":
    main()
