"""Whisper's segments, chosen by the test: a model that writes given tokens in each window."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from transformers import (
    AutoModelForSpeechSeq2Seq,
    AutoProcessor,
    GenerationConfig,
    MoonshineConfig,
    MoonshineForConditionalGeneration,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Processor,
)

from hfaudio.audio.io import AudioError
from hfaudio.inference import long_form
from hfaudio.inference.long_form import LongFormRecognizer, LongFormSettings, TimedText, moved, regions
from hfaudio.inference.transcribe import Transcriber
from hfaudio.processing import build_char_tokenizer

RATE = 16_000
END = 266  # of the tokenizer of small_whisper: 266 entries, end, 8 control tokens, times
FIRST_TIME = 275


@pytest.fixture(scope="module")
def opened(small_whisper: Path):
    return AutoModelForSpeechSeq2Seq.from_pretrained(small_whisper), AutoProcessor.from_pretrained(small_whisper)


def recognizer(opened, **settings) -> LongFormRecognizer:
    return LongFormRecognizer(*opened, LongFormSettings(**settings), progress=False)


@pytest.fixture(scope="module")
def talk(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("talk") / "talk.flac"
    soundfile.write(file, 0.05 * np.random.default_rng(0).standard_normal(75 * RATE), RATE)
    return file


def time_id(seconds: float) -> int:
    return FIRST_TIME + round(seconds / 0.02)


def text_ids(opened, text: str) -> list[int]:
    return opened[1].tokenizer(" " + text, add_special_tokens=False).input_ids


def test_time_tokens_split_a_window(opened):
    assert opened[0].generation_config.no_timestamps_token_id + 1 == FIRST_TIME
    ids = [time_id(0), *text_ids(opened, "abc"), time_id(1.5), time_id(2), *text_ids(opened, "de"), time_id(3.5)]
    found = recognizer(opened)._split(ids, seconds=3.0)
    assert found == [TimedText("abc", 0.0, 1.5), TimedText("de", 2.0, 3.0)]  # no longer than the window


def test_an_unfinished_segment_ends_with_the_window_and_is_not_lost(opened):
    ids = [time_id(0), *text_ids(opened, "abc"), time_id(1.5), time_id(1.5), *text_ids(opened, "de")]
    assert recognizer(opened)._split(ids, seconds=3.0)[-1] == TimedText("de", 1.5, 3.0)


@pytest.mark.parametrize(
    ("tail", "stopped"),
    [([time_id(4), time_id(4)], 4.0), ([time_id(4)], 0.0), ([time_id(4), time_id(4), END], 4.0), ([5], 0.0)],
)
def test_two_time_tokens_at_the_end_say_that_more_is_to_come(opened, tail, stopped):
    assert recognizer(opened)._stopped([time_id(0), 3, *tail]) == stopped


def test_chunks_go_on_where_the_model_stopped(opened, monkeypatch):
    first = [time_id(0), *text_ids(opened, "abc"), time_id(10), time_id(10)]
    second = [time_id(0), *text_ids(opened, "de"), time_id(4)]
    rest = [time_id(0), *text_ids(opened, "cab"), time_id(6)]
    written = iter([first, second, rest])
    monkeypatch.setattr(
        long_form, "decode_windows", lambda model, features, **options: [next(written) for _ in features]
    )
    long = recognizer(opened, way="chunked")
    found = long._chunked(np.zeros(50 * RATE, "f4"), [(0, 28 * RATE), (28 * RATE, 50 * RATE)])
    assert found == [TimedText("abc", 0, 10), TimedText("cab", 10, 16), TimedText("de", 28, 32)]


@pytest.mark.parametrize("way", ["sequential", "chunked"])
def test_segments_are_in_order_and_within_the_recording(opened, talk, way):
    found, seconds = recognizer(opened, way=way, temperatures=(0.0,))(talk)
    assert seconds == 75
    assert found
    starts = [text.start for text in found]
    assert starts == sorted(starts)
    assert all(0 <= text.start <= text.end <= 75 for text in found)


def test_pieces_join_where_a_segment_ended(opened, monkeypatch):
    monkeypatch.setattr(long_form, "PIECE_SECONDS", 60.0)
    long = recognizer(opened)
    seen = []

    def sequential(samples):
        seen.append(len(samples) / RATE)
        ends = np.arange(7.0, len(samples) / RATE + 0.1, 7.0)
        return [TimedText(f"{end:g}", end - 7, end) for end in ends]

    monkeypatch.setattr(long, "_sequential", sequential)
    found, seconds = long(np_file(np.zeros(150 * RATE, "f4")))
    assert seconds == 150
    # A piece of 60 s keeps what ends by 30 s: 28 s; the next begins there.
    assert seen[:3] == [60, 62, 64] or seen[0] == 60
    assert [text.end for text in found] == [7.0 * n for n in range(1, len(found) + 1)]
    assert found[-1].end > 140


def np_file(samples: np.ndarray):
    import io

    file = io.BytesIO()
    soundfile.write(file, samples, RATE, format="FLAC")
    return {"bytes": file.getvalue(), "path": "x.flac"}


def test_sampling_at_a_temperature_is_repeatable_and_leaves_other_random_numbers_alone(opened, talk):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    texts = [recognizer(opened, temperatures=(1.0,), seed=seed)(talk)[0] for seed in (1, 1, 2)]
    assert torch.equal(torch.rand(1), expected)
    assert [text.text for text in texts[0]] == [text.text for text in texts[1]] != [text.text for text in texts[2]]


def test_regions_of_speech_and_moved_times():
    assert regions([(0, 10), (12, 20), (25, 40)], gap=5) == [(0, 20), (25, 40)]
    assert regions([], gap=5) == []
    assert moved(TimedText("a", 1.0, 2.0), 3.0) == TimedText("a", 4.0, 5.0)


def test_with_vad_each_region_is_read_on_its_own(opened, monkeypatch):
    spans = [(5 * RATE, 10 * RATE), (11 * RATE, 12 * RATE), (40 * RATE, 45 * RATE)]
    monkeypatch.setattr(long_form, "speech_spans", lambda samples: spans)
    monkeypatch.setattr(long_form, "check_installed", lambda: None)
    long, seen = recognizer(opened, vad=True), []

    def sequential(samples):
        seen.append(len(samples) / RATE)
        return [TimedText("x", 0.5, 1.0)]

    monkeypatch.setattr(long, "_sequential", sequential)
    found, _ = long(np_file(np.zeros(60 * RATE, "f4")))
    assert seen == [7.0, 5.0]
    assert [text.start for text in found] == [5.5, 40.5]


@pytest.mark.parametrize("way", ["sequential", "chunked"])
def test_a_piece_that_is_nearly_silent_does_not_stop_the_reading(opened, monkeypatch, way):
    monkeypatch.setattr(long_form, "PIECE_SECONDS", 60.0)
    monkeypatch.setattr(long_form, "check_installed", lambda: None)
    monkeypatch.setattr(
        long_form, "speech_spans", lambda samples: [(5 * RATE, 10 * RATE)] if len(samples) > 50 * RATE else []
    )
    long = recognizer(opened, way=way, vad=True, temperatures=(0.0,), word_times=False)
    _found, seconds = long(np_file(0.01 * np.ones(130 * RATE, "f4")))
    assert seconds == 130


def test_a_segment_over_the_border_of_a_piece_is_read_again_from_its_start(opened, monkeypatch):
    monkeypatch.setattr(long_form, "PIECE_SECONDS", 60.0)
    long, starts = recognizer(opened), []
    pieces = iter([[TimedText("early", 0.0, 5.0), TimedText("over", 28.0, 36.0)], [TimedText("over", 0.0, 8.0)], []])
    monkeypatch.setattr(long, "_sequential", lambda samples: starts.append(len(samples) / RATE) or next(pieces))
    found, _ = long(np_file(np.zeros(80 * RATE, "f4")))
    assert starts == [60, 52]  # from 28 s on
    assert found == [TimedText("early", 0.0, 5.0), TimedText("over", 28.0, 36.0)]


def test_where_vad_hears_nothing_nothing_is_said(small_whisper):
    pytest.importorskip("silero_vad")
    silence = np_file(np.zeros(4 * RATE, "f4"))
    for way in ("sequential", "chunked"):
        transcriber = Transcriber(small_whisper, long_form=LongFormSettings(way=way, vad=True), progress=False)
        transcript = transcriber(silence)
        assert (transcript.text, transcript.segments, transcript.seconds) == ("", (), 4.0)


def moonshine():
    tokenizer = build_char_tokenizer(["abcde"])
    torch.manual_seed(0)
    config = MoonshineConfig(
        vocab_size=8, hidden_size=16, intermediate_size=16, encoder_num_hidden_layers=1, decoder_num_hidden_layers=1,
        encoder_num_attention_heads=2, decoder_num_attention_heads=2, max_position_embeddings=12,
    )  # fmt: skip
    model = MoonshineForConditionalGeneration(config)
    model.generation_config = GenerationConfig(
        decoder_start_token_id=1, eos_token_id=2, pad_token_id=0, max_length=12, suppress_tokens=[0, 1, 2]
    )
    return model, Wav2Vec2Processor(Wav2Vec2FeatureExtractor(), tokenizer)


def test_other_models_are_read_in_windows(talk):
    found, seconds = LongFormRecognizer(*moonshine(), LongFormSettings(), progress=False)(talk)
    assert seconds == 75
    assert 1 <= len(found) <= 4
    assert all(text.words == () and text.text for text in found)
    with pytest.raises(ValueError, match="follows Whisper's timestamps, a moonshine has none; take 'chunked'"):
        LongFormRecognizer(*moonshine(), LongFormSettings(way="sequential"), progress=False)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"way": "parallel"}, "one of sequential, chunked; got 'parallel'"),
        ({"temperatures": ()}, "at least 0 and rise"),
        ({"temperatures": (0.4, 0.2)}, "at least 0 and rise"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"way": "chunked", "condition_on_previous_text": True}, "is for long_form='sequential'"),
    ],
)
def test_settings_that_make_no_sense(settings, message):
    with pytest.raises(ValueError, match=message):
        LongFormSettings(**settings)


def test_a_language_for_a_model_of_one(opened):
    with pytest.raises(ValueError, match=r"language 'hindi': .* knows one language; leave it out"):
        recognizer(opened, language="hindi")


@pytest.mark.parametrize("seconds", [0.05, 0.1, 1.0, 29.99, 30.0, 30.01])
def test_recordings_of_all_lengths(opened, seconds):
    samples = 0.1 * np.random.default_rng(0).standard_normal(round(seconds * RATE)).astype("f4")
    for way in ("sequential", "chunked"):
        found, length = recognizer(opened, way=way, temperatures=(0.0,), word_times=False)(np_file(samples))
        assert length == len(samples) / RATE
        assert all(text.end <= length + 1e-6 for text in found)
    with pytest.raises(AudioError):
        recognizer(opened)({"bytes": b"", "path": "empty.wav"})


def test_words_lie_within_their_segments(small_whisper: Path, talk):
    model, processor = (
        AutoModelForSpeechSeq2Seq.from_pretrained(small_whisper),
        AutoProcessor.from_pretrained(small_whisper),
    )
    model.generation_config.alignment_heads = [[0, 0]]
    long = LongFormRecognizer(model, processor, LongFormSettings(temperatures=(0.0,)), progress=False)
    found, _ = long(talk)
    assert any(text.words for text in found)
    for text in found:
        assert " ".join(word.text for word in text.words).split() == text.text.split()
        assert all(word.start <= word.end <= text.end + 1e-6 for word in text.words)
    plain = LongFormRecognizer(model, processor, replace(long.settings, word_times=False), progress=False)
    assert all(text.words == () for text in plain(talk)[0])
