"""English names of numbers, in lower case, without hyphens and without "and": 121 is "one hundred twenty one"."""

ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
).split()
TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()  # TENS[0] is 20
SCALES = ["", *"thousand million billion trillion quadrillion quintillion sextillion septillion octillion".split()]
LIMIT = 1000 ** len(SCALES)

IRREGULAR_ORDINALS = {
    "one": "first",
    "two": "second",
    "three": "third",
    "five": "fifth",
    "eight": "eighth",
    "nine": "ninth",
    "twelve": "twelfth",
}


def cardinal(n: int) -> str:
    """Name of an integer: -42 -> "minus forty two"."""
    if abs(n) >= LIMIT:
        raise ValueError(f"{n} has no name here, the largest scale is {SCALES[-1]}; read it digit by digit")
    if n < 0:
        return "minus " + cardinal(-n)
    if n < 20:
        return ONES[n]
    if n < 100:
        tens, ones = divmod(n, 10)
        return TENS[tens - 2] + (f" {ONES[ones]}" if ones else "")
    if n < 1000:
        hundreds, rest = divmod(n, 100)
        return f"{ONES[hundreds]} hundred" + (f" {cardinal(rest)}" if rest else "")
    groups = []
    for scale in SCALES:
        n, group = divmod(n, 1000)
        if group:
            groups.append(f"{cardinal(group)} {scale}".rstrip())
    return " ".join(reversed(groups))


def ordinal(n: int) -> str:
    """Name of a rank: 21 -> "twenty first"."""
    *head, last = cardinal(n).split()
    if last in IRREGULAR_ORDINALS:
        last = IRREGULAR_ORDINALS[last]
    elif last.endswith("y"):
        last = last[:-1] + "ieth"
    else:
        last += "th"
    return " ".join([*head, last])


def year(n: int) -> str:
    """A year as it is said: 1999 -> "nineteen ninety nine", 1905 -> "nineteen oh five", 2005 -> "two thousand five".

    Read in pairs of digits; the first ten years of a millennium and years of fewer or more digits are cardinals.
    """
    century, rest = divmod(n, 100)
    if not 1000 <= n <= 9999 or (century % 10 == 0 and rest < 10):
        return cardinal(n)
    if rest == 0:
        return f"{cardinal(century)} hundred"
    return f"{cardinal(century)} {'oh ' if rest < 10 else ''}{cardinal(rest)}"


def digits(text: str) -> str:
    """Digits one by one: "007" -> "zero zero seven"."""
    return " ".join(ONES[int(digit)] for digit in text)


def decimal(text: str) -> str:
    """A decimal fraction: "3.14" -> "three point one four", ".5" -> "point five"."""
    whole, _, fraction = text.partition(".")
    return " ".join([*([cardinal(int(whole))] if whole else []), "point", digits(fraction)])


def plural(words: str) -> str:
    """Plural of the last word of a number's name: "nineteen ninety" -> "nineteen nineties", "six" -> "sixes"."""
    if words.endswith("y"):
        return words[:-1] + "ies"
    return words + ("es" if words.endswith("x") else "s")
