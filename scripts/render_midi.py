"""A folder of MIDI files as music clips with facts and captions, in the format of scripts/build_music.py.

    sudo apt install fluidsynth fluid-soundfont-gm && pip install mido
    python scripts/render_midi.py TUNES_FOLDER -o nottingham --clips_a_tune 2
    python scripts/render_midi.py TUNES_FOLDER -o folk --programs organ=21 strings=40 guitar=105

Each clip is a window of a tune, begun on a bar, played by one of the eight instruments (all tracks), moved to a random
key and to a random tempo of a band. Key and metre are those of the file's signatures; what a file does not state is
neither a fact nor in the caption. With --programs the words stand for other sounds (there accordion, fiddle and
banjo). Drums are left out. Files that cannot be read are named and counted.
"""

import argparse
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mido
from build_music import BPM, FACTS
from music_render import Recording, add_recording_options, features, recorded, recording_of, write_splits
from music_score import PROGRAMS, Sound
from tqdm import tqdm

from hfaudio.text.prompts import FORMS, MOODS, TEMPOS, TONICS, Facts, draw_prompt

DRUMS = 9  # channel of General MIDI
METRES = {(3, 4): "three four", (4, 4): "four four"}
SPELLINGS = {"db": 1, "eb": 3, "gb": 6, "ab": 8, "bb": 10, "cb": 11} | {
    name.replace(" sharp", "#").replace(" flat", "b"): n for n, name in enumerate(TONICS)
}
SPELLINGS |= {"d#": 3, "g#": 8, "a#": 10, "e#": 5, "b#": 0, "fb": 4}


@dataclass(frozen=True)
class Piece:
    """A tune as its file states it; notes as (onset, length) in quarter notes, MIDI pitch and velocity."""

    name: str
    notes: tuple[tuple[float, float, int, int], ...]
    key: tuple[int, str] | None  # tonic in semitones above C, mode
    metre: tuple[int, int] | None  # 6, 8

    @property
    def bar(self) -> float:
        """Quarter notes in a bar; four if the file does not say."""
        return 4 * self.metre[0] / self.metre[1] if self.metre else 4.0


def read_midi(file: Path) -> Piece:
    """ValueError or OSError for a file that is no MIDI or has no notes."""
    midi = mido.MidiFile(file)
    notes: list[tuple[float, float, int, int]] = []
    key, metre = None, None
    for track in midi.tracks:
        now, sounding = 0, {}
        for message in track:
            now += message.time
            if message.type == "key_signature" and key is None:
                tonic, mode = message.key.removesuffix("m").lower(), "minor" if message.key.endswith("m") else "major"
                key = (SPELLINGS[tonic], mode)
            elif message.type == "time_signature" and metre is None:
                metre = (message.numerator, message.denominator)
            elif message.type in ("note_on", "note_off") and message.channel != DRUMS:
                place = (message.channel, message.note)
                if place in sounding:
                    start, velocity = sounding.pop(place)
                    beat = start / midi.ticks_per_beat
                    notes.append((beat, (now - start) / midi.ticks_per_beat, message.note, velocity))
                if message.type == "note_on" and message.velocity:
                    sounding[place] = (now, message.velocity)
    if not notes:
        raise ValueError("no notes")
    return Piece(file.stem, tuple(sorted(notes)), key, metre)


def window(piece: Piece, first_beat: float, seconds: float, bpm: float, semitones: int) -> list[Sound]:
    """What sounds from a beat on for so many seconds."""
    second = 60 / bpm
    return [
        Sound((beat - first_beat) * second, 0.95 * beats * second, pitch + semitones, velocity)
        for beat, beats, pitch, velocity in piece.notes
        if 0 <= (beat - first_beat) * second < seconds
    ]


def render(
    piece: Piece, number: int, split: str, seed: int, recording: Recording, programs: Mapping[str, int]
) -> dict[str, Any]:
    """A row: the number-th clip of a tune."""
    rng = random.Random(f"{seed} {piece.name} {number}")
    instrument, band = rng.choice(tuple(programs)), rng.choice(tuple(TEMPOS))
    bpm, semitones = rng.randint(*BPM[band]), rng.randint(-6, 5)
    end = max(beat + beats for beat, beats, _, _ in piece.notes)
    bars = max(1, int((end - recording.seconds * bpm / 60) / piece.bar) + 1)
    sounds: list[Sound] = []
    while not sounds:  # a window may lie in a rest
        sounds = window(piece, rng.randrange(bars) * piece.bar, recording.seconds, bpm, semitones)
        bars = max(1, bars - 1)
    key = mood = ""
    if piece.key:
        key = f"{TONICS[(piece.key[0] + semitones) % 12]} {piece.key[1]}"
        mood = rng.choice(MOODS[piece.key[1]])
    metre = METRES.get(piece.metre, "") if piece.metre else ""
    form = rng.choice(FORMS[metre]) if metre else "tune"
    facts = Facts(instrument, rng.choice(TEMPOS[band]), mood, key, metre, form)
    name = f"{split}-{piece.name}-{number}"
    return recorded(sounds, programs[instrument], name, seed, recording) | {
        "text": draw_prompt(facts, rng),
        "instrument": instrument,
        "tempo": band,
        "bpm": bpm,
        "key": key,
        "mood": mood,
        "metre": metre,
        "form": form,
        "texture": "",
        "tune": piece.name,
        "unseen_pair": False,
    }


def program(setting: str) -> tuple[str, int]:
    """The value of `NAME=NUMBER`."""
    name, _, number = setting.partition("=")
    if not name or not number.isdigit() or int(number) > 127:
        raise argparse.ArgumentTypeError(f"{setting!r} is no NAME=NUMBER with a number from 0 to 127")
    return name, int(number)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="MIDI files, .mid or .midi, at any depth")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder; its data/ is replaced")
    parser.add_argument("--clips_a_tune", type=int, default=1, help="windows of each tune (default: 1)")
    parser.add_argument("--tunes", type=int, help="at most so many of the tunes, drawn by the seed")
    parser.add_argument(
        "--programs",
        nargs="+",
        type=program,
        metavar="NAME=NUMBER",
        help="instruments and their General MIDI programs from 0 (default: the eight of the bundled music)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of splits, windows and performances (default: 0)")
    add_recording_options(parser)
    args = parser.parse_args()

    recording = recording_of(args)
    files = sorted(file for ending in ("mid", "midi") for file in args.folder.rglob(f"*.{ending}"))
    random.Random(args.seed).shuffle(files)
    pieces, refused = read_all(files[: args.tunes])
    if len(pieces) < 10:
        raise SystemExit(f"{len(pieces)} tunes can be read in {args.folder}; at least 10 are needed for three splits")
    held_out = max(1, len(pieces) // 10)
    splits = ["test"] * held_out + ["validation"] * held_out + ["train"] * (len(pieces) - 2 * held_out)
    jobs = [(p, n, split) for p, split in zip(pieces, splits, strict=True) for n in range(args.clips_a_tune)]
    with ThreadPoolExecutor(2) as pool:  # fluidsynth is a process of its own
        programs = dict(args.programs or PROGRAMS)
        done = pool.map(lambda job: render(*job, args.seed, recording, programs), jobs)
        rows = list(tqdm(done, total=len(jobs), unit="clip"))
    write_splits(rows, features(FACTS, recording.sample_rate), args.output)
    print(f"{len(rows):,} clips of {len(pieces):,} tunes in {args.output}; files left out: {dict(refused) or 'none'}")


def read_all(files: Sequence[Path]) -> tuple[list[Piece], Counter[str]]:
    """The tunes that can be read, and why others cannot, which are named as they are met."""
    pieces, refused = [], Counter[str]()
    for file in files:
        try:
            pieces.append(read_midi(file))
        except (ValueError, OSError, KeyError, EOFError, IndexError) as error:  # all that mido raises for a bad file
            print(f"{file}: {error}")
            refused[type(error).__name__] += 1
    return pieces, refused


if __name__ == "__main__":
    main()
