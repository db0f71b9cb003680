"""Captions as programs get them, and what is kept of recordings."""

from pathlib import Path
from typing import Any, ClassVar

import gradio as gr
import numpy as np
import pytest
import soundfile
import webvtt
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError

from hfaudio.audio.io import load_audio
from hfaudio.data.datasets import DataArguments, load_split
from hfaudio.demo.captions import split_hotwords, transcribe
from hfaudio.demo.settings import DemoSettings, Limits, Opened, take_recording
from hfaudio.inference.transcribe import Transcript


@pytest.fixture(scope="module")
def client(address: str, tmp_path_factory: pytest.TempPathFactory) -> Client:
    return Client(address, verbose=False, download_files=str(tmp_path_factory.mktemp("downloads")))


def test_a_program_gets_words_with_times_and_subtitles(client: Client, spoken: Path) -> None:
    transcript, srt, vtt = client.predict(file=handle_file(spoken), api_name="/captions")
    assert "play me a steady march in four four time on the organ" in transcript["text"]
    words = transcript["words"]
    assert [word["text"] for word in words] == transcript["text"].split()
    assert all(0 <= word["start"] <= word["end"] <= transcript["seconds"] for word in words)
    assert Path(srt).name == "spoken.srt"
    told = " ".join(caption.text for caption in webvtt.read(vtt)).replace("\n", " ")
    assert told == transcript["text"]
    assert [c.text for c in webvtt.from_srt(srt)] == [c.text for c in webvtt.read(vtt)]


def test_without_the_language_model_it_reads_otherwise(client: Client, tmp_path: Path) -> None:
    row = load_split(DataArguments(), "test")[2]
    soundfile.write(tmp_path / "clip.wav", load_audio(row["audio"]), 16_000)
    texts = [
        client.predict(file=handle_file(tmp_path / "clip.wav"), language_model=lm, api_name="/captions")[0]["text"]
        for lm in (True, False)
    ]
    assert texts[0] == row["text"] != texts[1]


def test_choices_reach_the_decoder() -> None:
    class Recogniser:
        has_language_model = True
        chosen: ClassVar[list[dict[str, Any]]] = []

        def with_decoding(self, **options: Any) -> "Recogniser":
            self.chosen.append(options)
            return self

        def __call__(self, source: Any) -> Transcript:
            return Transcript("", (), 1.0)

    model: Any = Opened(Recogniser)
    transcribe(model, b"", gr.Progress(), True, "e flat, b minor", 20.0)
    transcribe(model, b"", gr.Progress(), False, "e flat", 20.0)
    assert Recogniser.chosen == [
        {"language_model": True, "hotwords": ["e flat", "b minor"], "beam_width": 20},
        {"language_model": False},
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"no sound", "cannot be read"), (b"", "no bytes"), (None, "2 are allowed")],
)
def test_what_cannot_be_captioned_is_told_without_a_path(
    client: Client, tmp_path: Path, content: bytes | None, message: str
) -> None:
    path = tmp_path / "clip.wav"
    if content is None:
        soundfile.write(path, np.zeros(16_000 * 130, np.float32), 16_000)
    else:
        path.write_bytes(content)
    with pytest.raises(AppError, match=message) as told:
        client.predict(file=handle_file(path), api_name="/captions")
    assert "/" not in str(told.value) and "Traceback" not in str(told.value)


def test_a_path_on_the_server_is_not_opened(client: Client, spoken: Path) -> None:
    """A client that names a file instead of sending it gets nothing."""
    with pytest.raises(AppError):
        client.predict(file={"path": str(Path(__file__)), "meta": {"_type": "gradio.FileData"}}, api_name="/captions")


def test_only_documented_endpoints_are_there(client: Client) -> None:
    named = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert set(named) == {"/captions", "/generate_music", "/continue_music", "/speak_music"}
    assert all(endpoint["description"] for endpoint in named.values())


def test_a_recording_of_the_microphone_leaves_no_file(tmp_path: Path) -> None:
    for name, content in (("good.wav", None), ("bad.wav", b"no sound")):
        path = tmp_path / name
        if content is None:
            soundfile.write(path, np.full(4_800, 0.1, np.float32), 48_000)
            assert take_recording(path, Limits()).shape == (1_600,)
        else:
            path.write_bytes(content)
            with pytest.raises(gr.Error, match="cannot be read"):
                take_recording(path, Limits())
        assert not path.exists()


def test_a_model_is_opened_once_for_all() -> None:
    calls: list[int] = []
    model: Opened[int] = Opened(lambda: calls.append(1) or len(calls))  # type: ignore[func-returns-value]
    assert not model.is_open
    assert [model(), model()] == [1, 1] and model.is_open


def test_hotwords_are_parted_by_commas_and_lines() -> None:
    assert split_hotwords(" e flat,, b minor\norgan ") == ["e flat", "b minor", "organ"]
    with pytest.raises(gr.Error, match="101 hotwords"):
        split_hotwords(",".join("abc" for _ in range(101)))


def test_settings_that_make_no_sense_are_told() -> None:
    with pytest.raises(ValueError, match="no model"):
        DemoSettings(asr=None, music=None)
    with pytest.raises(ValueError, match="adapters"):
        DemoSettings(music=None, adapters={"folk": "x"})
    with pytest.raises(ValueError, match="file_mb must be above 0"):
        Limits(file_mb=0)
