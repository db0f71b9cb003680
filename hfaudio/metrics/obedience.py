"""What music sounds like to judges: which instrument, how fast, in which key; and whether that was asked for.

Judges must be trained on audio that went through the same codec as what they judge, of other tunes: of 200 clips coded
with Opus at 6 kbit/s, those trained on 200 clean clips named the instrument of 22 % (chance 12.5 %), those trained on
coded clips of 99 %. Needs librosa and scikit-learn: pip install 'hfaudio[music]'.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import librosa
import numpy as np
from scipy.stats import binom
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from hfaudio.audio.resample import resample
from hfaudio.metrics.results import Share, share
from hfaudio.text import prompts
from hfaudio.text.prompts import FORMS, INSTRUMENTS, TEMPOS, TONICS

SAMPLE_RATE = 16_000
HOP_LENGTH = 256  # samples, 16 ms: of timbre and rhythm
ONSET_N_FFT = 2048  # neighbouring notes of a melody are apart, which the 1024 of timbre would join
CHROMA_N_FFT = 4096  # 3.9 Hz between lines: semitones are apart from 66 Hz (C2) on
CHROMA_HOP = 1024
MELODIC = (60, 2000)  # Hz, where notes are counted
MIDDLE_C = 262  # Hz, where the bass ends
TEMPO_RANGE = (40, 220)  # bpm
TEMPO_BINS = 60
MODES = ("major", "minor")
KEYS = tuple(f"{tonic} {mode}" for tonic in TONICS for mode in MODES)
ATTRIBUTES = ("instrument", "tempo", "key", "key_or_relative", "mode")

# Krumhansl and Kessler 1982: how well each degree fits a key, from the tonic upwards in semitones.
KRUMHANSL = {
    "major": (6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88),
    "minor": (6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17),
}

Facts = Mapping[str, str]  # "instrument", "tempo" (a band) and "key" ("c sharp minor")


@dataclass(frozen=True)
class MusicFeatures:
    """Of one clip."""

    timbre: np.ndarray  # means and deviations over time of cepstrum, its change and spectral contrast
    rhythm: np.ndarray  # (2, TEMPO_BINS): autocorrelation of onsets of energy and of pitch, at 40 to 220 bpm
    chroma: np.ndarray  # (2, 12): whole clip, and its bass; each sums to one, or is 0 for silence


@dataclass(frozen=True)
class Heard:
    """What judges hear in a clip."""

    instrument: str
    tempo: str
    key: str


@dataclass(frozen=True)
class Obedience:
    """Of one attribute: how often what was heard is what was asked for, beside chance.

    `chance` is that of a guess among the labels that the judges know. A model that plays one label always scores the
    share of that label among `facts`: score `shuffled` facts too. `bar` is the number of hits which guessing reaches
    with a probability of at most 1 %.
    """

    hits: Share
    chance: float
    bar: int


def music_features(samples: np.ndarray, sample_rate: int) -> MusicFeatures:
    """Features of mono samples (N,), about 25 ms of work for 5 s. Clips below half a second get silence behind.

    ValueError for an empty clip and for NaN or infinity. Silence has features, of which chroma is all zero.
    """
    if samples.ndim != 1 or not len(samples):
        raise ValueError(f"expected mono samples (N,) with N > 0, got {samples.shape}; mix stereo to mono")
    if not np.isfinite(samples).all():
        raise ValueError("samples hold NaN or infinity; repair them or leave the clip out")
    x = resample(samples.astype(np.float32), sample_rate, SAMPLE_RATE)
    x = np.pad(x, (0, max(0, SAMPLE_RATE // 2 - len(x))))
    x = x / max(float(np.sqrt(np.mean(x**2))), 1e-5)  # the level is no property of an instrument
    power = np.abs(librosa.stft(x, n_fft=1024, hop_length=HOP_LENGTH)) ** 2
    mel = librosa.feature.melspectrogram(S=power, sr=SAMPLE_RATE, n_mels=64)
    decibels = librosa.power_to_db(mel, top_db=70)
    cepstrum = librosa.feature.mfcc(S=decibels, n_mfcc=20)
    contrast = librosa.feature.spectral_contrast(S=np.sqrt(power), sr=SAMPLE_RATE, fmin=100)
    frames = np.vstack([cepstrum, np.diff(cepstrum, axis=1, prepend=cepstrum[:, :1]), contrast])
    timbre = np.concatenate([frames.mean(1), frames.std(1), [np.mean(decibels.max(0) - decibels.mean(0))]])
    return MusicFeatures(timbre.astype(np.float32), _rhythm(x), _chroma(x))


def _rhythm(x: np.ndarray) -> np.ndarray:
    """(2, TEMPO_BINS): autocorrelation of two onset strengths at the lags of TEMPO_BINS tempos.

    What rises: mel energy, and energy in the pitch classes, where notes without an attack (strings, flute) and notes
    whose attack a codec has blurred still begin.
    """
    magnitude = np.abs(librosa.stft(x, n_fft=ONSET_N_FFT, hop_length=HOP_LENGTH))
    mel = librosa.feature.melspectrogram(S=magnitude**2, sr=SAMPLE_RATE, n_mels=128, fmax=4000)
    pitch = _pitch_classes(magnitude, MELODIC[1])
    pitch = np.log1p(10 * pitch / max(float(pitch.mean()), 1e-9))
    # Energy rises over two frames and pitch over three: a window spans eight.
    energy_onsets = librosa.onset.onset_strength(S=librosa.power_to_db(mel, top_db=50), sr=SAMPLE_RATE, lag=2)
    pitch_onsets = librosa.onset.onset_strength(S=pitch, sr=SAMPLE_RATE, lag=3)
    lags = 60 / np.geomspace(*TEMPO_RANGE, TEMPO_BINS) * SAMPLE_RATE / HOP_LENGTH  # frames
    curves = []
    for onsets in (energy_onsets, pitch_onsets):
        correlation = librosa.autocorrelate(onsets - onsets.mean())
        correlation = correlation / max(correlation[0], 1e-9)
        curves.append(np.interp(lags, np.arange(len(correlation)), correlation, right=0.0))
    return np.stack(curves).astype(np.float32)


def _chroma(x: np.ndarray) -> np.ndarray:
    """(2, 12), pitch classes from C: in the whole clip and in its bass.

    Not in its first second, which would be a good guess at the key, as tunes tend to begin on their tonic, and for
    that reason a bad judge: it would hear the key of the opening and not that of the clip.
    """
    magnitude = np.abs(librosa.stft(x, n_fft=CHROMA_N_FFT, hop_length=CHROMA_HOP))
    parts = np.stack([_pitch_classes(magnitude, highest).sum(1) for highest in (MELODIC[1], MIDDLE_C)])
    return (parts / np.maximum(parts.sum(1, keepdims=True), 1e-9)).astype(np.float32)


def _pitch_classes(magnitude: np.ndarray, highest: float) -> np.ndarray:
    """(12, T) from C: magnitude (F, T) of what lies between MELODIC[0] and `highest` Hz, tuned to A440."""
    frequencies = librosa.fft_frequencies(sr=SAMPLE_RATE, n_fft=2 * (len(magnitude) - 1))
    inside = (frequencies > MELODIC[0]) & (frequencies < highest)
    return _chroma_bank(2 * (len(magnitude) - 1))[:, inside] @ magnitude[inside]


@cache  # making it takes 4 ms, three times for each clip
def _chroma_bank(n_fft: int) -> np.ndarray:
    """(12, F): the pitch classes of each line of a spectrum."""
    return librosa.filters.chroma(sr=SAMPLE_RATE, n_fft=n_fft, tuning=0.0, octwidth=None, norm=None)


def split_key(key: str) -> tuple[int, str]:
    """Tonic in semitones above C, and mode, of a key such as "c sharp minor"; ValueError for anything else."""
    tonic, _, mode = key.rpartition(" ")
    if tonic not in TONICS or mode not in MODES:
        raise ValueError(f"a key is one of {', '.join(TONICS)}, then major or minor; got {key!r}")
    return TONICS.index(tonic), mode


def relative_key(key: str) -> str:
    """The key with the same notes: "a minor" for "c major"."""
    tonic, mode = split_key(key)
    return f"{TONICS[(tonic + (9 if mode == 'major' else 3)) % 12]} {'minor' if mode == 'major' else 'major'}"


def krumhansl_key(chroma: np.ndarray) -> str:
    """The key whose Krumhansl profile correlates best with a chroma (12,): a judge that needs no training.

    "c major" for silence, where all correlations are 0.
    """
    centred = chroma - chroma.mean()
    profiles = {
        f"{tonic} {mode}": np.roll(np.array(KRUMHANSL[mode]) - np.mean(KRUMHANSL[mode]), shift)
        for shift, tonic in enumerate(TONICS)
        for mode in MODES
    }
    return max(profiles, key=lambda key: float(centred @ profiles[key] / np.linalg.norm(profiles[key])))


class Judges:
    """Judges of instrument, tempo and key, trained on features of clips and their facts.

    Instrument and tempo: logistic regression. Key: logistic regression too, whose weights move with the tonic, so
    that what is learned of one key holds for all: for each of the twelve rotations of the chroma, is this the tonic,
    and in which mode?
    """

    def __init__(self, instrument: Pipeline, tempo: Pipeline, key: Pipeline, chances: Mapping[str, float]) -> None:
        self.instrument = instrument
        self.tempo = tempo
        self.key = key
        self.chances = dict(chances)

    @classmethod
    def fit(cls, features: Sequence[MusicFeatures], facts: Sequence[Facts]) -> "Judges":
        """ValueError for fewer than two instruments, tempos or modes, and for a key that is none of the 24.

        Tonics need not all occur. The solver draws nothing at random: the same clips give the same judges.
        """
        if len(features) != len(facts):
            raise ValueError(f"judges need the facts of each clip, got {len(features)} clips, {len(facts)} facts")
        keys = [split_key(fact["key"]) for fact in facts]
        instruments, tempos = ([fact[name] for fact in facts] for name in ("instrument", "tempo"))
        for what, values in (("instrument", instruments), ("tempo", tempos), ("mode", [mode for _, mode in keys])):
            if len(set(values)) < 2:
                raise ValueError(
                    f"judges learn to tell at least two values of {what} apart, got {sorted(set(values))}"
                )
        instrument = _classifier(0.1).fit(np.stack([f.timbre for f in features]), instruments)
        tempo = _classifier(0.03).fit(np.stack([f.rhythm.ravel() for f in features]), tempos)
        answers = [mode if shift == tonic else "other" for tonic, mode in keys for shift in range(12)]
        key = _classifier(0.3).fit(np.concatenate([_rotations(f.chroma) for f in features]), answers)
        chances = {"instrument": 1 / len(set(instruments)), "tempo": 1 / len(set(tempos))}
        return cls(instrument, tempo, key, chances | {"key": 1 / 24, "key_or_relative": 1 / 12, "mode": 1 / 2})

    def hear(self, features: Sequence[MusicFeatures]) -> list[Heard]:
        """What is heard in each clip.

        Silence too is heard as something, always the same: no better than chance where labels are asked for alike.
        """
        if not features:
            return []
        instruments = self.instrument.predict(np.stack([f.timbre for f in features]))
        tempos = self.tempo.predict(np.stack([f.rhythm.ravel() for f in features]))
        scores = self.key.predict_log_proba(np.concatenate([_rotations(f.chroma) for f in features]))
        classes = list(self.key.classes_)
        # For each tonic and mode, the odds against "no": the best of the 24 is the key.
        odds = np.stack([scores[:, classes.index(m)] - scores[:, classes.index("other")] for m in MODES], axis=-1)
        best = odds.reshape(len(features), 24).argmax(1)
        keys = [f"{TONICS[place // 2]} {MODES[place % 2]}" for place in best]
        return [Heard(str(i), str(t), k) for i, t, k in zip(instruments, tempos, keys, strict=True)]

    def score(self, heard: Sequence[Heard], facts: Sequence[Facts]) -> dict[str, Obedience]:
        """Of each of ATTRIBUTES. An instrument or tempo that the judges were not trained on counts as a miss.

        ValueError for no clips, and for a key that is none of the 24.
        """
        if len(heard) != len(facts) or not heard:
            raise ValueError(f"scores need one clip or more and the facts of each, got {len(heard)} and {len(facts)}")
        hits = {name: 0 for name in ATTRIBUTES}
        for ear, fact in zip(heard, facts, strict=True):
            hits["instrument"] += ear.instrument == fact["instrument"]
            hits["tempo"] += ear.tempo == fact["tempo"]
            hits["key"] += ear.key == fact["key"]
            hits["key_or_relative"] += ear.key in (fact["key"], relative_key(fact["key"]))
            hits["mode"] += split_key(ear.key)[1] == split_key(fact["key"])[1]
        n = len(heard)
        return {
            name: Obedience(share(count, n), self.chances[name], binomial_bar(n, self.chances[name]))
            for name, count in hits.items()
        }


def _classifier(strength: float) -> Pipeline:
    """Logistic regression of standardised features; `strength` is the inverse of the regularisation."""
    return make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=2000))


def _rotations(chroma: np.ndarray) -> np.ndarray:
    """(12, 24): the chroma (2, 12) as it looks from each tonic, its roots so that weak notes count."""
    return np.stack([np.sqrt(np.roll(chroma, -shift, axis=1)).ravel() for shift in range(12)])


def binomial_bar(n: int, chance: float, level: float = 0.01) -> int:
    """The least number of hits in n that guessing reaches with a probability of at most `level`.

    n + 1, which none reaches, where all n hits are too likely: a chance of 1/2 needs seven clips.
    """
    return int(binom.isf(level, n, chance)) + 1


def shuffled(facts: Sequence[Facts], seed: int = 0) -> list[Facts]:
    """The facts of other clips: a random order in which none keeps its place, the control for all that prompts do.

    ValueError for fewer than two.
    """
    if len(facts) < 2:
        raise ValueError(f"shuffling needs at least two clips, got {len(facts)}")
    order = np.random.default_rng(seed).permutation(len(facts))
    result: list[Facts] = [facts[0]] * len(facts)
    for place, source in zip(order, np.roll(order, 1), strict=True):  # one cycle through all
        result[place] = facts[source]
    return result


def balanced_prompts(pairs: Sequence[tuple[str, str]], count: int, rng: random.Random) -> list[tuple[str, Facts]]:
    """Prompts of the closed language that name instrument, tempo and key, with the facts that they ask for.

    The pairs of instrument and key come in turns of random order, each time in another of the three tempo bands. Of
    192 prompts, 8 instruments times 24 keys, each instrument has each tempo band 8 times, so that a model that always
    plays the same is at chance.
    """
    asked: list[tuple[str, Facts]] = []
    for turn in range(-(-count // len(pairs)) if count else 0):
        for instrument, key in rng.sample(pairs, len(pairs)):
            band = tuple(TEMPOS)[(INSTRUMENTS.index(instrument) + KEYS.index(key) + turn) % len(TEMPOS)]
            form = rng.choice(sorted(set.intersection(*map(set, FORMS.values()))))  # of any metre
            facts = prompts.Facts(instrument, rng.choice(TEMPOS[band]), "", key, "", form)
            prompt = ""
            while not all(word in prompt for word in (instrument, facts.tempo, key)):  # templates may name two of them
                prompt = prompts.draw_prompt(facts, rng)
            asked.append((prompt, {"instrument": instrument, "tempo": band, "key": key}))
    return asked[:count]
