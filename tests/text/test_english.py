import random

import pytest

from hfaudio.text.english import ABBREVIATIONS, AMERICAN
from hfaudio.text.normalize import normalize

PAIRS = [
    # years, decades
    ("In 1999,", "in nineteen ninety nine"),
    ("2005 and 2019", "two thousand five and twenty nineteen"),
    ("the 1990s", "the nineteen nineties"),
    ("the '90s", "the nineties"),
    ("the 1920\u2019s", "the nineteen twenties"),
    ("1914-1918", "nineteen fourteen nineteen eighteen"),
    # cardinals, decimals, signs
    ("2 cats", "two cats"),
    ("1,999 cats", "one thousand nine hundred ninety nine cats"),
    ("3500", "three thousand five hundred"),
    ("3.14", "three point one four"),
    ("It is 5.", "it is five"),
    ("at -5 now", "at minus five now"),
    ("at \u22125 now", "at minus five now"),
    ("from 3-5", "from three five"),
    ("a 20-year-old", "a twenty year old"),
    ("agent 007", "agent zero zero seven"),
    ("4111111111111111", "four " + "one " * 14 + "one"),
    ("1.2.3", "one point two point three"),
    # glued to letters
    ("an mp3 of 5kg", "an mp three of five kg"),
    ("1.5s", "one point five s"),
    # ordinals
    ("the 21st century", "the twenty first century"),
    ("1st 2nd 3rd 4th", "first second third fourth"),
    ("the 1,000th", "the one thousandth"),
    # money
    ("$5.20", "five dollars and twenty cents"),
    ("$1", "one dollar"),
    ("$1.01", "one dollar and one cent"),
    ("$0.99", "ninety nine cents"),
    ("$.50", "fifty cents"),
    ("$20.00", "twenty dollars"),
    ("$1,000.50", "one thousand dollars and fifty cents"),
    ("$1999", "one thousand nine hundred ninety nine dollars"),
    ("$2.5 million", "two point five million dollars"),
    ("\u00a31.01", "one pound and one penny"),
    ("\u00a33.02", "three pounds and two pence"),
    ("\u20ac1", "one euro"),
    ("20 \u20ac", "twenty euros"),
    ("-$5", "minus five dollars"),
    ("$0", "zero dollars"),
    # percent
    ("12.5%", "twelve point five percent"),
    ("50 per cent", "fifty percent"),
    ("a super century", "a super century"),
    # times
    ("at 7:30", "at seven thirty"),
    ("at 7:05 p.m.", "at seven oh five pm"),
    ("at 7:00", "at seven o'clock"),
    ("at 7:00am", "at seven am"),
    ("19:00", "nineteen hundred"),
    ("a 12:61 score", "a twelve sixty one score"),
    # abbreviations and signs
    ("Mr. and Mrs. Smith", "mister and missus smith"),
    ("Dr Jones vs. St. John", "doctor jones versus saint john"),
    ("salt & pepper, etc.", "salt and pepper et cetera"),
    ("OK", "okay"),
    # contractions
    ("Don\u2019t, they're 'fine'", "don't they're fine"),
    ("o'clock", "o'clock"),
    # one spelling
    ("the neighbour's favourite colours", "the neighbor's favorite colors"),
    ("Realising the theatre programme", "realizing the theater program"),
    ("learnt aluminium", "learnt aluminium"),
    # the rest is "basic"
    ("[laughs] (coughs) well-known", "well known"),
    ("caf\u00e9", "caf\u00e9"),
    ("\uff15\uff05", "five percent"),
    ("", ""),
]


@pytest.mark.parametrize(("written", "said"), PAIRS)
def test_written_forms_become_what_is_said(written: str, said: str) -> None:
    assert normalize(written, "english") == said


@pytest.mark.parametrize("said", [said for _, said in PAIRS])
def test_what_is_said_stays(said: str) -> None:
    assert normalize(said, "english") == said


def test_random_text_keeps_no_digit_and_is_stable() -> None:
    rng = random.Random(0)
    pieces = [
        *"0123456789",
        *"abmpst $\u00a3\u20ac%.,:-'&()[]<>/",
        " ",
        "th",
        "st",
        "s",
        "pm",
        "million",
        "colour",
        "per",
    ]
    for _ in range(5000):
        text = "".join(rng.choices(pieces, k=rng.randrange(30)))
        once = normalize(text, "english")
        assert normalize(once, "english") == once, text
        assert not any(char in "0123456789" for char in once), text


def test_no_american_spelling_is_respelled() -> None:
    assert len(AMERICAN) > 200
    assert not set(AMERICAN) & {*AMERICAN.values(), *ABBREVIATIONS}
    assert not {word for words in ABBREVIATIONS.values() for word in words.split()} & {*AMERICAN, *ABBREVIATIONS}
