# ruff: noqa: RUF001
import random
import sys
import unicodedata

import pytest

from hfaudio.text.normalize import NORMALIZERS, normalize

KEPT = ("Ll", "Lu", "Lt", "Lm", "Lo", "Mn", "Mc", "Nd", "Nl", "No")
ZWNJ, ZWJ = "\u200c", "\u200d"

UNCHANGED = {
    "hindi": "प्राचीन संस्कृतियों",
    "bengali": "প্রাচীন সংস্কৃতি র" + ZWJ + "্যাব",
    "tamil": "தமிழ் மொழி",
    "malayalam chillu": "അവന്" + ZWJ + " പറഞ്ഞു",
    "sinhala": "ශ්" + ZWJ + "රී ලංකා",
    "thai": "น้ำใจ ผู้ใหญ่",
    "khmer": "ភាសាខ្មែរ",
    "burmese": "မြန်မာဘာသာ",
    "arabic with vowel signs": "مُحَمَّدٌ رَسُولٌ",
    "persian": "می" + ZWNJ + "خواهم",
    "hebrew with vowel signs": "שָׁלוֹם",
    "chinese": "你好世界",
    "japanese": "ガギグゲゴ ラーメン 人々",
    "korean": "한국어 문장",
    "vietnamese": "tiếng việt",
    "yoruba": "ọ̀rọ̀ yorùbá",
    "french": "l'été à l'hôtel",
    "german": "straße",
    "greek": "οδός",
    "armenian": "հայերեն",
    "georgian": "ქართული",
    "amharic": "አማርኛ",
    "digits": "12 ١٢ १२ m²",
}


@pytest.mark.parametrize("text", UNCHANGED.values(), ids=UNCHANGED.keys())
def test_words_of_every_script_are_unchanged(text: str) -> None:
    assert normalize(text, "basic") == unicodedata.normalize("NFC", text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # case
        ("HELLO World", "hello world"),
        ("İSTANBUL", "istanbul"),
        ("ISPARTA", "isparta"),  # Turkish would need a dotless i: lower() knows no language
        ("STRASSE STRAẞE", "strasse straße"),
        ("ΟΔΟΣ ΣΟΦΙΑΣ.", "οδος σοφιας"),
        # composition
        ("cafe\u0301", "café"),
        ("J\u030c", "\u01f0"),  # composes in lower case only
        ("ﬁn ﬂow", "fin flow"),
        ("ＡＢＣ１２", "abc12"),
        ("ｶﾞｷﾞｸﾞ", "ガギグ"),
        ("ﻣﺮﺣﺒﺎ", "مرحبا"),
        # apostrophes
        ("Don’t, can`t, couldn´t", "don't can't couldn't"),
        ("'quoted' ‘rock ’n’ roll’", "quoted rock n roll"),
        ("dogs' 1990's", "dogs 1990's"),
        ("Об’єкт обʼєкт", "об'єкт об'єкт"),
        ("Hawaiʻi ʻāina", "hawai'i ʻāina"),
        ('צה"ל צה״ל "שלום"', "צה״ל צה״ל שלום"),
        ("ג׳ירפה", "ג'ירפה"),
        ("col·lega a·b", "col·lega a b"),
        # punctuation and symbols
        ("well-known: yes/no... $5 + 3.14%", "well known yes no 5 3 14"),
        ("¿Qué? ¡No!", "qué no"),
        ("नमस्ते। कैसे हैं?", "नमस्ते कैसे हैं"),
        ("مرحبا، كيف؟", "مرحبا كيف"),
        ("አማርኛ፡ነው።", "አማርኛ ነው"),
        ("你好，世界！我用iPhone，很好。", "你好世界我用iphone很好"),
        ("「ラーメン」、好き", "ラーメン好き"),
        ("你好， 世界", "你好 世界"),
        ("❤️ 1️⃣ 👩‍👩‍👧 ◌́ ok", "1 ok"),
        # invisible
        ("كـــتاب", "كتاب"),
        ("sof\u00adt zero\u200bwidth \ufeffbom \u202aleft\u202c", "soft zerowidth bom left"),
        ("auf" + ZWNJ + "lage می" + ZWNJ + " ب", "auflage می ب"),
        # brackets
        ("[noise] hello (laughs) <unk> there", "hello there"),
        ("a (b (c) d) e", "a e"),
        ("你好（笑）世界", "你好世界"),
        ("a < b and c > d", "a b and c d"),
        ("open (bracket", "open bracket"),
        # blanks
        ("  a\t\nb\u00a0c\u3000d ", "a b c d"),
        ("", ""),
        ("?!", ""),
    ],
)
def test_basic(text: str, expected: str) -> None:
    assert normalize(text, "basic") == expected


def test_none_composes_and_collapses_blanks_only() -> None:
    assert normalize("  Cafe\u0301,\t[x]  ＡB ", "none") == "Café, [x] ＡB"


def random_text(rng: random.Random) -> str:
    """Code points from all of Unicode, dense in those that interact: marks, joiners, quotes, brackets, case."""
    busy = "aAlIİΣσßẞǅé\u0301\u0307\u0338\u093c\u094d\u3099' ’ʼ·\"״()[]<> \t\u00ad\u0640\u200b\u200c\u200d\ufe0f\u20e3"
    busy += "각한か가ｶﾞ世ـبﷺﹰﹱﻣﬁ0१١²½\0\u3000\u2028-.,$"
    length = rng.randrange(12)
    return "".join(
        rng.choice(busy)
        if rng.random() < 0.8
        else chr(rng.choice([rng.randrange(32, 0xD800), rng.randrange(0xE000, 0x11000)]))
        for _ in range(length)
    )


@pytest.mark.parametrize("normalizer", NORMALIZERS)
def test_idempotent_on_random_text(normalizer: str) -> None:
    rng = random.Random(0)
    for _ in range(10_000):
        text = random_text(rng)
        once = normalize(text, normalizer)
        assert normalize(once, normalizer) == once, ascii(text)
        assert unicodedata.is_normalized("NFC", once), ascii(text)


def test_idempotent_on_every_code_point() -> None:
    for code in range(sys.maxunicode + 1):
        char = chr(code)
        if unicodedata.category(char) in ("Cn", "Co", "Cs") or 0x3400 <= code <= 0xD7A3:
            continue  # unassigned, and ideographs and syllables without variety
        text = f"a{char}a ब{char}्"
        once = normalize(text, "basic")
        assert normalize(once, "basic") == once, ascii(text)


def test_every_letter_mark_and_digit_survives() -> None:
    """All of Unicode's letters, marks and digits after an Arabic letter; only tatweel and variation
    selectors are dropped."""
    lost = []
    for code in range(sys.maxunicode + 1):
        char = chr(code)
        if (
            unicodedata.category(char) in KEPT
            and not 0x3400 <= code <= 0xD7A3
            and normalize("\u0628" + char, "basic") == "\u0628"
        ):
            lost.append(char)
    assert lost == ["\u0640", *map(chr, range(0xFE00, 0xFE10)), *map(chr, range(0xE0100, 0xE01F0))]


def test_unknown_name_is_refused() -> None:
    with pytest.raises(ValueError, match="'whisper'; choose one of none, basic, english"):
        normalize("text", "whisper")
