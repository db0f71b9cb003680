"""When each word of a known text is spoken in a recording, by a CTC model; to Praat's TextGrid, JSON and subtitles.

The text keeps its spelling. What is looked for is its normal form, by the normaliser that the model was trained with:
"Dr. Smith paid $5" is found as "doctor smith paid five dollars", and the words of the result are "Dr.", "Smith",
"paid", "$5".
"""

import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

import numpy as np
from transformers import AutoFeatureExtractor, AutoModelForCTC, AutoTokenizer, PreTrainedTokenizerBase

import hfaudio.auto  # noqa: F401, folders of our own models open below
from hfaudio.audio.io import Source
from hfaudio.decoding.align import WILDCARD, AlignmentCosts, WordSpan, align_words
from hfaudio.decoding.greedy import Word
from hfaudio.inference.subtitles import segments, to_srt
from hfaudio.inference.transcribe import CTCRecognizer, choose_device, is_ctc, load_config
from hfaudio.text.normalize import normalize


@dataclass(frozen=True)
class TextUnit:
    """A word as it stands in the text (or several, where they are read together) and the words it is read as."""

    text: str
    spoken_as: tuple[str, ...]


@dataclass(frozen=True)
class AlignedWord:
    """A word of the text with its time in seconds, and the labels it was found by.

    Start and end are NaN and the confidence is 0 for a word that is not spoken: one at an end of the text that nobody
    says, or one of which the normaliser leaves nothing ("--").
    """

    text: str
    start: float
    end: float
    confidence: float
    labels: tuple[Word, ...]

    @property
    def is_spoken(self) -> bool:
        return bool(self.labels)


@dataclass(frozen=True)
class Alignment:
    """All words of the text in their order, and the length of the recording in seconds."""

    words: tuple[AlignedWord, ...]
    seconds: float

    @property
    def spoken(self) -> list[Word]:
        """The words that have a time."""
        return [Word(word.text, word.start, word.end, word.confidence) for word in self.words if word.is_spoken]


class Aligner:
    """A CTC model opened once, to align many texts: `Aligner("my_model")("talk.mp3", "what was said")`.

    Args:
        model: a folder or Hub id that `AutoModelForCTC` opens.
        device: "cpu", "cuda" ...; the accelerator where there is one if not given.
        trust_remote_code: run the code that a model folder brings; not needed for the models of hfaudio.
        costs: of what does not fit; `AlignmentCosts(unspoken=math.inf)` forces all words into the recording.
        chunk_seconds, stride_seconds, batch_size: how the model reads, as of `Transcriber`.
        normalizer: used where the model names none.

    Raises:
        ValueError: no such model, or none with CTC.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        device: str | None = None,
        trust_remote_code: bool = False,
        costs: AlignmentCosts | None = None,
        chunk_seconds: float = 20.0,
        stride_seconds: float = 3.0,
        batch_size: int = 4,
        normalizer: str = "basic",
        progress: bool = True,
    ) -> None:
        config = load_config(model, trust_remote_code=trust_remote_code)
        if not is_ctc(config):
            raise ValueError(f"alignment needs a CTC model, {os.fspath(model)} is a {config.model_type}")
        self.normalizer: str = config.to_dict().get("text_normalizer", normalizer)
        self.tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            model, trust_remote_code=trust_remote_code
        )
        self.costs = costs
        opened: Any = AutoModelForCTC.from_pretrained(model, trust_remote_code=trust_remote_code)
        self.recognizer = CTCRecognizer(
            opened.to(choose_device(device)),
            AutoFeatureExtractor.from_pretrained(model, trust_remote_code=trust_remote_code),
            self.tokenizer,
            chunk_seconds=chunk_seconds,
            stride_seconds=stride_seconds,
            batch_size=batch_size,
            progress=progress,
        )

    def __call__(self, source: Source, text: str) -> Alignment:
        """The times of the words of the text in a recording, as `load_audio` opens it.

        Raises:
            ValueError: no word in the text that could be spoken, or more of it than the recording has frames.
            AudioError: the recording cannot be read.
        """
        units = text_units(text, self.normalizer)
        spelled = [unit for unit in units if unit.spoken_as]
        if not spelled:
            raise ValueError(f"the text has no word that could be spoken: {text[:60]!r}; give what is said")
        ends = [0.0]

        def pieces() -> Iterator[np.ndarray]:
            for piece, end in self.recognizer.log_prob_pieces(source):
                ends.append(end)
                yield piece

        labels = self.recognizer.labels
        delimiter_id = word_delimiter(labels)
        words = [as_labels_write(word, labels) for unit in spelled for word in unit.spoken_as]
        ids = [word_ids(word, self.tokenizer, delimiter_id) for word in words]
        if all(i == WILDCARD for word in ids for i in word):
            raise ValueError(f"the model has no label for any letter of the text: {words[:5]}; is it of its language?")
        spans = align_words(
            pieces(),
            ids,
            self.recognizer.model.config.pad_token_id,
            delimiter_id=delimiter_id,
            costs=self.costs,
        )
        seconds = ends[-1]
        scale = self.recognizer.samples_per_frame / self.recognizer.rate
        found = iter(zip(words, ids, spans, strict=True))
        aligned = []
        for unit in units:
            timed = [label for _ in unit.spoken_as for label in timed_labels(*next(found), labels, scale, seconds)]
            aligned.append(aligned_word(unit.text, timed))
        return Alignment(tuple(aligned), seconds)


def text_units(text: str, normalizer: str) -> list[TextUnit]:
    """The words of a text beside what the normaliser makes of them, split as finely as the two can be matched.

    The whole text is normalised as training did it. Where its words are those of each word by itself, a unit is one
    word; where they are not, as in "$5 million", the words in question are one unit.
    """
    originals = text.split()
    alone = [
        (word, number) for number, original in enumerate(originals) for word in normalize(original, normalizer).split()
    ]
    whole = normalize(text, normalizer).split()
    # Numbers of the first and last original word that each stretch of `whole` comes from.
    stretches: list[tuple[int, int, list[str]]] = []
    matcher = SequenceMatcher(None, [word for word, _ in alone], whole, autojunk=False)
    for operation, i1, i2, j1, j2 in matcher.get_opcodes():
        if operation == "equal":
            stretches += [
                (alone[i][1], alone[i][1], [whole[j]]) for i, j in zip(range(i1, i2), range(j1, j2), strict=True)
            ]
        elif i2 > i1:
            stretches.append((alone[i1][1], alone[i2 - 1][1], whole[j1:j2]))
        else:  # words that only the whole text has belong to the word before
            owner = alone[i1 - 1][1] if i1 else 0
            stretches.append((owner, owner, whole[j1:j2]))
    units: list[TextUnit] = []
    spoken: list[str] = []
    first = end = 0  # the open unit is originals[first:end]
    for start, last, words in stretches:
        if start >= end:
            if end > first:
                units.append(TextUnit(" ".join(originals[first:end]), tuple(spoken)))
            units += [TextUnit(original, ()) for original in originals[end:start]]
            first, spoken = start, []
        end = max(end, last + 1)
        spoken = spoken + words
    if end > first:
        units.append(TextUnit(" ".join(originals[first:end]), tuple(spoken)))
    units += [TextUnit(original, ()) for original in originals[end:]]
    return joined_units(units, normalizer)


def joined_units(units: Sequence[TextUnit], normalizer: str) -> list[TextUnit]:
    """Units of which one took over the next one's words made one: "$5" as "five million dollars", and "million"."""
    joined: list[TextUnit] = []
    for unit in units:
        if joined and not unit.spoken_as and normalize(unit.text, normalizer):
            before = joined[-1]
            if len(before.spoken_as) > len(normalize(before.text, normalizer).split()):
                joined[-1] = TextUnit(f"{before.text} {unit.text}", before.spoken_as)
                continue
        joined.append(unit)
    return joined


def word_delimiter(labels: Sequence[str]) -> int | None:
    """Id of the label between two words; None where labels such as " the" bring the space with them.

    BPE vocabularies have the space alone as well, but only as the first piece of a word.
    """
    if " " not in labels or any(label.startswith(" ") and label != " " for label in labels):
        return None
    return labels.index(" ")


def as_labels_write(word: str, labels: Sequence[str]) -> str:
    """The word in capitals for models that know nothing else, as wav2vec2-base-960h; else as it is."""
    letters = "".join(labels)
    return word.upper() if letters == letters.upper() != letters.lower() else word


def word_ids(word: str, tokenizer: PreTrainedTokenizerBase, delimiter_id: int | None) -> list[int]:
    """Label ids of a normalised word, WILDCARD for what the tokenizer does not know."""
    ids = tokenizer(word, add_special_tokens=False).input_ids
    return [WILDCARD if i == tokenizer.unk_token_id else i for i in ids if i != delimiter_id] or [WILDCARD]


def timed_labels(
    word: str, ids: Sequence[int], span: WordSpan, labels: Sequence[str], scale: float, seconds: float
) -> list[Word]:
    """Labels of a word with times; nothing for a word that is not spoken. A wildcard shows the character itself."""
    if not span.is_spoken:
        return []
    by_character = len(ids) == len(word)
    spellings = [
        labels[i].strip() if i != WILDCARD else (word[place] if by_character else "\N{REPLACEMENT CHARACTER}")
        for place, i in enumerate(ids)
    ]
    return [
        Word(spelling, min(start * scale, seconds), min(end * scale, seconds), float(confidence))
        for spelling, (start, end), confidence in zip(spellings, span.frames.tolist(), span.confidences, strict=True)
        if spelling  # a piece that is only the space before a word has a frame, but is no part of the word
    ]


def aligned_word(text: str, labels: Sequence[Word]) -> AlignedWord:
    """A word from its labels; its confidence is their geometric mean."""
    if not labels:
        return AlignedWord(text, math.nan, math.nan, 0.0, ())
    logs = [math.log(max(label.confidence, 1e-30)) for label in labels]
    return AlignedWord(text, labels[0].start, labels[-1].end, math.exp(sum(logs) / len(logs)), tuple(labels))


def to_textgrid(alignment: Alignment) -> str:
    """Praat's TextGrid in its long form: a tier of words and one of labels, each covering all of the recording."""
    tiers = {
        "words": alignment.spoken,
        "labels": [label for word in alignment.words for label in word.labels],
    }
    lines = ['File type = "ooTextFile"', 'Object class = "TextGrid"', ""]
    lines += ["xmin = 0", f"xmax = {alignment.seconds:.6f}", "tiers? <exists>", f"size = {len(tiers)}", "item []:"]
    for number, (name, words) in enumerate(tiers.items(), 1):
        intervals = covering(words, alignment.seconds)
        lines += [f"    item [{number}]:", '        class = "IntervalTier"', f'        name = "{name}"']
        lines += ["        xmin = 0", f"        xmax = {alignment.seconds:.6f}"]
        lines += [f"        intervals: size = {len(intervals)}"]
        for index, (start, end, text) in enumerate(intervals, 1):
            lines += [
                f"        intervals [{index}]:",
                f"            xmin = {start:.6f}",
                f"            xmax = {end:.6f}",
            ]
            lines.append('            text = "' + text.replace('"', '""') + '"')
    return "\n".join(lines) + "\n"


def covering(words: Sequence[Word], seconds: float) -> list[tuple[float, float, str]]:
    """Start, end and text of intervals that follow each other from 0 to the end, empty ones where nothing is said.

    Microseconds, the precision of the file: Praat refuses intervals of no length, and gaps of rounding.
    """
    intervals: list[tuple[float, float, str]] = []
    now, total = 0.0, round(seconds, 6)
    for word in words:
        start, end = round(word.start, 6), round(word.end, 6)
        if end <= start:  # the last frame may begin where the recording ends
            continue
        if start > now:
            intervals.append((now, start, ""))
        intervals.append((start, end, word.text))
        now = end
    if now < total or not intervals:
        intervals.append((now, total, ""))
    return intervals


def to_json(alignment: Alignment) -> str:
    """`{"seconds", "words": [{"text", "start", "end", "confidence", "labels": [...]}]}`, null where not spoken."""

    def timed(word: Word | AlignedWord) -> dict[str, Any]:
        spoken = not math.isnan(word.start)
        start, end = (round(word.start, 3), round(word.end, 3)) if spoken else (None, None)
        return {"text": word.text, "start": start, "end": end, "confidence": round(word.confidence, 4)}

    words = [{**timed(word), "labels": [timed(label) for label in word.labels]} for word in alignment.words]
    content = {"seconds": round(alignment.seconds, 3), "words": words}
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def to_subtitles(alignment: Alignment) -> str:
    """SubRip of the words that are spoken."""
    return to_srt(segments(alignment.spoken))
