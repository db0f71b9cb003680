"""Judges on music of synthetic tones: instruments are spectra, tempos are clicks, keys are scales."""

import random
from collections import Counter
from itertools import product

import numpy as np
import pytest
from scipy.stats import binom

from hfaudio.audio.resample import resample
from hfaudio.metrics.obedience import (
    KEYS,
    Heard,
    Judges,
    balanced_prompts,
    binomial_bar,
    krumhansl_key,
    music_features,
    relative_key,
    shuffled,
    split_key,
)
from hfaudio.text.prompts import INSTRUMENTS, TEMPOS, TONICS

RATE = 16_000
SCALES = {"major": (0, 2, 4, 5, 7, 9, 11), "minor": (0, 2, 3, 5, 7, 8, 11)}
BPM = {"slow": 70, "medium": 105, "fast": 150}
SPECTRA = {"flute": (1.0, 0.1), "organ": (1.0, 0.8, 0.7, 0.6), "synth": (1.0, 0.0, 0.6, 0.0, 0.5)}


def clip(facts: dict[str, str], rng: np.random.Generator) -> np.ndarray:
    """5 s: a random walk over the scale that begins on the tonic and often comes back, a note for each beat."""
    tonic, mode = split_key(facts["key"])
    beat = 60 / (BPM[facts["tempo"]] * rng.uniform(0.96, 1.04))
    samples, start, first = np.zeros(5 * RATE), 0.0, True
    while start < 5 - beat:
        degree = 0 if first or rng.random() < 0.35 else int(rng.choice([2, 4, 1, 3, 6]))
        frequency = 261.63 * 2 ** ((tonic + SCALES[mode][degree]) / 12)
        time = np.arange(round(beat * RATE)) / RATE
        tone = sum(a * np.sin(2 * np.pi * frequency * k * time) for k, a in enumerate(SPECTRA[facts["instrument"]], 1))
        begin = round(start * RATE)
        samples[begin : begin + len(time)] += tone * np.exp(-4 * time)
        start, first = start + beat, False
    return (0.1 * samples).astype(np.float32)


def draw(count: int, seed: int) -> tuple[list, list[dict[str, str]]]:
    rng = np.random.default_rng(seed)
    facts = [
        {
            "instrument": str(rng.choice(list(SPECTRA))),
            "tempo": str(rng.choice(list(BPM))),
            "key": f"{rng.choice(TONICS)} {rng.choice(list(SCALES))}",
        }
        for _ in range(count)
    ]
    return [music_features(clip(fact, rng), RATE) for fact in facts], facts


@pytest.fixture(scope="module")
def judges() -> Judges:
    return Judges.fit(*draw(90, seed=0))


def test_judges_hear_what_is_there_and_not_what_was_asked_of_others(judges: Judges) -> None:
    features, facts = draw(60, seed=1)
    heard = judges.hear(features)
    scores = judges.score(heard, facts)
    assert scores["instrument"].hits.value > 0.95
    assert scores["tempo"].hits.value > 0.9
    assert scores["key"].hits.value > 0.6
    assert scores["key_or_relative"].hits.value >= scores["key"].hits.value
    assert scores["instrument"].chance == pytest.approx(1 / 3)
    assert all(score.hits.count >= score.bar for score in scores.values())
    control = judges.score(heard, shuffled(facts))
    assert all(control[name].hits.count < control[name].bar for name in ("instrument", "tempo", "key"))


def test_a_key_that_was_never_trained_on_is_heard(judges: Judges) -> None:
    """The weights of the judge of keys move with the tonic."""
    features, facts = draw(90, seed=0)
    known = [n for n, fact in enumerate(facts) if not fact["key"].startswith(("c ", "f sharp"))]
    partial = Judges.fit([features[n] for n in known], [facts[n] for n in known])
    rng = np.random.default_rng(5)
    new = [{"instrument": "flute", "tempo": "fast", "key": key} for key in ("c major", "f sharp minor") * 10]
    heard = partial.hear([music_features(clip(fact, rng), RATE) for fact in new])
    assert sum(ear.key == fact["key"] for ear, fact in zip(heard, new, strict=True)) >= 10


def test_the_key_is_that_of_the_clip_and_not_of_its_opening(judges: Judges) -> None:
    """Tunes begin on their tonic: a judge of the first second would be right of them, and deaf to the rest."""
    rng = np.random.default_rng(3)
    _, facts = draw(60, seed=2)
    clips = [clip(fact, rng) for fact in facts]
    spliced = [np.concatenate([clips[n - 1][:RATE], samples[RATE:]]) for n, samples in enumerate(clips)]
    keys = [ear.key for ear in judges.hear([music_features(samples, RATE) for samples in spliced])]
    own = sum(key == fact["key"] for key, fact in zip(keys, facts, strict=True))
    others = sum(key == facts[n - 1]["key"] for n, key in enumerate(keys))
    assert own > 2 * max(others, 1)


def test_onsets_of_pitch_are_heard_where_the_level_never_rises() -> None:
    """Legato at a constant level, a new note every 0.5 s: correlated at 120 bpm, not at 160."""
    beat = np.arange(5 * RATE) // (RATE // 2)
    frequency = 261.63 * 2 ** (np.array([0, 4, 7, 2, 9, 5, 11, 0, 7, 4])[beat] / 12)
    samples = 0.1 * np.sin(2 * np.pi * np.cumsum(frequency) / RATE)
    pitch = music_features(samples.astype(np.float32), RATE).rhythm[1]
    tempos = np.geomspace(40, 220, pitch.size)
    assert pitch[np.abs(tempos - 120).argmin()] > 0.5
    assert pitch[np.abs(tempos - 160).argmin()] < 0.1


def test_chroma_names_the_notes_and_their_register() -> None:
    time = np.arange(3 * RATE) / RATE
    samples = np.sin(2 * np.pi * 110 * time) + np.sin(2 * np.pi * 659.26 * time)  # A2 and E5
    whole, bass = music_features(samples.astype(np.float32), RATE).chroma
    assert set(np.argsort(whole)[-2:]) == {4, 9}
    assert bass.argmax() == 9 and bass[9] > 0.5


def test_features_do_not_depend_on_the_rate() -> None:
    samples = clip({"instrument": "flute", "tempo": "medium", "key": "d major"}, np.random.default_rng(0))
    twice = music_features(resample(samples, RATE, 2 * RATE), 2 * RATE)
    once = music_features(samples, RATE)
    np.testing.assert_allclose(twice.chroma, once.chroma, atol=0.01)
    np.testing.assert_allclose(twice.rhythm, once.rhythm, atol=0.05)


def test_the_level_of_a_clip_does_not_matter() -> None:
    facts = {"instrument": "organ", "tempo": "slow", "key": "e flat minor"}
    samples = clip(facts, np.random.default_rng(0))
    loud, quiet = music_features(samples, RATE), music_features(0.05 * samples, RATE)
    for name in ("timbre", "rhythm", "chroma"):
        np.testing.assert_allclose(getattr(loud, name), getattr(quiet, name), rtol=2e-3, atol=1e-3)


def test_silence_and_very_short_clips_have_features(judges: Judges) -> None:
    features = [music_features(np.zeros(5 * RATE, np.float32), RATE), music_features(np.ones(10, np.float32), RATE)]
    assert not features[0].chroma.any()
    assert judges.hear(features[:1] * 3) == judges.hear(features[:1]) * 3
    for feature in features:
        assert all(np.isfinite(part).all() for part in (feature.timbre, feature.rhythm, feature.chroma))
    assert len(judges.hear(features)) == 2
    assert judges.hear([]) == []
    with pytest.raises(ValueError, match="mono samples"):
        music_features(np.zeros(0, np.float32), RATE)
    with pytest.raises(ValueError, match="mono samples"):
        music_features(np.zeros((2, RATE), np.float32), RATE)
    with pytest.raises(ValueError, match="NaN"):
        music_features(np.array([0.0, np.nan], np.float32), RATE)


def test_scores_count_what_was_asked(judges: Judges) -> None:
    heard = [Heard("flute", "fast", "a minor"), Heard("organ", "slow", "c major"), Heard("synth", "slow", "g major")]
    asked = [
        {"instrument": "flute", "tempo": "slow", "key": "c major"},
        {"instrument": "organ", "tempo": "slow", "key": "c major"},
        {"instrument": "bagpipe", "tempo": "slow", "key": "b minor"},
    ]
    counts = {name: score.hits.count for name, score in judges.score(heard, asked).items()}
    assert counts == {"instrument": 2, "tempo": 2, "key": 1, "key_or_relative": 2, "mode": 1}
    with pytest.raises(ValueError, match="3 and 2"):
        judges.score(heard, asked[:2])
    with pytest.raises(ValueError, match="one clip or more"):
        judges.score([], [])
    with pytest.raises(ValueError, match="a key is one of"):
        judges.score(heard[:1], [asked[0] | {"key": "h minor"}])


def test_krumhansl_names_the_key_of_its_own_profiles_and_of_a_scale() -> None:
    chroma = np.zeros(12)
    chroma[[9, 11, 0, 2, 4, 5, 8]] = [3, 1, 2, 1, 2, 1, 1]  # a minor with its tonic triad
    assert krumhansl_key(chroma) == "a minor"
    assert krumhansl_key(np.roll(chroma, 3)) == "c minor"
    assert krumhansl_key(np.zeros(12)) == "c major"


def test_keys_and_their_relatives() -> None:
    assert split_key("c sharp minor") == (1, "minor")
    assert relative_key("c major") == "a minor"
    assert relative_key("a minor") == "c major"
    assert relative_key(relative_key("b flat major")) == "b flat major"
    for wrong in ("h major", "c", "c dorian"):
        with pytest.raises(ValueError, match="a key is one of"):
            split_key(wrong)


@pytest.mark.parametrize(("chance", "bar"), [(1 / 8, 36), (1 / 3, 80), (1 / 24, 16), (1 / 12, 26), (1 / 2, 113)])
def test_the_binomial_bar_is_the_least_number_that_guessing_rarely_reaches(chance: float, bar: int) -> None:
    assert binomial_bar(192, chance) == bar
    assert binom.sf(bar - 1, 192, chance) <= 0.01 < binom.sf(bar - 2, 192, chance)


def test_shuffled_facts_are_those_of_others() -> None:
    facts = [{"key": str(n)} for n in range(7)]
    for seed in range(5):
        result = shuffled(facts, seed)
        assert sorted(f["key"] for f in result) == sorted(f["key"] for f in facts)
        assert all(a is not b for a, b in zip(result, facts, strict=True))
    with pytest.raises(ValueError, match="at least two"):
        shuffled(facts[:1])


def test_judges_need_something_to_tell_apart() -> None:
    features, _ = draw(2, seed=0)
    facts = [
        {"instrument": "flute", "tempo": "slow", "key": "c major"},
        {"instrument": "organ", "tempo": "fast", "key": "c minor"},
    ]
    Judges.fit(features, facts)
    for what, same in (
        ("instrument", {"instrument": "flute"}),
        ("tempo", {"tempo": "slow"}),
        ("mode", {"key": "c major"}),
    ):
        with pytest.raises(ValueError, match=f"two values of {what}"):
            Judges.fit(features, [fact | same for fact in facts])
    with pytest.raises(ValueError, match="2 clips, 1 facts"):
        Judges.fit(features, facts[:1])
    with pytest.raises(ValueError, match="a key is one of"):
        Judges.fit(features, [facts[0], facts[1] | {"key": "h minor"}])


def test_a_bar_beyond_all_clips_is_out_of_reach() -> None:
    assert binomial_bar(5, 1 / 2) == 6
    assert binom.sf(4, 5, 1 / 2) > 0.01
    assert binomial_bar(7, 1 / 2) == 7


def test_192_prompts_ask_for_everything_alike() -> None:
    asked = balanced_prompts([*product(INSTRUMENTS, KEYS)], 192, random.Random(0))
    counts = [Counter(facts[name] for _, facts in asked) for name in ("instrument", "tempo", "key")]
    assert [(len(count), set(count.values())) for count in counts] == [(8, {24}), (3, {64}), (24, {8})]
    assert set(Counter((facts["instrument"], facts["tempo"]) for _, facts in asked).values()) == {8}
    for text, facts in asked:
        assert facts["instrument"] in text.split() and text.endswith(facts["key"])
        assert set(text.split()) & set(TEMPOS[facts["tempo"]])


def test_three_times_as_many_prompts_as_pairs_have_each_tempo() -> None:
    pairs = [("flute", "c minor"), ("organ", "b flat major")]
    asked = balanced_prompts(pairs, 6, random.Random(0))
    assert {((f["instrument"], f["key"]), f["tempo"]) for _, f in asked} == set(product(pairs, TEMPOS))
    assert balanced_prompts([], 0, random.Random(0)) == []
