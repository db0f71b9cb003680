"""The closed language of the bundled data: short English requests for music, made from facts.

The same prompts are spoken in the bundled speech and describe the clips of the bundled music. A prompt states some of
a piece's facts, never a wrong one: each template names a few fields, so the choice of the template is field dropout.
"""

import random
from dataclasses import asdict, dataclass
from string import Formatter

INSTRUMENTS = ("piano", "guitar", "flute", "organ", "strings", "trumpet", "marimba", "synth")
TEMPOS = {  # band: its words
    "slow": ("slow", "calm", "gentle"),
    "medium": ("medium", "steady", "relaxed"),
    "fast": ("fast", "quick", "lively"),
}
MOODS = {  # the mood follows the mode
    "major": ("happy", "bright", "cheerful"),
    "minor": ("sad", "dark", "dreamy"),
}
TONICS = ("c", "c sharp", "d", "e flat", "e", "f", "f sharp", "g", "a flat", "a", "b flat", "b")  # by semitone
FORMS = {  # the metre allows the form
    "three four": ("tune", "song", "melody", "dance", "waltz"),
    "four four": ("tune", "song", "melody", "dance", "march"),
}
TEMPLATES = (
    "{tempo} {instrument} {form} in {key}",
    "{mood} {tempo} {instrument} in {key}",
    "{mood} {instrument} {form} in {metre} time",
    "{tempo} {form} for {instrument} in {key}",
    "{tempo} {mood} {form} in {metre} time",
    "{key} {form} on the {instrument}",
    "{instrument} in {key} {tempo} and {mood}",
    "a {tempo} {form} for {instrument} in {metre} time",
    "a {tempo} {mood} {form} in {key}",
    "a {mood} {instrument} {form} in {key}",
    "something {mood} and {tempo} in {key}",
    "play a {mood} {form} on {instrument}",
    "play the {instrument} in {key}",
    "play me a {tempo} {form} in {metre} time on the {instrument}",
    "please play something {mood} on the {instrument}",
    "please play something {tempo} in {key}",
    "can you play a {tempo} {form} in {key}",
    "give me a {tempo} {mood} {instrument} {form}",
    "i'd like a {mood} {form} for {instrument}",
    "i want to hear a {form} in {key} and {metre} time",
    "let's hear a {tempo} {form} on the {instrument}",
    "make it {tempo} and {mood} with {instrument}",
)


@dataclass(frozen=True)
class Facts:
    """What a piece of music is, in the words of the language: `tempo` and `mood` are one of the words of a band.

    What is not known is "".
    """

    instrument: str
    tempo: str
    mood: str
    key: str  # "f sharp minor"
    metre: str
    form: str


def draw_facts(rng: random.Random) -> Facts:
    """Facts of a piece, each fact that is not tied to another drawn by itself."""
    mode, metre = rng.choice(tuple(MOODS)), rng.choice(tuple(FORMS))
    return Facts(
        instrument=rng.choice(INSTRUMENTS),
        tempo=rng.choice(TEMPOS[rng.choice(tuple(TEMPOS))]),
        mood=rng.choice(MOODS[mode]),
        key=f"{rng.choice(TONICS)} {mode}",
        metre=metre,
        form=rng.choice(FORMS[metre]),
    )


def draw_prompt(facts: Facts, rng: random.Random) -> str:
    """One of the prompts that say nothing but what is known; ValueError if there is none."""
    known = {name: value for name, value in asdict(facts).items() if value}
    fitting = [t for t in TEMPLATES if {field for _, field, _, _ in Formatter().parse(t) if field} <= known.keys()]
    if not fitting:
        raise ValueError(
            f"no prompt can be made of {', '.join(known) or 'no facts'}; a template needs two or three facts"
        )
    return rng.choice(fitting).format(**known)


def draw_prompts(n: int, rng: random.Random) -> list[str]:
    """n prompts, no two the same, so that splits cannot share one."""
    prompts: dict[str, None] = {}
    while len(prompts) < n:
        prompts[rng.choice(TEMPLATES).format(**asdict(draw_facts(rng)))] = None
    return list(prompts)
