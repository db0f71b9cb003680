import pytest

from hfaudio.text.numbers import LIMIT, cardinal, decimal, digits, ordinal, plural, year


@pytest.mark.parametrize(
    ("n", "words"),
    [
        (0, "zero"),
        (13, "thirteen"),
        (20, "twenty"),
        (21, "twenty one"),
        (100, "one hundred"),
        (115, "one hundred fifteen"),
        (999, "nine hundred ninety nine"),
        (1000, "one thousand"),
        (1001, "one thousand one"),
        (12_345, "twelve thousand three hundred forty five"),
        (1_000_000, "one million"),
        (2_000_000_017, "two billion seventeen"),
        (-42, "minus forty two"),
    ],
)
def test_cardinal(n: int, words: str) -> None:
    assert cardinal(n) == words


def value(words: str) -> int:
    """The number that English words name, by adding and multiplying from left to right."""
    ones = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
    small = {word: n for n, word in enumerate(f"{ones} seventeen eighteen nineteen".split())}
    small |= {
        word: 10 * n for n, word in enumerate("twenty thirty forty fifty sixty seventy eighty ninety".split(), 2)
    }
    total = group = 0
    for word in words.split():
        if word in small:
            group += small[word]
        elif word == "hundred":
            group *= 100
        else:
            total += group * {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}[word]
            group = 0
    return total + group


def test_cardinals_read_back_as_the_number_they_name() -> None:
    numbers = [
        *range(2000),
        *(7**k for k in range(17)),
        *(10**k for k in range(15)),
        *(10**k - 1 for k in range(1, 16)),
    ]
    assert [value(cardinal(n)) for n in numbers] == numbers


def test_a_number_without_a_name_is_refused() -> None:
    assert cardinal(LIMIT - 1).startswith("nine hundred ninety nine octillion")
    with pytest.raises(ValueError, match="digit by digit"):
        cardinal(LIMIT)


@pytest.mark.parametrize(
    ("n", "words"),
    [
        (1, "first"),
        (2, "second"),
        (3, "third"),
        (4, "fourth"),
        (5, "fifth"),
        (8, "eighth"),
        (9, "ninth"),
        (12, "twelfth"),
        (20, "twentieth"),
        (21, "twenty first"),
        (100, "one hundredth"),
        (112, "one hundred twelfth"),
        (1000, "one thousandth"),
    ],
)
def test_ordinal(n: int, words: str) -> None:
    assert ordinal(n) == words


@pytest.mark.parametrize(
    ("n", "words"),
    [
        (1999, "nineteen ninety nine"),
        (1905, "nineteen oh five"),
        (1900, "nineteen hundred"),
        (1066, "ten sixty six"),
        (2000, "two thousand"),
        (2005, "two thousand five"),
        (2010, "twenty ten"),
        (1005, "one thousand five"),
        (476, "four hundred seventy six"),
        (10_000, "ten thousand"),
    ],
)
def test_year(n: int, words: str) -> None:
    assert year(n) == words


def test_decimals_and_digits_are_read_one_by_one() -> None:
    assert decimal("3.14") == "three point one four"
    assert decimal("0.50") == "zero point five zero"
    assert decimal(".5") == "point five"
    assert digits("007") == "zero zero seven"


def test_plural() -> None:
    assert plural(year(1990)) == "nineteen nineties"
    assert plural("six") == "sixes"
    assert plural("two thousand") == "two thousands"
