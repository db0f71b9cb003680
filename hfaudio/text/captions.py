"""Captions of music for training: as they are, anew from facts, with fields and words left out."""

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import islice
from typing import Any

from hfaudio.text.prompts import MOODS, TEMPOS, Facts, draw_prompt, draw_prompts

STYLES = ("text", "prompts", "fields")
FACTS = tuple(fact.name for fact in fields(Facts))  # that the closed language speaks of


@dataclass
class CaptionArguments:
    """What is said about a clip while a model is trained; each epoch says it anew."""

    caption_style: str = field(
        default="text",
        metadata={
            "help": "text: the column as it is. prompts: in the closed language of the bundled data, from the columns "
            "instrument, tempo, mood, key, metre and form. fields: the text and 'name: value' of --fact_columns."
        },
    )
    guidance_dropout: float = field(
        default=0.2, metadata={"help": "Share of clips without a caption, which guidance needs; drawn clip by clip."}
    )
    field_dropout: float = field(default=0.3, metadata={"help": "Share of fields left out (fields)."})
    word_dropout: float = field(default=0.0, metadata={"help": "Share of words left out, one at least stays."})

    def __post_init__(self) -> None:
        if self.caption_style not in STYLES:
            raise ValueError(f"--caption_style must be one of {', '.join(STYLES)}; got {self.caption_style!r}")
        for option in ("guidance_dropout", "field_dropout", "word_dropout"):
            if not 0 <= getattr(self, option) < 1:
                raise ValueError(f"--{option} is a share of at least 0 and below 1; got {getattr(self, option):g}")


@dataclass(frozen=True)
class Captions:
    """Draws a caption for a row with `text` and the columns `facts`; "" for none."""

    style: str = "text"
    facts: tuple[str, ...] = ()
    guidance_dropout: float = 0.0
    field_dropout: float = 0.0
    word_dropout: float = 0.0

    @classmethod
    def of(cls, args: CaptionArguments, fact_columns: Sequence[str] | None) -> "Captions":
        """As the options of a run say; ValueError where the columns of the style are not named."""
        facts = tuple(fact_columns or ())
        if args.caption_style == "prompts" and not set(FACTS) & set(facts):
            raise ValueError(f"--caption_style prompts needs some of the --fact_columns {', '.join(FACTS)}")
        if args.caption_style == "fields" and not facts:
            raise ValueError("--caption_style fields needs --fact_columns, such as genre bpm key")
        return cls(args.caption_style, facts, args.guidance_dropout, args.field_dropout, args.word_dropout)

    def __call__(self, row: Mapping[str, Any], rng: random.Random) -> str:
        if rng.random() < self.guidance_dropout:
            return ""
        if self.style == "prompts":
            text = draw_prompt(facts_of_row(row, rng), rng)
        elif self.style == "fields":
            text = self._fields(row, rng)
        else:
            text = row["text"]
        words = text.split()
        kept = [word for word in words if rng.random() >= self.word_dropout]
        return " ".join(kept or words[:1])

    def _fields(self, row: Mapping[str, Any], rng: random.Random) -> str:
        """The text and the known fields behind it, in any order; all of them at times, one at least.

        Unlike audiocraft 1.4, whose field is kept where a number is below the share to drop, and read once a dataset.
        """
        parts = [f"{name}: {row[name]}" for name in self.facts if row[name] not in (None, "")]
        parts = [part for part in [row.get("text") or "", *parts] if part]
        kept = [part for part in parts if rng.random() >= self.field_dropout] or [rng.choice(parts or [""])]
        rng.shuffle(kept)
        return ", ".join(kept)


def caption_texts(captions: Captions, rows: Iterable[Mapping[str, Any]], limit: int) -> list[str]:
    """Captions whose words a new tokenizer should know: of the closed language any, else those of the first rows."""
    if captions.style == "prompts":
        return draw_prompts(5000, random.Random(0))
    whole = Captions(captions.style, captions.facts)
    return [whole(row, random.Random(0)) for row in islice(rows, limit)]


def facts_of_row(row: Mapping[str, Any], rng: random.Random) -> Facts:
    """Facts of a row of the bundled music: for a tempo band, and for the mood of a key, any of its words."""
    known = {name: str(row.get(name) or "") for name in FACTS}
    if known["tempo"] in TEMPOS:
        known["tempo"] = rng.choice(TEMPOS[known["tempo"]])
    mode = known["key"].rpartition(" ")[2]
    if known["mood"] and mode in MOODS:
        known["mood"] = rng.choice(MOODS[mode])
    return Facts(**known)
