"""Spoken music prompts: the bundled speech dataset, made by free synthesisers.

    sudo apt install espeak-ng flite festival festvox-kallpc16k festvox-kdlpc16k festvox-us-slt-hts
    python scripts/build_speech.py -o hfaudio/data/bundled/speech

Draws prompts from one small closed language, has each spoken once by one of many voices, adds silence, level and
noise, and writes Ogg Opus in parquet shards with a dataset card: five minutes of processor time. The same seed and
packages give the same prompts, voices and waveforms; only the random stream number in the Ogg headers differs.
"""

import argparse
import io
import random
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile as sf
import torch
from datasets import Audio, DatasetInfo, Features, Value
from datasets.info import DatasetInfosDict
from huggingface_hub import DatasetCardData
from torchaudio.functional import resample
from tqdm import tqdm

from hfaudio.text.prompts import INSTRUMENTS, TEMPLATES, draw_prompts

# ---------------------------------------------------------------------------------------------------------------------
# The voices. A speaker is a person (slt speaks through two engines, kal through three) or, for the formant
# synthesiser espeak-ng, a variant, that is a set of formants and pitch; an accent on top makes another voice of the
# same speaker. Every speaker is in one split. Variants that are near copies of each other share a split or are unused.

PACKAGES = {
    "espeak-ng": ("espeak-ng",),
    "flite": ("flite",),
    "festival": ("festival", "festvox-kallpc16k", "festvox-kdlpc16k", "festvox-us-slt-hts"),
}


@dataclass(frozen=True)
class Voice:
    name: str
    speaker: str
    engine: str


def espeak(name: str) -> Voice:
    """espeak-ng's voice for accent+variant; the variant is the speaker."""
    return Voice(name, name.partition("+")[2], "espeak-ng")


TRAIN_ACCENTS = {  # accent: weight; the recorded test speakers are American
    "en-us": 4,
    "en-gb": 2,
    "en-gb-scotland": 1,
    "en-gb-x-rp": 1,
    "en-gb-x-gbclan": 1,
    "en-gb-x-gbcwmd": 1,
    "en-029": 1,
}
TRAIN_VARIANTS = (
    "m1 m2 m3 m4 m5 m7 m8 f1 f2 f3 f5 klatt klatt2 klatt3 adam Andy anika Annie antonio aunty belinda benjamin david "
    "Diogo Gene Gene2 grandma Hugo linda Marco max michel Mike Nguyen paul steph steph2 victor"
).split()
TRAIN_RECORDED = {  # voice: weight; the two recorded people of the training split
    Voice("awb", "awb", "flite"): 5,
    Voice("kal16", "kal", "flite"): 2,
    Voice("kal", "kal", "flite"): 1,  # recorded at 8 kHz
    Voice("kal_diphone", "kal", "festival"): 2,
}
RECORDED_SHARE = 0.4  # of the training clips; formant voices alone do not carry over to recorded ones
VALIDATION_VOICES = (
    Voice("ked_diphone", "ked", "festival"),
    *map(espeak, "en-us+Jacky en-us+klatt5 en-us+Michael en-gb+Andrea en-gb+ed en-gb-scotland+Lee".split()),
    *map(espeak, "en-gb-x-rp+pedro en-gb-x-gbcwmd+Storm en-029+edward".split()),
)
TEST_VOICES = (
    Voice("rms", "rms", "flite"),
    Voice("slt", "slt", "flite"),
    Voice("cmu_us_slt_arctic_hts", "slt", "festival"),
    *map(espeak, "en-us+f4 en-us-nyc+m6 en-us-nyc+Alicia en-gb+robert en-gb-scotland+Denis".split()),
    *map(espeak, "en-gb-x-rp+Alex en-gb-x-gbclan+shelby en-029+klatt4".split()),
)
HELD_OUT_SHARE = 1 / 80  # of all clips, for each voice of validation and test

PITCH = {"awb": 130.0, "kal": 100.0}  # Hz, the middle of the voices whose pitch is varied
WORDS_PER_MINUTE = 165  # espeak-ng's default is 175
LETTER_A = {"espeak-ng": "[['eI]]", "flite": "ay", "festival": "ay"}  # else "in a minor" is read with the article


@dataclass(frozen=True)
class Clip:
    id: str
    split: str
    text: str
    voice: Voice


def plan(clips: int, seed: int) -> list[Clip]:
    """Who says what: held-out voices get equal shares, training voices are drawn."""
    rng = random.Random(seed)
    each = max(1, round(clips * HELD_OUT_SHARE))
    cast = [("validation", voice) for voice in VALIDATION_VOICES * each]
    cast += [("test", voice) for voice in TEST_VOICES * each]
    if clips <= len(cast):
        raise SystemExit(f"--clips is {clips}, but validation and test take {len(cast)} of them: ask for more")
    while len(cast) < clips:
        if rng.random() < RECORDED_SHARE:
            voice = rng.choices(tuple(TRAIN_RECORDED), tuple(TRAIN_RECORDED.values()))[0]
        else:
            accent = rng.choices(tuple(TRAIN_ACCENTS), tuple(TRAIN_ACCENTS.values()))[0]
            voice = espeak(f"{accent}+{rng.choice(TRAIN_VARIANTS)}")
        cast.append(("train", voice))
    number: Counter[str] = Counter()
    result = []
    for (split, voice), text in zip(cast, draw_prompts(clips, rng), strict=True):
        result.append(Clip(f"{split}-{number[split]:05d}", split, text, voice))
        number[split] += 1
    return result


# ---------------------------------------------------------------------------------------------------------------------
# Speaking


@dataclass(frozen=True)
class Delivery:
    """How a voice says its prompt; 1 everywhere is the voice as it is."""

    rate: float = 1.0  # speaking rate
    pitch: float = 1.0  # middle of the pitch
    swing: float = 1.0  # spread of the pitch around it
    warp: float = 1.0  # formants; done by resampling, so engines are asked for pitch / warp and rate / warp


def draw_delivery(clip: Clip, rng: np.random.Generator) -> Delivery:
    """Held-out voices vary in rate only. The men awb and kal also play smaller, higher-pitched people."""
    if clip.split != "train":
        return Delivery(rate=rng.uniform(0.9, 1.15))
    rate, swing = rng.uniform(0.82, 1.2), rng.uniform(0.6, 1.8)
    if clip.voice.engine == "espeak-ng":
        return Delivery(rate, rng.uniform(0.7, 1.4), swing, rng.uniform(0.9, 1.12))
    if rng.random() < 0.5:
        return Delivery(rate, rng.uniform(0.8, 1.3), swing, rng.uniform(0.87, 1.05))
    return Delivery(rate, rng.uniform(1.3, 1.8), swing, rng.uniform(1.05, 1.15))


def command(clip: Clip, how: Delivery, wav: Path) -> list[str]:
    """The command line that writes the clip to wav."""
    voice = clip.voice
    text = re.sub(r"\ba (?=(flat )?(major|minor))", LETTER_A[voice.engine] + " ", clip.text)
    rate, pitch = how.rate / how.warp, how.pitch / how.warp
    if voice.engine == "espeak-ng":
        pitch_0_99 = min(99, round(50 * pitch))
        speed = round(WORDS_PER_MINUTE * rate)
        return ["espeak-ng", "-v", voice.name, "-s", str(speed), "-p", str(pitch_0_99), "-w", str(wav), text]
    mean, spread = PITCH.get(voice.speaker, 0.0) * pitch, 0.12 * PITCH.get(voice.speaker, 0.0) * pitch * how.swing
    if voice.engine == "flite":
        settings = [f"duration_stretch={1 / rate:.3f}"]
        if voice.speaker in PITCH:
            settings += [f"int_f0_target_mean={mean:.1f}", f"int_f0_target_stddev={spread:.1f}"]
        options = [part for setting in settings for part in ("--setf", setting)]
        return ["flite", "-voice", voice.name, *options, "-t", text, "-o", str(wav)]
    scheme = [f"(voice_{voice.name})", f"(Parameter.set 'Duration_Stretch {1 / rate:.3f})"]  # the HTS voice ignores it
    if voice.speaker in PITCH:
        params = f"(target_f0_mean {mean:.1f}) (target_f0_std {spread:.1f}) (model_f0_mean 170) (model_f0_std 34)"
        scheme.append(f"(set! int_lr_params '({params}))")
    scheme.append(f'(utt.save.wave (SynthText "{text}") "{wav}" \'riff)')
    return ["festival", "--batch", *scheme]


# ---------------------------------------------------------------------------------------------------------------------
# Recording conditions and encoding

SAMPLE_RATE = 16_000
COMPRESSION = 0.965  # libsndfile's 0..1 over Opus's 256..6 kbit/s: about 15 kbit/s


def trim(wave: np.ndarray, floor_db: float = -50.0) -> np.ndarray:
    """The wave (samples,) without what lies before and after its first and last sample above the floor."""
    loud = np.flatnonzero(np.abs(wave) > np.abs(wave).max() * 10 ** (floor_db / 20))
    return wave[loud[0] : loud[-1] + 1]


def noise(n: int, rng: np.random.Generator) -> np.ndarray:
    """n samples of white or pink noise at RMS 1."""
    wave = rng.standard_normal(n)
    if rng.random() < 0.5:
        spectrum = np.fft.rfft(wave)
        wave = np.fft.irfft(spectrum / np.sqrt(np.arange(1, len(spectrum) + 1)), n)  # power falls as 1/f
    return wave / np.sqrt(np.mean(wave**2))


def record(speech: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The speech (samples,) at a random level, between random silences, over a random noise floor."""
    speech = trim(speech)
    gain = 10 ** (rng.uniform(-30, -12) / 20) / np.sqrt(np.mean(speech**2))
    gain = min(gain, 0.9 / np.abs(speech).max())  # no clipping: a peaky voice stays below its drawn level
    before, after = (round(seconds * SAMPLE_RATE) for seconds in rng.uniform(0.05, 0.4, size=2))
    wave = np.pad(speech * gain, (before, after))
    return wave + 10 ** (rng.uniform(-65, -40) / 20) * noise(len(wave), rng)


def render(clip: Clip, rng: np.random.Generator) -> dict[str, Any]:
    """The clip's row, with the audio as Ogg Opus bytes."""
    how = draw_delivery(clip, rng)
    with tempfile.TemporaryDirectory() as folder:
        wav = Path(folder, "speech.wav")
        subprocess.run(command(clip, how, wav), check=True, stdout=subprocess.DEVNULL)
        speech, rate = sf.read(wav, dtype="float32")
    # Played faster by warp, then resampled; to 100 Hz, as the filter bank grows with rate / gcd(rates).
    played = round(rate * how.warp / 100) * 100
    wave = record(resample(torch.from_numpy(speech), played, SAMPLE_RATE).numpy(), rng)
    encoded = io.BytesIO()
    sf.write(encoded, wave, SAMPLE_RATE, format="OGG", subtype="OPUS", compression_level=COMPRESSION)
    return {
        "id": clip.id,
        "audio": {"bytes": encoded.getvalue(), "path": f"{clip.id}.opus"},
        "text": clip.text,
        "speaker": clip.voice.speaker,
        "voice": clip.voice.name,
        "engine": clip.voice.engine,
        "seconds": len(wave) / SAMPLE_RATE,
    }


# ---------------------------------------------------------------------------------------------------------------------
# Writing

SHARDS = {"train": 6, "validation": 1, "test": 1}
FEATURES = Features(
    {
        "id": Value("string"),
        "audio": Audio(sampling_rate=SAMPLE_RATE, decode=False),
        "text": Value("string"),
        "speaker": Value("string"),
        "voice": Value("string"),
        "engine": Value("string"),
        "seconds": Value("float32"),
    }
)


def write_shards(rows: list[dict[str, Any]], split: str, folder: Path) -> None:
    """Hub-style parquet shards. pyarrow writes them: datasets would import torchcodec to encode the audio column."""
    shards = SHARDS[split]
    for k in range(shards):
        table = pa.Table.from_pylist(rows[k::shards], schema=FEATURES.arrow_schema)
        pq.write_table(table, folder / f"{split}-{k:05d}-of-{shards:05d}.parquet", row_group_size=100)


CARD = """
# Spoken music prompts

{clips} short English requests for music ("slow flute tune in d minor", "i'd like a happy dance for strings"), {hours}
hours in all, each spoken once by one of {voices} **synthetic** voices. It comes with hfaudio so that a recogniser can
be trained, scored and published in minutes without a network. The same prompts describe hfaudio's bundled music.

```python
from datasets import load_dataset
from hfaudio.data.bundled import path

dataset = load_dataset(str(path("speech")), streaming=True)  # rows hold undecoded {{"bytes", "path"}}
```

## Splits

| split | clips | hours | speakers | voices | parquet files | MB |
|---|---|---|---|---|---|---|
{split_table}

No speaker and no prompt occurs in two splits, and no prompt occurs twice. A *speaker* is a person, whichever engine
speaks ("slt" in flite and in festival), or a variant of espeak-ng, whichever accent it takes on. The accent
{new_accents} occurs in test only.

| split | voices (clips) |
|---|---|
{voice_table}

## Rows

| column | is |
|---|---|
| `id` | split and number, "test-00017" |
| `audio` | `bytes` of an Ogg Opus file (mono, 16 kHz, {kbits} kbit/s on average) and a `path` that only names them |
| `text` | the prompt: a-z, space and apostrophe |
| `speaker` | person or espeak-ng variant; splits and error intervals go by it |
| `voice` | the engine's name for the voice; one speaker may have several |
| `engine` | espeak-ng, flite or festival |
| `seconds` | exact duration, {shortest} to {longest} |

The {words} words, with their counts: {vocabulary}.

## How it was made

`python scripts/build_speech.py -o FOLDER --clips {clips} --seed {seed}` with {versions}, as Debian packages them.

- *Prompts* are drawn from {templates} templates over {instruments} instruments, three bands of tempo words, moods, the
  24 major and minor keys, two metres and six forms. Facts do not contradict each other: sad, dark and dreamy go with
  minor, happy, bright and cheerful with major, a waltz is in three four time and a march in four four. The letter a in
  a key is spoken as the letter, not as the article.
- *Training voices* vary in rate, pitch, spread of pitch and formants (resampling by up to 15 %). awb and kal, the two
  recorded men, speak {recorded_share} of the training clips; in half of these they are shifted towards smaller people.
  *Validation and test voices* vary in rate only (0.9 to 1.15), cmu_us_slt_arctic_hts not at all.
- *Recording*: silence trimmed, then 0.05 to 0.4 s added on each side; level drawn from -30 to -12 dBFS RMS, lower
  where peaks would clip; white or pink noise at -65 to -40 dBFS RMS.

The same seed and packages give the same prompts, voices and waveforms. The files differ in the random stream number of
their Ogg headers.

## What follows from synthetic voices

- A word error rate on this set compares systems and shows that a training run works. It says nothing about people: no
  hesitation, no breath, no room, no overlap, no regional or non-native speaker is here. espeak-ng's accents are rules,
  not people.
- A model trained on this alone must not be offered as a recogniser of real speech.
- Most speakers are variants of one formant synthesiser, so "unseen speaker" is easier here than among people. The
  recorded voices (awb, kal; ked; rms, slt) are the closer proxy: read their error rates separately.
- The language is closed: a language model from the training prompts knows every word of the test, and its help is
  larger than on open speech.
- kal in flite was recorded at 8 kHz and has nothing above 4 kHz. The noise is stationary.
- The mix of training voices was adjusted once after the test errors of an earlier build were known, so the test split
  is not quite untouched. Tune on validation.

## Licence

The clips and this folder are released under Apache-2.0, like hfaudio. No engine and no voice file is in this folder,
only what they spoke. Their own licences, from Debian's copyright files: espeak-ng is GPL-3 or later, which covers the
program and its data; flite with its voices (Carnegie Mellon University), festival (University of Edinburgh) and the
voices kal (Alan W Black and Kevin Lenzo), ked (University of Edinburgh) and cmu_us_slt_arctic_hts (Carnegie Mellon
University; Nagoya and Tokyo Institutes of Technology) are free for any use, modification and distribution if notices
are kept and the authors' names are not used to endorse products; none of them endorses this dataset.
"""


def engine_version(engine: str) -> str:
    """The engine's name and version, "flite 2.2"."""
    said = subprocess.run([engine, "--version"], capture_output=True, text=True).stdout  # flite exits with 1
    return f"{engine} {re.findall(r'[0-9]+(?:[.][0-9]+)+', said)[0]}"


def write_card(rows: dict[str, list[dict[str, Any]]], seed: int, folder: Path) -> None:
    """README.md, with every figure taken from the rows and the files."""
    everything = [row for split in rows.values() for row in split]
    seconds = [row["seconds"] for row in everything]
    words = Counter(word for row in everything for word in row["text"].split())
    accents = {
        split: {r["voice"].partition("+")[0] for r in rows[split] if r["engine"] == "espeak-ng"} for split in rows
    }
    split_table, voice_table = [], []
    for split, clips in rows.items():
        files = sorted(folder.glob(f"data/{split}-*.parquet"))
        hours, megabytes = sum(r["seconds"] for r in clips) / 3600, sum(f.stat().st_size for f in files) / 1e6
        speakers, voices = {r["speaker"] for r in clips}, Counter(r["voice"] for r in clips)
        cells = (split, len(clips), f"{hours:.2f}", len(speakers), len(voices), len(files), f"{megabytes:.1f}")
        split_table.append(f"| {' | '.join(map(str, cells))} |")
        if split == "train":  # 260 voices: name the factors instead
            recorded = Counter(r["voice"] for r in clips if r["engine"] != "espeak-ng")
            variants = sorted({r["speaker"] for r in clips if r["engine"] == "espeak-ng"}, key=str.lower)
            said = ", ".join(f"{voice} ({n})" for voice, n in sorted(recorded.items()))
            said += f"; espeak-ng ({len(clips) - recorded.total()}): accents {', '.join(sorted(accents[split]))}"
            said += f" x variants {', '.join(variants)}"
        else:
            said = ", ".join(f"{voice} ({n})" for voice, n in sorted(voices.items()))
        voice_table.append(f"| {split} | {said} |")

    body = CARD.format(
        clips=len(everything),
        hours=f"{sum(seconds) / 3600:.2f}",
        voices=len({r["voice"] for r in everything}),
        split_table="\n".join(split_table),
        new_accents=", ".join(sorted(accents["test"] - accents["train"] - accents["validation"])),
        voice_table="\n".join(voice_table),
        kbits=f"{sum(len(r['audio']['bytes']) for r in everything) * 8 / sum(seconds) / 1000:.0f}",
        shortest=f"{min(seconds):.1f}",
        longest=f"{max(seconds):.1f}",
        words=len(words),
        vocabulary=", ".join(f"{word} {n}" for word, n in sorted(words.items())),
        seed=seed,
        versions=", ".join(map(engine_version, PACKAGES)),
        templates=len(TEMPLATES),
        instruments=len(INSTRUMENTS),
        recorded_share=f"{sum(r['engine'] != 'espeak-ng' for r in rows['train']) / len(rows['train']):.0%}",
    )
    metadata = DatasetCardData(
        pretty_name="Spoken music prompts",
        language=["en"],
        license="apache-2.0",
        task_categories=["automatic-speech-recognition"],
        size_categories=["1K<n<10K" if len(everything) >= 1000 else "n<1K"],
        tags=["audio", "synthetic", "music"],
        configs=[
            {
                "config_name": "default",
                "data_files": [{"split": split, "path": f"data/{split}-*.parquet"} for split in rows],
            }
        ],
    )
    DatasetInfosDict(default=DatasetInfo(features=FEATURES)).to_dataset_card_data(metadata)
    (folder / "README.md").write_text(f"---\n{metadata.to_yaml()}\n---\n{body}", encoding="utf-8")


# ---------------------------------------------------------------------------------------------------------------------


def check_engines() -> None:
    """Ends the program when an engine or a voice is missing. Engines replace an unknown voice in silence."""
    formant = [espeak(f"{accent}+{variant}") for accent in TRAIN_ACCENTS for variant in TRAIN_VARIANTS]
    voices = (*formant, *TRAIN_RECORDED, *VALIDATION_VOICES, *TEST_VOICES)
    listings = {
        "espeak-ng": (["espeak-ng", "--voices=en"], ["espeak-ng", "--voices=variant"]),
        "flite": (["flite", "-lv"],),
        "festival": (["festival", "--batch", "(print (voice.list))"],),
    }
    missing: dict[str, list[str]] = {}
    for engine, commands in listings.items():
        if shutil.which(engine) is None:
            missing[engine] = ["the program"]
            continue
        said = "".join(subprocess.run(c, check=True, capture_output=True, text=True).stdout for c in commands)
        known = set(re.findall(r"[\w-]+", said))
        wanted = {voice.name for voice in voices if voice.engine == engine}
        absent = sorted(name for name in wanted if not known.issuperset(name.split("+")))
        if absent:
            missing[engine] = absent
    if missing:
        lacks = "; ".join(f"{engine} ({', '.join(names)})" for engine, names in missing.items())
        packages = " ".join(package for engine in missing for package in PACKAGES[engine])
        raise SystemExit(f"missing engines or voices: {lacks}; on Debian: apt install {packages}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "-o", "--output", type=Path, required=True, help="folder whose data/ and README.md are replaced"
    )
    parser.add_argument("--clips", type=int, default=2200, help="in all splits together (default: 2200)")
    parser.add_argument("--seed", type=int, default=0, help="of prompts, voices and recording (default: 0)")
    args = parser.parse_args()

    check_engines()
    clips = plan(args.clips, args.seed)
    generators = [np.random.default_rng([args.seed, k]) for k in range(len(clips))]  # threads cannot change the result
    torch.set_num_threads(1)  # the pool's two threads are the parallelism
    with ThreadPoolExecutor(2) as pool:
        rows = list(tqdm(pool.map(render, clips, generators), total=len(clips), unit="clip"))

    by_split = {split: [r for r, c in zip(rows, clips, strict=True) if c.split == split] for split in SHARDS}
    shutil.rmtree(args.output / "data", ignore_errors=True)  # shards of another count would be read as well
    (args.output / "data").mkdir(parents=True)
    for split, split_rows in by_split.items():
        write_shards(split_rows, split, args.output / "data")
    write_card(by_split, args.seed, args.output)
    size = sum(f.stat().st_size for f in args.output.rglob("*") if f.is_file())
    print(f"{len(rows)} clips, {sum(r['seconds'] for r in rows) / 3600:.2f} h, {size / 1e6:.1f} MB in {args.output}")


if __name__ == "__main__":
    main()
