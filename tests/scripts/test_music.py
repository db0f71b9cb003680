"""The score generator and the plan of the music dataset; what needs no synthesiser."""

import random
import sys
from collections.abc import Callable
from types import ModuleType

import mido
import numpy as np
import pytest


@pytest.fixture(scope="module")
def score(open_page: Callable[[str], ModuleType]) -> ModuleType:
    return open_page("scripts/music_score.py")


@pytest.fixture(scope="module")
def build(score: ModuleType, open_page: Callable[[str], ModuleType]) -> ModuleType:
    open_page("scripts/music_render.py")
    return open_page("scripts/build_music.py")


def tunes(score: ModuleType, metre: str, count: int = 20) -> list:
    return [score.draw_tune(metre, random.Random(seed)) for seed in range(count)]


@pytest.mark.parametrize(("metre", "beats"), [("three four", 3), ("four four", 4)])
def test_tunes_fill_sixteen_bars_repeat_their_phrase_and_end_on_the_tonic(score, metre, beats) -> None:
    for tune in tunes(score, metre):
        ends = [note.beat + note.beats for note in tune.melody]
        assert ends[-1] == 16 * beats
        assert [note.beat for note in tune.melody[1:]] == ends[:-1]  # no gaps, no overlaps
        assert tune.melody[-1].degree in (0, 7)

        def phrase(number: int, bars: int, notes=tune.melody) -> list:
            first = 4 * number * beats
            return [(n.beat - first, n.degree) for n in notes if 0 <= n.beat - first < bars * beats]

        assert phrase(0, 2) == phrase(1, 2) == phrase(3, 2)
        assert phrase(1, 4) == phrase(3, 4)
        assert tune.chords[7] == score.DOMINANT and tune.chords[15] == score.TONIC  # half and full cadence
        strong = [n for n in tune.melody if n.beat % beats == 0 and n is not tune.melody[-1]]
        on_chord = [(n.degree - tune.chords[2 * int(n.beat // beats)]) % 7 in (0, 2, 4) for n in strong]
        assert np.mean(on_chord) > 0.9  # the note after a cadence may be tied to it


def test_keys_transpose_and_minor_raises_its_seventh_over_the_dominant(score) -> None:
    tune = tunes(score, "four four", 1)[0]

    def pitches(key: str) -> list[int]:
        sounds = score.perform(
            tune,
            instrument="flute",
            key=key,
            bpm=120,
            texture="melody",
            first_bar=0,
            seconds=99,
            rng=random.Random(0),
        )
        return [sound.pitch for sound in sounds]

    steps = np.array(pitches("d major")) - np.array(pitches("c major"))
    assert set(steps) in ({2}, {-10})
    allowed = {(9 + s) % 12 for s in (0, 2, 3, 5, 7, 8, 10, 11)}
    assert {pitch % 12 for pitch in pitches("a minor")} <= allowed
    assert score.semitones(6, "minor", leading=True) == 11 and score.semitones(6, "minor", leading=False) == 10


def test_tempo_is_that_of_the_beats_and_midi_holds_it(score, tmp_path) -> None:
    tune = tunes(score, "three four", 1)[0]
    sounds = score.perform(
        tune,
        instrument="piano",
        key="g major",
        bpm=90,
        texture="melody, bass and chords",
        first_bar=4,
        seconds=6.0,
        rng=random.Random(0),
    )
    assert all(0 <= sound.start < 6.1 and 28 <= sound.pitch <= 100 and 0 < sound.velocity < 128 for sound in sounds)
    onsets = np.array([sound.start for sound in sounds]) * 90 / 60
    assert np.abs(onsets * 2 - np.round(onsets * 2)).max() < 0.1  # on eighths
    score.write_midi(sounds, 0, tmp_path / "tune.mid")
    played = mido.MidiFile(tmp_path / "tune.mid")
    assert played.length == pytest.approx(max(s.start + s.seconds for s in sounds), abs=0.01)
    starts = sum(message.type == "note_on" and message.velocity > 0 for message in played.tracks[0])
    assert starts == len(sounds)


def test_splits_share_no_tune_and_unseen_pairs_are_in_the_test_split_only(build) -> None:
    clips = build.plan(60, seed=0)
    assert len(clips) == 600 and len({clip.id for clip in clips}) == 600
    by_split = {split: [c for c in clips if c.split == split] for split in ("train", "validation", "test")}
    assert [len(part) for part in by_split.values()] == [500, 40, 60]
    numbers = [{clip.number for clip in part} for part in by_split.values()]
    assert not (numbers[0] & numbers[1] | numbers[0] & numbers[2] | numbers[1] & numbers[2])
    pairs = build.draw_unseen_pairs(random.Random("0 pairs"))
    assert len(pairs) == 12
    for clip in clips:
        is_unseen = (clip.facts.instrument, clip.facts.key) in pairs
        assert clip.unseen_pair == is_unseen
        assert not is_unseen or clip.split == "test"
    assert any(clip.unseen_pair for clip in by_split["test"])


def test_facts_agree_with_each_other_and_with_the_caption(build) -> None:
    for clip in build.plan(30, seed=1):
        low, high = build.BPM[clip.tempo]
        assert low <= clip.bpm <= high
        assert clip.facts.tempo in build.TEMPOS[clip.tempo]
        mode = clip.facts.key.rpartition(" ")[2]
        assert clip.facts.mood in build.MOODS[mode]
        assert clip.facts.form in build.FORMS[clip.tune.metre]
        others = set(build.INSTRUMENTS) - {clip.facts.instrument}
        assert not others & set(clip.text.split())
        wrong = [mood for m, words in build.MOODS.items() if m != mode for mood in words]
        assert not set(wrong) & set(clip.text.split())


def test_every_instrument_tempo_and_key_occurs_about_evenly(build) -> None:
    clips = [clip for clip in build.plan(300, seed=0) if clip.split == "train"]
    for values in ([c.facts.instrument for c in clips], [c.tempo for c in clips], [c.facts.key for c in clips]):
        names, counts = np.unique(values, return_counts=True)
        assert counts.min() > 0.6 * len(clips) / len(names)


def test_too_few_tunes_and_a_missing_soundfont_end_the_program(build, tmp_path) -> None:
    with pytest.raises(SystemExit, match="ask for 10 or more"):
        build.plan(4, seed=0)
    with pytest.raises(SystemExit, match="apt install fluidsynth"):
        sys.modules["music_render"].check_synthesiser(tmp_path / "none.sf2")


def test_midi_files_are_read_with_their_signatures_and_cut_at_bars(build, score, open_page, tmp_path) -> None:
    render = open_page("scripts/render_midi.py")
    track = mido.MidiTrack(
        [
            mido.MetaMessage("key_signature", key="F#m"),
            mido.MetaMessage("time_signature", numerator=6, denominator=8),
            mido.Message("note_on", note=66, velocity=80, time=0),
            mido.Message("note_off", note=66, time=480),
            mido.Message("note_on", note=69, velocity=80, time=240),
            mido.Message("note_on", note=69, velocity=0, time=720),  # an end, too
            mido.Message("note_on", channel=9, note=36, velocity=80, time=0),  # a drum
        ]
    )
    mido.MidiFile(ticks_per_beat=480, tracks=[track]).save(tmp_path / "tune.mid")
    (tmp_path / "broken.mid").write_bytes(b"MThd, but no more")
    (tmp_path / "empty.mid").write_bytes(b"")
    pieces, refused = render.read_all(sorted(tmp_path.glob("*.mid")))
    assert refused.total() == 2
    (piece,) = pieces
    assert piece.notes == ((0.0, 1.0, 66, 80), (1.5, 1.5, 69, 80))
    assert piece.key == (6, "minor") and piece.metre == (6, 8) and piece.bar == 3
    (sound,) = render.window(piece, 1.5, 1.0, bpm=90, semitones=2)
    assert (sound.start, sound.pitch) == (0.0, 71)
    assert sound.seconds == pytest.approx(0.95 * 1.5 * 60 / 90)


def test_prompts_say_nothing_that_is_not_known(build) -> None:
    facts = build.Facts("flute", "slow", "", "", "", "tune")
    prompts = {build.draw_prompt(facts, random.Random(seed)) for seed in range(50)}
    assert prompts == {"let's hear a slow tune on the flute"}
    with pytest.raises(ValueError, match="no prompt can be made of form"):
        build.draw_prompt(build.Facts("", "", "", "", "", "tune"), random.Random(0))
