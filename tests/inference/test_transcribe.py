from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from transformers import AutoFeatureExtractor, AutoModelForCTC, pipeline

from hfaudio.audio.io import AudioError, load_audio
from hfaudio.data import bundled
from hfaudio.data.datasets import DataArguments, load_split
from hfaudio.decoding.greedy import GreedyPath, greedy_search
from hfaudio.inference import Transcriber, transcribe
from hfaudio.inference.transcribe import Chunk, chunked, in_batches, path_words
from hfaudio.metrics import word_error_rate

RATE = 16_000


def row(samples: np.ndarray) -> dict:
    return {"array": samples, "sampling_rate": RATE}


def quiet(folder: Path, **options: float) -> Transcriber:
    return Transcriber(folder, device="cpu", progress=False, **options)


@pytest.mark.parametrize("name", ["lstm", "wav2vec2"])
@pytest.mark.parametrize("extra_samples", [0, 1, 319, 640, 2 * RATE])
def test_stitched_log_probs_equal_those_of_one_pass(
    short_sighted_folders: dict[str, Path], noise: np.ndarray, name: str, extra_samples: int
) -> None:
    samples = row(np.concatenate([noise, noise[:extra_samples]]))
    whole = quiet(short_sighted_folders[name]).log_probs(samples)
    stitched = quiet(short_sighted_folders[name], chunk_seconds=2, stride_seconds=0.4, batch_size=3).log_probs(samples)
    assert stitched.dtype == np.float32
    np.testing.assert_allclose(stitched, whole, atol=1e-4)
    # A shift by one frame would show.
    assert np.median(np.abs(np.diff(whole, axis=0)).max(1)) > 0.01


def test_with_a_wider_context_chunks_differ_only_a_little(lstm_folder: Path, noise: np.ndarray) -> None:
    whole = quiet(lstm_folder).log_probs(row(noise))
    stitched = quiet(lstm_folder, chunk_seconds=4, stride_seconds=1).log_probs(row(noise))
    assert stitched.shape == whole.shape
    assert 1e-4 < np.abs(stitched - whole).max()  # features are normalised over the chunk
    assert (stitched.argmax(1) == whole.argmax(1)).mean() > 0.8


def test_a_clip_shorter_than_a_chunk_is_one_plain_forward_pass(lstm_folder: Path, noise: np.ndarray) -> None:
    model, extractor = AutoModelForCTC.from_pretrained(lstm_folder), AutoFeatureExtractor.from_pretrained(lstm_folder)
    with torch.no_grad():
        direct = model.eval()(**extractor(noise, RATE, return_tensors="pt")).logits[0].log_softmax(-1)
    np.testing.assert_array_equal(quiet(lstm_folder).log_probs(row(noise)), direct.numpy())


def test_the_batch_size_changes_nothing(lstm_folder: Path, noise: np.ndarray) -> None:
    alone, batched = (
        quiet(lstm_folder, chunk_seconds=1, stride_seconds=0.2, batch_size=n).log_probs(row(noise)) for n in (1, 5)
    )
    np.testing.assert_allclose(alone, batched, atol=1e-4)


def test_text_and_times_are_those_of_the_stock_pipeline(lstm_folder: Path, noise: np.ndarray) -> None:
    stock = pipeline("automatic-speech-recognition", model=str(lstm_folder), device="cpu")
    expected = stock({"raw": noise, "sampling_rate": RATE}, return_timestamps="word")
    found = quiet(lstm_folder)(row(noise))
    assert found.text.replace("\ufffd", "<unk>") == " ".join(expected["text"].split())
    assert len(found.words) > 3
    for word, chunk in zip(found.words, expected["chunks"], strict=True):
        start, end = chunk["timestamp"]
        assert (word.start, word.end) == pytest.approx((start, min(end, 7.3)), abs=1e-9)
        assert 0 < word.confidence <= 1


def test_the_same_words_piece_by_piece_as_at_once(lstm_folder: Path, noise: np.ndarray) -> None:
    transcriber = quiet(lstm_folder, chunk_seconds=2, stride_seconds=0.5)
    pieces = list(transcriber.log_prob_pieces(row(noise)))
    assert len(pieces) == 7
    assert max(len(piece) for piece, _ in pieces) < 50  # frames; a whole chunk has 50
    assert [end for _, end in pieces] == pytest.approx([1.52, 2.56, 3.6, 4.64, 5.68, 6.72, 7.3], abs=0.1)
    path = greedy_search(transcriber.log_probs(row(noise)), blank_id=0)
    labels = ["", "\ufffd", " ", *"adgnos"]
    expected = path_words(path, labels, frame_seconds=0.04, seconds=7.3)
    found = transcriber(row(noise)).words
    assert [(w.text, w.start, w.end) for w in found] == [(w.text, w.start, w.end) for w in expected]
    assert [w.confidence for w in found] == pytest.approx([w.confidence for w in expected], abs=1e-5)


def test_frames_of_models_whose_config_does_not_tell_them(other_folders: dict[str, Path], noise: np.ndarray) -> None:
    """Samples per frame are measured: Parakeet's config has none, and w2v-BERT's extractor marks half a frame as
    padding when the number of its 10 ms frames is odd."""
    parakeet = quiet(other_folders["parakeet"], chunk_seconds=2, stride_seconds=0.5)
    ends = [(0, 0.0)]
    for piece, seconds in parakeet.log_prob_pieces(row(noise)):
        ends.append((ends[-1][0] + len(piece), seconds))
    assert all(seconds == pytest.approx(frames * 0.08) for frames, seconds in ends[:-1])
    assert len(ends) == 8
    assert len(parakeet.log_probs(row(noise[:102_400]))) == 102_400 // 1280 + 1
    for ten_ms_frames, frames in ((98, 49), (99, 49), (100, 50)):
        samples = noise[: 400 + 160 * (ten_ms_frames - 1)]
        assert len(quiet(other_folders["w2v-bert"]).log_probs(row(samples))) == frames


def test_a_progress_bar_where_the_work_takes_long(
    lstm_folder: Path, noise: np.ndarray, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for progress, delay, shown in ((True, 0.0, True), (True, 60.0, False), (False, 0.0, False)):
        monkeypatch.setattr("hfaudio.inference.long_form.BAR_DELAY", delay)
        transcriber = Transcriber(lstm_folder, device="cpu", chunk_seconds=1, stride_seconds=0.2, progress=progress)
        capsys.readouterr()
        transcriber(row(noise))
        assert ("transcribing:" in capsys.readouterr().err) == shown


def test_what_can_be_a_recording(lstm_folder: Path, noise: np.ndarray, tmp_path: Path) -> None:
    file = tmp_path / "noise.flac"
    soundfile.write(file, noise, RATE)
    transcriber = quiet(lstm_folder)
    found = transcriber(file)
    assert found.seconds == pytest.approx(7.3)
    assert transcriber(file.read_bytes()) == transcriber({"bytes": file.read_bytes(), "path": None}) == found
    assert transcribe(lstm_folder, str(file), progress=False) == transcribe(transcriber, file) == found
    with pytest.raises(ValueError, match="batch_size must be given where the Transcriber is made"):
        transcribe(transcriber, file, batch_size=2)


@pytest.mark.parametrize("num_samples", [1, 100, 399, 400, 1601])
def test_very_short_clips(short_sighted_folders: dict[str, Path], noise: np.ndarray, num_samples: int) -> None:
    for folder in short_sighted_folders.values():
        found = quiet(folder)(row(noise[:num_samples]))
        assert found.seconds == num_samples / RATE
        assert all(0 <= word.start <= word.end <= found.seconds for word in found.words)


def test_unusable_recordings(lstm_folder: Path, tmp_path: Path) -> None:
    transcriber = quiet(lstm_folder)
    text = tmp_path / "text.wav"
    text.write_text("no sound")
    for source, reason in ((text, "corrupt"), (tmp_path / "nothing.wav", "missing"), (b"", "empty")):
        with pytest.raises(AudioError) as caught:
            transcriber(source)
        assert caught.value.reason == reason


def test_whisper_gives_words_with_times_but_no_log_probs(whisper_folder: Path, noise: np.ndarray) -> None:
    transcriber = quiet(whisper_folder)
    found = transcriber(row(noise[: 2 * RATE]))
    assert set(found.text.split()) <= {"a", "dog", "sang", "song"}
    assert found.text
    assert found.seconds == 2
    assert found.words
    assert all(0 <= word.start <= word.end <= 2 and np.isnan(word.confidence) for word in found.words)
    with pytest.raises(ValueError, match="not a CTC model"):
        transcriber.log_probs(row(noise))


def test_wrong_options_say_what_to_do(lstm_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"chunk_seconds more than twice that, got 3 and 5"):
        quiet(lstm_folder, chunk_seconds=5, stride_seconds=3)
    with pytest.raises(ValueError, match=r"stride_seconds must be at least 0.04 \(a frame"):
        quiet(lstm_folder, stride_seconds=0)
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        quiet(lstm_folder, batch_size=0)
    with pytest.raises(ValueError, match="no device 'abacus' here; choose from"):
        Transcriber(lstm_folder, device="abacus")
    with pytest.raises(ValueError, match="is no model folder: it has no config"):
        quiet(tmp_path)
    with pytest.raises(ValueError, match="there is no folder '/no/such/place'"):
        quiet(Path("/no/such/place"))


@pytest.mark.parametrize("num_samples", [*range(1, 40), 100])
def test_chunks_cover_a_recording_once(num_samples: int) -> None:
    size, margin = 10, 2
    recording = np.arange(num_samples)
    blocks = [part for part in np.array_split(recording, 3) if len(part)]
    chunks = list(chunked(blocks, size=size, step=size - 2 * margin))
    kept = [chunk.samples[margin if chunk.start else 0 : None if chunk.is_last else size - margin] for chunk in chunks]
    assert np.concatenate(kept).tolist() == recording.tolist()
    assert [chunk.is_last for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert all(len(chunk.samples) == size for chunk in chunks[:-1])
    assert all(len(part) for part in kept)
    assert len(chunks) == 1 or len(chunks[-1].samples) > 2 * margin
    assert (len(chunks) == 1) == (num_samples <= size)
    assert all(chunk.samples[0] == chunk.start for chunk in chunks)


def test_batches_hold_chunks_of_one_length() -> None:
    chunks = [Chunk(np.zeros(n), 0, is_last=False) for n in (10, 10, 10, 10, 10, 7)]
    assert [[len(chunk.samples) for chunk in batch] for batch in in_batches(chunks, 3)] == [[10] * 3, [10] * 2, [7]]
    assert [len(batch) for batch in in_batches(chunks[:4], 2)] == [2, 2]


def path(tokens: list[int]) -> GreedyPath:
    frames = 2 * np.arange(len(tokens))
    return GreedyPath(np.array(tokens), frames, frames + 1, np.full(len(tokens), 0.5))


def test_words_of_characters_and_of_pieces() -> None:
    words = path_words(path([2, 0, 1, 1, 3, 2]), ["a", "b", " ", ""], frame_seconds=0.5, seconds=60)
    assert [(word.text, word.start, word.end) for word in words] == [("abb", 1.0, 3.5)]
    words = path_words(path([0, 1, 0, 2]), [" the", "n", " a"], frame_seconds=0.5, seconds=60)
    assert [(word.text, word.start, word.end) for word in words] == [("then", 0, 1.5), ("the", 2, 2.5), ("a", 3, 3.5)]
    assert [word.confidence for word in words] == pytest.approx([0.5] * 3)
    assert path_words(path([]), ["a"], frame_seconds=0.5, seconds=60) == ()


def test_no_word_ends_after_the_recording() -> None:
    words = path_words(path([0, 1, 0]), ["a", " "], frame_seconds=0.5, seconds=1.9)
    assert [(word.start, word.end) for word in words] == [(0, 0.5), (1.9, 1.9)]


def test_the_language_model_is_used_over_the_chunks_of_a_long_recording(lm_folder: Path, noise: np.ndarray) -> None:
    whole = pipeline("automatic-speech-recognition", model=str(lm_folder))(noise)["text"]
    chunked_transcript = quiet(lm_folder, chunk_seconds=2, stride_seconds=0.4)(row(noise))
    assert chunked_transcript.text == whole != ""
    times = [time for word in chunked_transcript.words for time in (word.start, word.end)]
    assert times == sorted(times) and 0 < times[-1] <= chunked_transcript.seconds == pytest.approx(7.3)
    greedy = quiet(lm_folder, language_model=False)(row(noise))
    assert greedy.text != whole


def test_hotwords_of_a_transcriber(lm_folder: Path, lstm_folder: Path, noise: np.ndarray) -> None:
    plain = quiet(lm_folder)(row(noise)).text
    heard = max(plain.split(), key=len)
    assert heard not in quiet(lm_folder, hotwords={heard: -30.0})(row(noise)).text.split()
    with pytest.raises(ValueError, match="hotwords need a model with a language_model/"):
        quiet(lstm_folder, hotwords=["sang"])
    with pytest.raises(ValueError, match="hotwords need"):
        quiet(lm_folder, hotwords=["sang"], language_model=False)


def test_a_recording_is_cut_at_its_pauses() -> None:
    """Prompts behind each other: in chunks their LM takes several for one sentence."""
    rows = load_split(DataArguments(), "test")
    chosen = [rows[7 * number] for number in range(8)]
    silence = np.zeros(8_000, np.float32)
    samples = np.concatenate([part for row in chosen for part in (load_audio(row["audio"]), silence)])
    source, text = {"array": samples, "sampling_rate": 16_000}, " ".join(row["text"] for row in chosen)
    options: dict[str, Any] = {"device": "cpu", "progress": False}
    at_pauses = Transcriber(bundled.path("asr"), pause_seconds=0.5, **options)(source)
    in_chunks = Transcriber(bundled.path("asr"), **options)(source)
    rates = [word_error_rate([text], [found.text]).value for found in (at_pauses, in_chunks)]
    assert rates[0] < 0.05 < rates[1]
    assert at_pauses.seconds == in_chunks.seconds
    ends = np.cumsum([len(load_audio(row["audio"])) + len(silence) for row in chosen]) / 16_000
    last_words = np.cumsum([len(row["text"].split()) for row in chosen]) - 1
    assert all(at_pauses.words[word].end <= end for word, end in zip(last_words[:3], ends, strict=False))


def test_another_way_of_decoding_shares_the_weights() -> None:
    transcriber = Transcriber(bundled.path("asr"), device="cpu", progress=False)
    greedy = transcriber.with_decoding(language_model=False)
    assert transcriber.has_language_model and not greedy.has_language_model
    assert greedy.recognizer.model is transcriber.recognizer.model
    narrow = transcriber.with_decoding(beam_width=1, hotwords={"abc": 5.0})
    assert narrow.recognizer.decoder.settings.beam_width == 1 and narrow.recognizer.hotwords == {"abc": 5.0}
    assert transcriber.recognizer.decoder.settings.beam_width > 1 and transcriber.recognizer.hotwords is None
    with pytest.raises(ValueError, match="need a model with a language_model/"):
        greedy.with_decoding(hotwords=["abc"])
