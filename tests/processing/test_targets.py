import pytest
from transformers import Wav2Vec2CTCTokenizer

from hfaudio.audio.augment import Timing
from hfaudio.processing import build_char_tokenizer
from hfaudio.processing.targets import PlainTargets, WhisperTargets, shifted
from hfaudio.processing.whisper_tokenizer import build_whisper_tokenizer

SEGMENTS = [{"start": 0.0, "end": 1.0, "text": "Hello"}, {"start": 1.2, "end": 2.4, "text": "world"}]


@pytest.fixture(scope="module")
def tokenizer():
    return build_whisper_tokenizer(["hello world", "hello there"], 270)


def spelled(tokenizer, ids: list[int]) -> str:
    """The tokens as text, special ones included, ignored ones as dots."""
    return "".join("." if i < 0 else tokenizer.decode([i], decode_with_timestamps=True) for i in ids)


def targets(tokenizer, **options) -> WhisperTargets:
    return WhisperTargets(tokenizer, **{"multilingual": True, "language": "en"} | options)


def test_every_decoder_place_is_asked_for_the_token_behind_it():
    target = shifted([7, 8], [1, 2, 9])
    assert target.decoder_input_ids == [7, 8, 1, 2]
    assert target.labels == [-100, 1, 2, 9]


def test_the_format_of_whisper(tokenizer):
    target = targets(tokenizer)({"id": "a"}, "hello world")
    assert spelled(tokenizer, target.decoder_input_ids) == (
        "<|startoftranscript|><|en|><|transcribe|><|notimestamps|> hello world"
    )
    assert spelled(tokenizer, target.labels) == "... hello world<|endoftext|>"


def test_an_english_only_model_has_neither_language_nor_task(tokenizer):
    target = targets(tokenizer, multilingual=False)({"id": "a"}, "hello")
    assert spelled(tokenizer, target.decoder_input_ids) == "<|startoftranscript|><|notimestamps|> hello"


def test_times_of_segments_move_with_the_augmentation(tokenizer):
    timing = Timing(before=0.5, after=0.2, speed=1.25)
    row = {"id": "a", "segments": SEGMENTS}
    target = targets(tokenizer, timestamp_probability=1.0, normalizer="basic")(row, "hello world", timing=timing)
    assert spelled(tokenizer, target.labels) == "..<|0.40|> hello<|1.20|><|1.36|> world<|2.32|><|endoftext|>"
    assert "notimestamps" not in spelled(tokenizer, target.decoder_input_ids)


def test_a_row_without_segments_is_learned_without_times(tokenizer):
    target = targets(tokenizer, timestamp_probability=1.0)({"id": "a", "segments": []}, "hello")
    assert "<|notimestamps|>" in spelled(tokenizer, target.decoder_input_ids)


def test_previous_text_comes_first_and_is_not_learned(tokenizer):
    row = {"id": "a", "previous_text": "Hello there"}
    target = targets(tokenizer, previous_text_probability=1.0, normalizer="basic")(row, "world")
    assert spelled(tokenizer, target.decoder_input_ids).startswith(
        "<|startofprev|> hello there<|startoftranscript|><|en|>"
    )
    learned = [i for i in target.labels if i >= 0]
    assert spelled(tokenizer, learned) == " world<|endoftext|>"


def test_a_long_previous_text_keeps_its_end_and_leaves_room(tokenizer):
    row = {"id": "a", "previous_text": "hello " * 40 + "there"}
    target = targets(tokenizer, previous_text_probability=1.0, max_length=32)(row, "world")
    text = spelled(tokenizer, target.decoder_input_ids)
    assert len(target.decoder_input_ids) <= 32
    assert " there<|startoftranscript|>" in text


def test_choices_depend_on_seed_epoch_and_row_only(tokenizer):
    row = {"segments": SEGMENTS}
    make = targets(tokenizer, timestamp_probability=0.5, seed=3)
    timed = [
        [
            "<|0.00|>" in spelled(tokenizer, make(row | {"id": str(i)}, "hello world", epoch=e).labels)
            for i in range(60)
        ]
        for e in (0, 0, 1)
    ]
    assert timed[0] == timed[1] != timed[2]
    assert 15 < sum(timed[0]) < 45


def test_the_language_of_a_row_goes_before_that_of_all(tokenizer):
    make = targets(tokenizer, language=None)
    assert make({"id": "a", "language": "English"}, "hello").decoder_input_ids[1] == make._id("<|en|>")
    with pytest.raises(ValueError, match="must be told the language; set --language"):
        make({"id": "a"}, "hello")


def test_unknown_languages_and_options_of_other_models_are_refused(tokenizer):
    with pytest.raises(ValueError, match="no language 'klingon'"):
        targets(tokenizer, language="klingon")
    with pytest.raises(ValueError, match="English only, it has no language 'hindi'"):
        targets(tokenizer, multilingual=False, language="hindi")
    with pytest.raises(ValueError, match="no task 'translate'"):
        targets(tokenizer, multilingual=False, task="translate", language=None)
    with pytest.raises(ValueError, match="one of transcribe, translate"):
        targets(tokenizer, task="summarise")
    with pytest.raises(ValueError, match="is it a Whisper's"):
        targets(build_char_tokenizer(["abc"]))


def test_length_counts_what_the_decoder_is_fed(tokenizer):
    row = {"id": "a", "segments": SEGMENTS}
    for options in ({}, {"timestamp_probability": 1.0}):
        make = targets(tokenizer, **options)
        assert make.length(row, "hello world") == len(make(row, "hello world").decoder_input_ids)


class WithStart:
    """A tokenizer that writes a start and an end token, as Moonshine's and SpeechT5's in turn do."""

    def __init__(self, start: bool, end: bool) -> None:
        self.start, self.end = start, end

    def __call__(self, text: str):
        ids = [1] * self.start + [10 + ord(c) for c in text] + [2] * self.end
        return type("Encoding", (), {"input_ids": ids})


@pytest.mark.parametrize("start", [False, True])
@pytest.mark.parametrize("end", [False, True])
def test_start_and_end_token_stand_there_once(start, end):
    target = PlainTargets(WithStart(start, end), start_id=1, end_id=2)({"id": "a"}, "ab")
    assert target.decoder_input_ids == [1, 107, 108]
    assert target.labels == [107, 108, 2]


def test_a_plain_tokenizer_of_transformers_works():
    tokenizer: Wav2Vec2CTCTokenizer = build_char_tokenizer(["ab"])
    make = PlainTargets(tokenizer, start_id=99, end_id=98)
    assert make.length({}, "ab") == 3 == len(make({"id": ""}, "ab").decoder_input_ids)
