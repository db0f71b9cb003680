"""The bundled datasets open as those of the Hub do and keep what their cards promise; the codec is a stock model."""

import io
import re

import numpy as np
import pytest
import soundfile as sf
import torch
from datasets import Audio, Dataset, DatasetDict, load_dataset
from transformers import EncodecModel, pipeline

from hfaudio.audio.io import load_audio
from hfaudio.data.bundled import path
from hfaudio.data.datasets import DataArguments, load_split
from hfaudio.text.prompts import INSTRUMENTS

SPLITS = ["train", "validation", "test"]


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> DatasetDict:
    return load_dataset(str(path("speech")), cache_dir=str(tmp_path_factory.mktemp("cache")))


def column(dataset: Dataset, name: str) -> list:
    return list(dataset[name])


def test_unknown_name_is_refused_with_the_names_that_exist() -> None:
    with pytest.raises(ValueError, match=r"'nothing'.*speech"):
        path("nothing")
    with pytest.raises(ValueError, match=r"'\.\.'"):
        path("..")


def test_opens_with_its_splits_and_undecoded_audio(speech: DatasetDict) -> None:
    assert list(speech) == SPLITS
    assert sum(speech.num_rows.values()) >= 1500
    assert speech["train"].features["audio"] == Audio(sampling_rate=16_000, decode=False)
    assert set(speech["train"][0]["audio"]) == {"bytes", "path"}


def test_streams_from_several_shards_the_rows_of_the_table(speech: DatasetDict) -> None:
    stream = load_dataset(str(path("speech")), streaming=True)
    assert list(stream) == SPLITS
    assert stream["train"].num_shards >= 6
    streamed = stream["test"].cast_column("audio", Audio(decode=False))
    assert [row["audio"]["bytes"] for row in streamed] == [audio["bytes"] for audio in speech["test"]["audio"]]


def test_no_speaker_and_no_prompt_is_in_two_splits(speech: DatasetDict) -> None:
    owner = {
        (engine, voice): speaker
        for split in SPLITS
        for engine, voice, speaker in zip(
            *(column(speech[split], c) for c in ("engine", "voice", "speaker")), strict=True
        )
    }
    assert owner["flite", "slt"] == owner["festival", "cmu_us_slt_arctic_hts"]
    assert owner["flite", "kal16"] == owner["flite", "kal"] == owner["festival", "kal_diphone"]
    for key in ("speaker", "text", "id"):
        values = [set(speech[split][key]) for split in SPLITS]
        assert len(set.union(*values)) == sum(map(len, values)), key
    assert {"awb", "kal"} <= set(speech["train"]["speaker"])
    assert "ked" in set(speech["validation"]["speaker"])
    assert {"rms", "slt"} <= set(speech["test"]["speaker"])


def test_held_out_voices_have_equal_shares(speech: DatasetDict) -> None:
    for split in ("validation", "test"):
        voices = column(speech[split], "voice")
        assert len({voices.count(voice) for voice in voices}) == 1


def test_every_prompt_is_spoken_once_in_a_small_alphabet(speech: DatasetDict) -> None:
    texts = [text for split in SPLITS for text in speech[split]["text"]]
    assert len(set(texts)) == len(texts)
    assert all(re.fullmatch(r"[a-z']+( [a-z']+)*", text) for text in texts)
    words = {split: {word for text in speech[split]["text"] for word in text.split()} for split in SPLITS}
    assert words["test"] | words["validation"] <= words["train"]


def test_seconds_are_the_decoded_duration_of_mono_16_khz_audio(speech: DatasetDict) -> None:
    for split in SPLITS:
        for row in speech[split].select(range(0, speech[split].num_rows, 20)):
            wave, rate = sf.read(io.BytesIO(row["audio"]["bytes"]), dtype="float32")
            assert (rate, wave.ndim) == (16_000, 1)
            assert len(wave) / rate == pytest.approx(row["seconds"], abs=1e-4)
            assert 0.01 < abs(wave).max() < 1.2  # Opus may overshoot full scale


def test_a_wheel_can_carry_it_and_the_card_tells_its_size(speech: DatasetDict) -> None:
    files = [file for file in path("speech").rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= 15e6
    card = (path("speech") / "README.md").read_text(encoding="utf-8")
    for split in SPLITS:
        assert f"| {split} | {speech[split].num_rows} |" in card
    assert "**synthetic** voices" in card


@pytest.fixture(scope="module")
def music() -> dict[str, Dataset]:
    arguments = DataArguments(
        dataset="bundled_music", fact_columns=["instrument", "key", "tempo", "tune", "unseen_pair"]
    )
    return {split: load_split(arguments, split) for split in SPLITS}


def test_music_has_facts_captions_and_splits_by_tune(music: dict[str, Dataset]) -> None:
    assert [len(music[split]) for split in SPLITS] == [330, 30, 40]
    tunes = [set(column(music[split], "tune")) for split in SPLITS]
    assert not (tunes[0] & tunes[1] or tunes[0] & tunes[2] or tunes[1] & tunes[2])
    assert set(column(music["train"], "instrument")) == set(INSTRUMENTS)
    assert not any(column(music["train"], "unseen_pair")) and any(column(music["test"], "unseen_pair"))
    row = music["test"][0]
    samples = load_audio(row["audio"])
    assert len(samples) == pytest.approx(5.12 * 16_000, abs=1000)
    assert 0.01 < np.abs(samples).max() < 1


def test_pairs_that_are_unseen_are_in_the_test_split_only(music: dict[str, Dataset]) -> None:
    def pairs(split: str) -> set[tuple[str, str]]:
        return set(zip(column(music[split], "instrument"), column(music[split], "key"), strict=True))

    rows = zip(*(column(music["test"], name) for name in ("instrument", "key", "unseen_pair")), strict=True)
    unseen = {(instrument, key) for instrument, key, is_unseen in rows if is_unseen}
    assert unseen and not unseen & (pairs("train") | pairs("validation"))


def test_the_codec_is_a_stock_model_that_keeps_notes() -> None:
    """A tone comes back with its pitch, in a folder of at most 8 MB, at no more than 2 kbit/s."""
    folder = path("codec")
    assert sum(file.stat().st_size for file in folder.iterdir()) <= 8_000_000
    codec = EncodecModel.from_pretrained(folder).eval()
    assert codec.config.architectures == ["EncodecModel"] and max(codec.config.target_bandwidths) <= 2
    time = torch.arange(2 * 16_000) / 16_000
    partials = sum(torch.sin(2 * torch.pi * 440 * k * time) / k for k in range(1, 6))
    with torch.no_grad():
        encoded = codec.encode(0.1 * partials[None, None], bandwidth=1.8)
        audio = codec.decode(encoded.audio_codes, [None]).audio_values[0, 0]
    spectrum = torch.fft.rfft(audio[8000:24_000] * torch.hann_window(16_000)).abs()  # 1 Hz between lines
    loudest = 200 + int(spectrum[200:1000].argmax())
    assert min(abs(1200 * np.log2(loudest / pitch)) for pitch in (440, 880)) < 50  # cents
    assert all(len(book.unique()) > 1 for book in encoded.audio_codes[0, 0])


def test_the_generator_is_a_stock_folder_of_16_mb_that_hears_its_prompt() -> None:
    folder = path("musicgen")
    assert sum(file.stat().st_size for file in folder.rglob("*")) < 16e6
    play = pipeline("text-to-audio", model=str(folder))
    made = play("slow flute tune in d minor", generate_kwargs={"max_new_tokens": 28})
    assert made["sampling_rate"] == 16_000
    assert made["audio"].shape[-1] == 25 * 640  # a second
    assert 0.005 < np.sqrt(np.mean(made["audio"] ** 2)) < 0.5
    text = play.tokenizer(["flute"] * 2 + ["slow kazoo"], padding=True, return_tensors="pt")
    assert play.tokenizer.unk_token_id in text["input_ids"][2]
    assert play.tokenizer.unk_token_id not in text["input_ids"][0]
