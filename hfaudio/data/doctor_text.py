"""What makes two labels of one: look-alike letters, decomposed forms, invisible characters, broken encodings."""

import re
import unicodedata
from functools import cache

from hfaudio.text.normalize import JOINERS

# Alphabets with letters that look alike, such as U+0430 and "a". Others mix in one word for good reasons: Chinese
# characters with kana or Latin, Indic endings on Latin words.
LOOK_ALIKE_SCRIPTS = frozenset({"LATIN", "CYRILLIC", "GREEK", "ARMENIAN"})
REPLACEMENT_CHARACTER = "\ufffd"

WORD = re.compile(r"[^\W\d_]+")


def mixed_script_words(text: str) -> list[str]:
    """Words with letters of two of the LOOK_ALIKE_SCRIPTS."""
    if text.isascii():
        return []
    return [word for word in WORD.findall(text) if len(LOOK_ALIKE_SCRIPTS.intersection(map(script, word))) > 1]


@cache
def script(letter: str) -> str:
    """First word of a letter's Unicode name, such as "CYRILLIC"; "" if it has no name."""
    return unicodedata.name(letter, "").partition(" ")[0]


def composed_and_decomposed(text: str) -> tuple[bool, bool]:
    """Whether the text holds letters that NFD would take apart, and whether it holds sequences that NFC would join."""
    if text.isascii():
        return False, False
    composed = unicodedata.normalize("NFC", text)
    return any(unicodedata.decomposition(char)[:1] not in ("", "<") for char in text), composed != text


def invisible_characters(text: str) -> list[str]:
    """Names of the control and format characters of a text, and of its blanks other than the usual one.

    The zero-width joiners are spelling in Persian and in Indic scripts: they count only beside Latin, Greek, Cyrillic
    or no letter at all.
    """
    if text.isascii() and text.isprintable():
        return []
    found = []
    for before, char in zip(" " + text, text, strict=False):
        kind = unicodedata.category(char)
        if char in JOINERS and before.strip() and script(before) not in LOOK_ALIKE_SCRIPTS:
            continue
        if kind in ("Cc", "Cf", "Zl", "Zp") or (kind == "Zs" and char != " "):
            found.append(character_name(char))
    return found


def is_broken(text: str) -> bool:
    """Whether bytes were read in a wrong encoding: U+FFFD, or UTF-8 read as Windows-1252 ("Ã©" for "é")."""
    if text.isascii():
        return False
    if REPLACEMENT_CHARACTER in text:
        return True
    try:
        return text.encode("cp1252").decode("utf-8") != text
    except UnicodeError:
        return False


def character_name(char: str) -> str:
    """ "U+00AD SOFT HYPHEN"; control characters have only a number."""
    return f"U+{ord(char):04X} {unicodedata.name(char, '')}".strip()
