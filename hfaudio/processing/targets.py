"""What a decoder is fed and what it should answer: start token, language, task, timestamps, previous text.

Whisper's format (Radford et al. 2022, arXiv:2212.04356, figure 1):

    <|startofprev|> previous text <|startoftranscript|> <|en|> <|transcribe|> <|notimestamps|> text <|endoftext|>
    |-------------------------- prompt: no loss ----------------------------------------->|---- learned ----->|

                                  <|startoftranscript|> <|en|> <|transcribe|> <|0.00|> text <|2.40|> <|endoftext|>
                                  |---------------- prompt -----------------| |--------- learned -------------->|

Whisper itself was trained on the tokens of language and task, too. They are given here and at inference, so nothing
is learned there, and detecting languages is not unlearned.

All other models: their start token (`decoder_start_token_id`), text, end token. Input and answer are made here and
not by `shift_tokens_right`, so that the start token stands there once, whatever a tokenizer writes in front of a text
(scripts that compare with `bos_token_id` double it, huggingface/transformers#24342).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase
from transformers.models.whisper.tokenization_whisper import LANGUAGES, TO_LANGUAGE_CODE

from hfaudio.audio.augment import UNCHANGED, Timing, example_rng
from hfaudio.text.normalize import normalize

IGNORED = -100
TIME_STEP = 0.02  # seconds between two timestamp tokens
LAST_TIME = 30.0
TASKS = ("transcribe", "translate")
WITHOUT_BLANKS = ("zh", "ja", "th", "lo", "my", "yue")  # languages in which Whisper writes no blank before a text


@dataclass(frozen=True)
class Target:
    """Decoder input (U,) and, at each place, the token that should come next (U,): -100 where none is learned."""

    decoder_input_ids: list[int]
    labels: list[int]


def shifted(prompt: Sequence[int], answer: Sequence[int]) -> Target:
    """The pair for a prompt of at least one token and the answer behind it, which ends with the end token."""
    return Target([*prompt, *answer[:-1]], [IGNORED] * (len(prompt) - 1) + list(answer))


class PlainTargets:
    """Targets of a decoder whose prompt is its start token.

    Args:
        start_id, end_id: `decoder_start_token_id` and `eos_token_id` of the model's config.
    """

    prompt_length = 1

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, start_id: int, end_id: int) -> None:
        self.tokenizer = tokenizer
        self.start_id, self.end_id = start_id, end_id

    def __call__(self, row: Mapping[str, Any], text: str, *, epoch: int = 0, timing: Timing = UNCHANGED) -> Target:
        """The target of a row's text."""
        return shifted([self.start_id], self.answer(text))

    def answer(self, text: str) -> list[int]:
        """Ids of a text and the end token, without the start token that some tokenizers write."""
        ids = list(self.tokenizer(text).input_ids)
        if ids and ids[0] == self.start_id:
            ids = ids[1:]
        return ids if ids and ids[-1] == self.end_id else [*ids, self.end_id]

    @property
    def generate_kwargs(self) -> dict[str, Any]:
        """What `pipeline()` must be told beside the audio: nothing."""
        return {}

    def length(self, row: Mapping[str, Any], text: str) -> int:
        """Decoder positions that a text takes."""
        return self.prompt_length + len(self.answer(text)) - 1


class WhisperTargets:
    """Targets in Whisper's format.

    Args:
        multilingual: whether the checkpoint knows languages and tasks (`generation_config.is_multilingual`).
        language: name ("hindi") or code ("hi") of rows that name none in their column `language`.
        task: "transcribe", or "translate" if the texts are English translations.
        timestamp_probability: share of the clips that have `segments` which is learned with times.
        previous_text_probability: share of the clips that have a `previous_text` which gets it as a prompt.
        normalizer: how texts are written, for those in `segments` and `previous_text`.
        seed: of the choices, made for each (epoch, id of the row).
        max_length: positions of the decoder; a previous text fills at most half of them, its end stays.

    Raises:
        ValueError: for a language that the tokenizer does not know, or a language or task for an English-only model.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        multilingual: bool,
        language: str | None = None,
        task: str = "transcribe",
        timestamp_probability: float = 0.0,
        previous_text_probability: float = 0.0,
        normalizer: str = "none",
        seed: int = 0,
        max_length: int = 448,
    ) -> None:
        if task not in TASKS:
            raise ValueError(f"the task must be one of {', '.join(TASKS)}; got {task!r}")
        if not multilingual and (task != "transcribe" or language not in (None, "en", "english", "English")):
            raise ValueError(
                f"this Whisper knows English only, it has no language {language!r} and no task {task!r}; leave them "
                "out or take a multilingual checkpoint (without .en)"
            )
        self.tokenizer = tokenizer
        self.multilingual = multilingual
        self.language = language
        self.task = task
        self.timestamp_probability = timestamp_probability
        self.previous_text_probability = previous_text_probability
        self.normalizer = normalizer
        self.seed = seed
        self.max_length = max_length
        self.start_id, self.previous_id = self._id("<|startoftranscript|>"), self._id("<|startofprev|>")
        self.no_times_id, self.end_id = self._id("<|notimestamps|>"), self._id("<|endoftext|>")
        self.prompt_length = 4 if multilingual else 2
        if multilingual and language is not None:
            self.prompt(language)  # a language that does not exist must show now

    def __call__(self, row: Mapping[str, Any], text: str, *, epoch: int = 0, timing: Timing = UNCHANGED) -> Target:
        """The target of a row with its normalised text; `timing` is how its samples were shifted and sped up."""
        rng = example_rng(self.seed, epoch, "targets", row["id"])
        with_times, with_previous = rng.random(2) < (self.timestamp_probability, self.previous_text_probability)
        language = row.get("language") or self.language
        prompt = self.prompt(language)
        segments = row.get("segments") if with_times else None
        if segments:
            prompt, answer = prompt[:-1], self._timed(segments, language, timing)
        else:
            answer = self._text(text, language)
        answer = [*answer, self.end_id]
        previous = normalize(row.get("previous_text") or "", self.normalizer) if with_previous else ""
        if previous:
            room = min(self.max_length // 2 - 1, self.max_length - len(prompt) - len(answer))
            ids = self._text(previous, language)
            prompt = [self.previous_id, *ids[max(0, len(ids) - room) :], *prompt] if room > 0 else prompt
        return shifted(prompt, answer)

    @property
    def generate_kwargs(self) -> dict[str, Any]:
        """What `pipeline()` must be told beside the audio: language and task of a multilingual model."""
        if not self.multilingual:
            return {}
        return {"language": None if self.language is None else self._code(self.language), "task": self.task}

    def length(self, row: Mapping[str, Any], text: str) -> int:
        """Decoder positions that a row's text takes at most, with times if they may be learned."""
        language = row.get("language") or self.language
        length = self.prompt_length + len(self._text(text, language))
        if self.timestamp_probability and row.get("segments"):
            length = max(length, self.prompt_length - 1 + len(self._timed(row["segments"], language, UNCHANGED)))
        return length

    def prompt(self, language: str | None) -> list[int]:
        """The ids from the start token to the first one that is generated, without timestamps."""
        if not self.multilingual:
            return [self.start_id, self.no_times_id]
        if language is None:
            raise ValueError("a multilingual Whisper must be told the language; set --language or --language_column")
        return [self.start_id, self._id(f"<|{self._code(language)}|>"), self._id(f"<|{self.task}|>"), self.no_times_id]

    def _code(self, language: str) -> str:
        name = language.lower()
        code = name if name in LANGUAGES else TO_LANGUAGE_CODE.get(name)
        if code is None:
            code = name.replace("_", "-").partition("-")[0]  # "en_US", "zh-CN"
        if self.tokenizer.convert_tokens_to_ids(f"<|{code}|>") in (None, self.tokenizer.unk_token_id):
            raise ValueError(
                f"the tokenizer has no language {language!r}; choose one of {', '.join(LANGUAGES)}, for a new "
                "language the nearest relative"
            )
        return code

    def _text(self, text: str, language: str | None) -> list[int]:
        blank = "" if language is not None and self._code(language) in WITHOUT_BLANKS else " "
        return self.tokenizer(blank + text.strip(), add_special_tokens=False).input_ids

    def _timed(self, segments: Sequence[Mapping[str, Any]], language: str | None, timing: Timing) -> list[int]:
        ids: list[int] = []
        for segment in segments:
            text = normalize(segment["text"], self.normalizer)
            if text:
                start, end = timing.moved(segment["start"]), timing.moved(segment["end"])
                ids += [self._time_id(start), *self._text(text, language), self._time_id(end)]
        return ids

    def _time_id(self, seconds: float) -> int:
        return self.no_times_id + 1 + round(min(max(seconds, 0.0), LAST_TIME) / TIME_STEP)

    def _id(self, token: str) -> int:
        index: Any = self.tokenizer.convert_tokens_to_ids(token)
        if index is None or (index == self.tokenizer.unk_token_id and token != self.tokenizer.unk_token):
            raise ValueError(f"the tokenizer has no token {token}; is it a Whisper's?")
        return index
