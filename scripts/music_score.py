"""Tunes made by rule, and their MIDI: a period of 16 bars (A A' B A'), melody over chords and a walking bass.

A tune is written in degrees of the scale, so that one tune can be played in any key, tempo, mode and instrument.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import mido

from hfaudio.text.prompts import TONICS

PROGRAMS = {  # General MIDI, from 0
    "piano": 0,
    "guitar": 24,
    "flute": 73,
    "organ": 19,
    "strings": 48,
    "trumpet": 56,
    "marimba": 12,
    "synth": 80,  # square lead
}
REGISTERS = dict.fromkeys(PROGRAMS, 67) | {"flute": 74, "guitar": 62}  # MIDI pitch the melody stays around
SCALES = {"major": (0, 2, 4, 5, 7, 9, 11), "minor": (0, 2, 3, 5, 7, 8, 10)}  # semitones
BEATS = {"three four": 3, "four four": 4}  # in a bar
TEXTURES = {"melody": 3, "melody and bass": 4, "melody and chords": 5, "melody, bass and chords": 8}  # weights

TONIC, SUBDOMINANT, DOMINANT, SUBMEDIANT = 0, 3, 4, 5  # roots of chords, as degrees
OPENINGS = (  # chords of two bars, two to a bar
    (TONIC, DOMINANT, TONIC, SUBDOMINANT),
    (TONIC, TONIC, DOMINANT, TONIC),
    (TONIC, SUBDOMINANT, DOMINANT, TONIC),
    (TONIC, SUBDOMINANT, TONIC, DOMINANT),
    (TONIC, SUBMEDIANT, SUBDOMINANT, DOMINANT),
)
MIDDLES = (
    (SUBDOMINANT, TONIC, DOMINANT, TONIC),
    (SUBMEDIANT, DOMINANT, SUBDOMINANT, TONIC),
    (SUBDOMINANT, SUBDOMINANT, TONIC, TONIC),
)
HALF_CADENCE = (SUBDOMINANT, TONIC, SUBDOMINANT, DOMINANT)
FULL_CADENCE = (SUBDOMINANT, DOMINANT, DOMINANT, TONIC)
RHYTHMS = {  # lengths in beats of the notes of a bar
    3: ((1, 1, 1), (2, 1), (1, 0.5, 0.5, 1), (0.5, 0.5, 1, 1), (1.5, 0.5, 1), (1, 1, 0.5, 0.5)),
    4: ((1, 1, 1, 1), (2, 1, 1), (1, 0.5, 0.5, 1, 1), (0.5, 0.5, 1, 0.5, 0.5, 1), (1.5, 0.5, 1, 1), (1, 1, 2)),
}
CADENCE_RHYTHMS = {3: (1, 2), 4: (1, 1, 2)}

PHRASE_STARTS = (0, 4, 12)  # bars where A and its repetitions begin, on the tonic
BARS = 16


@dataclass(frozen=True)
class Note:
    """A note of the melody: onset and length in beats, degree of the scale (7 is the octave), accented or not."""

    beat: float
    beats: float
    degree: int
    accent: bool


@dataclass(frozen=True)
class Tune:
    """16 bars; `chords` holds two roots (degrees) for each bar, of which three-four time uses the first."""

    metre: str
    melody: tuple[Note, ...]
    chords: tuple[int, ...]


@dataclass(frozen=True)
class Sound:
    """A note that sounds: onset and length in seconds, MIDI pitch and velocity."""

    start: float
    seconds: float
    pitch: int
    velocity: int


def draw_tune(metre: str, rng: random.Random) -> Tune:
    """A period: A with a half cadence, A' (the same opening) with a full one, B, A' again."""
    opening, middle = rng.choice(OPENINGS), rng.choice(MIDDLES)
    motif, contrast = rng.sample(RHYTHMS[BEATS[metre]], 2)
    head = draw_line((motif, contrast), opening, metre, rng, start=rng.choice((0, 2, 4)))
    phrases = [head + draw_line((motif, CADENCE_RHYTHMS[BEATS[metre]]), HALF_CADENCE, metre, rng, start=head[-1])]
    close = draw_line((contrast, CADENCE_RHYTHMS[BEATS[metre]]), FULL_CADENCE, metre, rng, start=head[-1])
    phrases.append([*head, *close[:-1], 0 if close[-2] < 4 else 7])
    bridge = draw_line((contrast, motif), middle, metre, rng, start=4)
    bridge += draw_line((contrast, CADENCE_RHYTHMS[BEATS[metre]]), HALF_CADENCE, metre, rng, start=bridge[-1])
    phrases += [bridge, phrases[1]]
    cadence = CADENCE_RHYTHMS[BEATS[metre]]
    rhythms = [(motif, contrast, motif, cadence), (motif, contrast, contrast, cadence)]
    rhythms += [(contrast, motif, contrast, cadence), rhythms[1]]
    notes: list[Note] = []
    for number, (phrase, bars) in enumerate(zip(phrases, rhythms, strict=True)):
        degrees = iter(phrase)
        for bar, lengths in enumerate(bars):
            beat = float((4 * number + bar) * BEATS[metre])
            for place, length in enumerate(lengths):
                notes.append(Note(beat, length, next(degrees), accent=place == 0))
                beat += length
    chords = (*opening, *HALF_CADENCE, *opening, *FULL_CADENCE, *middle, *HALF_CADENCE, *opening, *FULL_CADENCE)
    return Tune(metre, tuple(notes), chords)


def draw_line(
    rhythms: Sequence[Sequence[float]], chords: Sequence[int], metre: str, rng: random.Random, *, start: int
) -> list[int]:
    """Degrees of the notes of two bars: chord tones where a chord begins, steps between, within -3 to 9."""
    degree, line = start, []
    for bar, lengths in enumerate(rhythms):
        beat = 0.0
        for length in lengths:
            half = beat >= BEATS[metre] / 2 and metre == "four four"
            root = chords[2 * bar + half]
            if beat == 0 or (half and beat == 2):
                tones = [root + tone + octave for tone in (0, 2, 4) for octave in (-7, 0, 7)]
                near = sorted((t for t in tones if -3 <= t <= 9), key=lambda t: (abs(t - degree), rng.random()))
                degree = rng.choice(near[:2])
            else:
                degree = max(-3, min(9, degree + rng.choice((-2, -1, -1, 1, 1, 2))))
            line.append(degree)
            beat += length
    return line


def semitones(degree: int, mode: str, *, leading: bool) -> int:
    """Semitones above the tonic; in minor the seventh degree is raised over the dominant (harmonic minor)."""
    octave, step = divmod(degree, 7)
    raised = mode == "minor" and leading and step == 6
    return 12 * octave + SCALES[mode][step] + raised


def perform(
    tune: Tune,
    *,
    instrument: str,
    key: str,
    bpm: float,
    texture: str,
    first_bar: int,
    seconds: float,
    rng: random.Random,
) -> list[Sound]:
    """What sounds in the window of `seconds` that begins with `first_bar`; velocities and onsets vary a little."""
    tonic_name, _, mode = key.rpartition(" ")
    beats, beat_seconds = BEATS[tune.metre], 60 / bpm
    register = REGISTERS[instrument]
    tonic = register - 6 + (TONICS.index(tonic_name) - register + 6) % 12  # within an octave around the register
    begin = first_bar * beats
    sounds: list[Sound] = []

    def root_at(beat: float) -> int:
        bar, inside = divmod(beat, beats)
        return tune.chords[2 * int(bar) + (inside >= 2 and tune.metre == "four four")]

    def play(beat: float, length: float, pitch: int, velocity: int) -> None:
        start = (beat - begin) * beat_seconds
        if 0 <= start < seconds:
            late = max(0.0, start + rng.gauss(0, 0.004))
            sounds.append(Sound(late, 0.92 * length * beat_seconds, pitch, velocity + rng.randint(-6, 6)))

    for note in tune.melody:
        pitch = tonic + semitones(note.degree, mode, leading=root_at(note.beat) == DOMINANT)
        play(note.beat, note.beats, pitch, 104 if note.accent else 90)
    for beat in range(begin, BARS * beats):
        root, inside = root_at(beat), beat % beats
        on_bass = inside == 0 or (inside == 2 and tune.metre == "four four")
        if "bass" in texture and on_bass:
            low = tonic - 24 + semitones(root if root < SUBDOMINANT else root - 7, mode, leading=False)
            play(beat, 1 if "chords" in texture else 2, low if low >= 33 else low + 12, 88)
        if "chords" in texture and not ("bass" in texture and on_bass):
            for tone in (0, 2, 4):
                degree = root + tone - 7 if root + tone > 5 else root + tone
                play(beat, 1, tonic - 12 + semitones(degree, mode, leading=root == DOMINANT), 68)
    return sounds


def write_midi(sounds: Sequence[Sound], program: int, path: Path) -> None:
    """A MIDI file of one instrument at 1,000 ticks a second."""
    events = [(round(1000 * s.start), s.velocity, s.pitch) for s in sounds]
    events += [(round(1000 * (s.start + s.seconds)), 0, s.pitch) for s in sounds]
    track = mido.MidiTrack(
        [mido.MetaMessage("set_tempo", tempo=1_000_000), mido.Message("program_change", program=program)]
    )
    now = 0
    for tick, velocity, pitch in sorted(events):  # at one tick notes end (velocity 0) before others begin
        track.append(mido.Message("note_on", note=pitch, velocity=velocity, time=tick - now))
        now = tick
    mido.MidiFile(type=0, ticks_per_beat=1000, tracks=[track]).save(path)
