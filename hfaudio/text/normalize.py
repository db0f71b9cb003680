"""Normalisers of transcripts, by name: the name is saved with a model and applied to both sides of every score.

none      canonical composition (NFC) and single blanks; nothing else changes.
basic     any language: lower case, no punctuation or symbols, no text in brackets; letters, combining marks and digits
          of every script stay, so that "प्राचीन संस्कृतियों" is unchanged.
english   basic, with numbers, money and abbreviations in words and one spelling per word (`hfaudio.text.english`).

All three are idempotent. What "basic" decides:

- NFC, not NFKC. NFKC would also take Thai and Lao vowels apart (U+0E33), turn "m²" into "m2" and Korean letters into
  pieces of syllables. Of the compatibility forms only those that are other widths or positions of the same letter are
  folded: full-width Latin, half-width kana, Arabic presentation forms and Latin ligatures.
- `lower()`, not `casefold()`: German "ß" stays ("ẞ" becomes "ß", "SS" becomes "ss"), a final "Σ" becomes "ς". It knows
  no language: Turkish "İ" becomes "i" without a left-over dot, but "I" becomes "i", not the dotless letter;
  lower Turkish text first.
- Apostrophes of all shapes become "'" before a letter inside a word ("don't", "l'été", "1990's") and vanish elsewhere
  ("'quoted'", "dogs'"). Hebrew abbreviations keep their gershayim, Catalan "l·l" its dot.
- Other punctuation and symbols, "-" and the "." of "3.14" among them, become a blank; beside Chinese characters and
  kana, where writers put no blanks, they vanish. Blanks written there stay; the character error rate is the measure.
- Arabic and Hebrew vowel signs stay (who wants them off must take them off both sides); the stretching tatweel goes.
- Invisible characters go (soft hyphen, zero-width space, direction and variation marks), except the two joiners where
  they are spelling: between Arabic letters (Persian) and beside combining marks (Indic half forms).
- "[noise]", "(laughs)" and "<unk>" go with their brackets; "a < b" is no bracket.
"""

import re
import unicodedata
from functools import cache
from itertools import pairwise

from hfaudio.text.english import spell_out, standard_spelling

NORMALIZERS = ("none", "basic", "english")

FOLDED_FORMS = ("<wide>", "<narrow>", "<initial>", "<medial>", "<final>", "<isolated>")
LATIN_LIGATURES = "ﬀﬁﬂﬃﬄﬅﬆ"

# typewriter, single quotes, modifier letters (Ukrainian, Hawaiian), grave, acute, prime, Hebrew geresh
APOSTROPHES = "'\u2018\u2019\u201b\u02bc\u02bb`\u00b4\u2032\u05f3"
GERSHAYIM = "\u05f4"
ZERO_WIDTH_JOINER = "\u200d"
JOINERS = "\u200c" + ZERO_WIDTH_JOINER  # the non-joiner first
TATWEEL = "\u0640"
VARIATION_SELECTORS = re.compile("[\ufe00-\ufe0f\U000e0100-\U000e01ef]")

# "<" before a blank is the sign "less than"
BRACKETED = re.compile(r"\[[^\[\]]*\]|\([^()]*\)|<(?!\s)[^<>]*>")
QUOTE_AS_GERSHAYIM = re.compile('(?<=[\u05d0-\u05ea])["\u201d](?=[\u05d0-\u05ea])')

CJK = re.compile(
    "[\u3005-\u3007\u3040-\u3098\u309b-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)
REMOVED = "\0"  # stands for a removed symbol until its neighbours are known
REMOVED_BESIDE_CJK = re.compile(f"(?<={CJK.pattern}){REMOVED}+|{REMOVED}+(?={CJK.pattern})")


def normalize(text: str, normalizer: str) -> str:
    """The text as this normaliser writes it; `normalizer` is one of NORMALIZERS."""
    if normalizer == "none":
        return " ".join(unicodedata.normalize("NFC", text).split())
    if normalizer == "basic":
        return _without_symbols(_folded(text))
    if normalizer == "english":
        return standard_spelling(_without_symbols(spell_out(_folded(text))))
    raise ValueError(f"unknown normalizer {normalizer!r}; choose one of {', '.join(NORMALIZERS)}")


def _folded(text: str) -> str:
    """Lower-case NFC text without invisible characters and bracketed passages."""
    text = "".join(map(_visible, "".join(map(_one_form, text))))
    text = _without_stray_joiners(unicodedata.normalize("NFC", text))
    text = text.replace("İ", "i").lower()  # "İ".lower() is "i" and a combining dot
    text = unicodedata.normalize("NFC", text)  # again: lower case composes pairs that capitals do not, as in "J\u030c"
    removals = 1
    while removals:  # from the inside out: "(a (b) c)"
        text, removals = BRACKETED.subn(".", text)
    return text


def _without_symbols(text: str) -> str:
    """Letters, marks, digits and in-word apostrophes of a folded text, single blanks between words."""
    text = QUOTE_AS_GERSHAYIM.sub(GERSHAYIM, text)
    kept = [REMOVED]
    for char, following in pairwise(text + REMOVED):
        kind = _kind(char)
        before, after = _kind(kept[-1]), _kind(following)
        if char in APOSTROPHES and before in "LMN" and after == "L":
            kept.append("'")
        elif (
            kind in "LCN"
            or (kind == "M" and before in "LCMNJ")  # a mark goes with the symbol that carried it
            or (kind == "J" and before in "LCM")
            or (char == GERSHAYIM and before == after == "L")
            or (char == "·" and kept[-1] == following == "l")
        ):
            kept.append(char)
        else:
            kept.append(" " if char.isspace() else REMOVED)
    text = REMOVED_BESIDE_CJK.sub("", "".join(kept)).replace(REMOVED, " ")
    return " ".join(text.split())


def _without_stray_joiners(text: str) -> str:
    """Joiners stay after a combining mark (Indic), before one (Bengali), and between Arabic letters (Persian)."""
    kept = [REMOVED]
    for char, following in pairwise(text + REMOVED):
        if char in JOINERS:
            before, after = _kind(kept[-1]), _kind(following)
            after_mark = before == "M" and (after in "LM" or char == ZERO_WIDTH_JOINER)  # a chillu may end the word
            after_letter = before == "L" and (after == "M" or (_is_arabic(kept[-1]) and _is_arabic(following)))
            if not (after_mark or after_letter):
                continue
        kept.append(char)
    return "".join(kept[1:])


def _is_arabic(char: str) -> bool:
    return unicodedata.bidirectional(char) == "AL"


@cache
def _one_form(char: str) -> str:
    """The usual form of a letter in another width or position, and its letters for a ligature."""
    form, *codes = unicodedata.decomposition(char).split() or [""]
    if char in LATIN_LIGATURES or (form in FOLDED_FORMS and not char.isspace()):
        # a presentation form of a lone vowel sign is "blank + sign": the sign belongs to the letter before it
        return "".join(chr(int(code, 16)) for code in codes).lstrip()
    return char


@cache
def _visible(char: str) -> str:
    """The character, or nothing for what is not seen, not heard and no blank."""
    if char in JOINERS or char.isspace():
        return char
    if char == TATWEEL or unicodedata.category(char) in ("Cc", "Cf", "Me") or VARIATION_SELECTORS.match(char):
        return ""
    return char


@cache
def _kind(char: str) -> str:
    """L letter, C Chinese character or kana, M combining mark, N number, J joiner, "-" anything else."""
    if char in JOINERS:
        return "J"
    category = unicodedata.category(char).replace("Co", "L").replace("Cn", "L")  # private, or newer than this Python
    if category[0] in "LN" and CJK.match(char):
        return "C"
    return category[0] if category[0] in "LMN" else "-"
