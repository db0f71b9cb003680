"""The bundled speech dataset: opens as a Hub dataset does, and keeps what its card promises."""

import io
import re

import pytest
import soundfile as sf
from datasets import Audio, Dataset, DatasetDict, load_dataset

from hfaudio.data.bundled import path

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
