"""The tab that captions files and recordings of the microphone."""

import json
import tempfile
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from hfaudio.audio.io import AudioError, Source, stream_audio
from hfaudio.demo import player
from hfaudio.demo.settings import (
    SPEECH_RATE,
    DemoSettings,
    Opened,
    check_recording,
    readable,
    take_recording,
    upload,
)
from hfaudio.inference.subtitles import Segment, segment_words, segments, to_json, to_srt, to_txt, to_vtt
from hfaudio.inference.transcribe import Transcriber, Transcript

EMPTY = '<p class="note">The captions appear here, with the recording to play along.</p>'
HOTWORD_LIMIT = 100
BEAM_WIDTH = 100


def split_hotwords(text: str) -> list[str]:
    """Phrases that are parted by commas or lines."""
    phrases = [phrase.strip() for phrase in text.replace("\n", ",").split(",")]
    phrases = [phrase for phrase in phrases if phrase]
    if len(phrases) > HOTWORD_LIMIT:
        raise gr.Error(f"{len(phrases)} hotwords were given, at most {HOTWORD_LIMIT} are allowed.")
    return phrases


def transcribe(
    model: Opened[Transcriber],
    source: Source,
    progress: gr.Progress,
    language_model: bool = True,
    hotwords: str = "",
    beam_width: float = BEAM_WIDTH,
) -> Transcript:
    """What is said in a recording that was checked; gradio.Error for what a user can mend."""
    if not model.is_open:
        progress(0, desc="Opening the speech model")
    recognizer = model()
    if recognizer.has_language_model:
        settings: dict[str, Any] = {}
        if language_model:
            settings = {"hotwords": split_hotwords(hotwords) or None, "beam_width": int(beam_width)}
        recognizer = recognizer.with_decoding(language_model=language_model, **settings)
    progress(0.1, desc="Listening")
    try:
        return recognizer(source)
    except AudioError as error:
        raise readable(error) from error


def subtitles_of(transcript: Transcript) -> list[Segment]:
    """Subtitles from words, or from segments of a model that does not place words in time."""
    return segments(transcript.words or segment_words(transcript))


def caption_texts(transcript: Transcript) -> dict[str, str]:
    """The captions as srt, vtt, txt and json."""
    subtitles = subtitles_of(transcript)
    return {
        "srt": to_srt(subtitles),
        "vtt": to_vtt(subtitles),
        "txt": to_txt(transcript),
        "json": to_json(transcript),
    }


def write_files(folder: Path, name: str, transcript: Transcript) -> dict[str, str]:
    """Paths of the captions by their kind, in a folder of their own that nobody can guess."""
    place = Path(tempfile.mkdtemp(dir=folder))
    texts = caption_texts(transcript)
    for kind, text in texts.items():
        (place / f"{name}.{kind}").write_text(text, encoding="utf-8")
    return {kind: str(place / f"{name}.{kind}") for kind in texts}


def captions_tab(settings: DemoSettings, model: Opened[Transcriber], folder: Path, example: Path | None) -> None:
    """The tab's contents; `example` is a recording for somebody who has none at hand."""
    limits = settings.limits

    def show(
        source: Source, name: str, address: str, is_video: bool, progress: gr.Progress, *options: Any
    ) -> tuple[Any, ...]:
        transcript = transcribe(model, source, progress, *options)
        total = round(transcript.seconds * SPEECH_RATE)
        peaks = player.envelope(stream_audio(source, SPEECH_RATE), total)
        page = player.player(address, subtitles_of(transcript), peaks, transcript.seconds, is_video=is_video)
        files = write_files(folder, name, transcript)
        buttons = [gr.DownloadButton(value=path, interactive=True) for path in files.values()]
        return page, transcript.text, *buttons

    def caption_file(
        path: str | None,
        language_model: bool,
        hotwords: str,
        beam_width: float,
        progress: gr.Progress = gr.Progress(),  # noqa: B008, how gradio hands it in
    ) -> tuple[Any, ...]:
        if path is None:
            raise gr.Error("Choose a recording first, or try the example.", title="No recording")
        check_recording(path, limits.file_minutes)
        is_video = Path(path).suffix.lower() in player.VIDEO_TYPES
        address, options = player.file_address(path), (language_model, hotwords, beam_width)
        return show(path, Path(path).stem, address, is_video, progress, *options)

    def caption_recording(
        recording: np.ndarray | None,
        language_model: bool,
        hotwords: str,
        beam_width: float,
        progress: gr.Progress = gr.Progress(),  # noqa: B008, how gradio hands it in
    ) -> tuple[Any, ...]:
        if recording is None:
            raise gr.Error("Record something first.", title="No recording")
        source = {"array": recording, "sampling_rate": SPEECH_RATE}
        address = player.mp3_address(recording, SPEECH_RATE)
        return show(source, "recording", address, False, progress, language_model, hotwords, beam_width)

    def for_programs(
        file: str, language_model: bool = True, hotwords: str = "", beam_width: float = BEAM_WIDTH
    ) -> tuple[dict[str, Any], str, str]:
        check_recording(file, limits.file_minutes)
        transcript = transcribe(model, file, gr.Progress(), language_model, hotwords, beam_width)
        files = write_files(folder, Path(file).stem, transcript)
        return json.loads(to_json(transcript)), files["srt"], files["vtt"]

    recording = gr.State(time_to_live=round(60 * limits.keep_minutes))  # samples; the microphone leaves no file
    with gr.Row():
        with gr.Column(scale=2, min_width=280):
            with gr.Tabs():
                with gr.Tab("File"):
                    file = upload(limits, "caption-file")
                    caption_button = gr.Button("Make captions", variant="primary", elem_id="caption-button")
                    if example is not None:
                        example_button = gr.Button("Try an example", size="sm", elem_id="caption-example")
                        example_button.click(lambda: str(example), None, file, api_visibility="private")
                with gr.Tab("Microphone"):
                    microphone = gr.Audio(
                        label="Record; captions are made when you stop",
                        sources=["microphone"],
                        type="filepath",
                        editable=False,
                        elem_id="caption-microphone",
                    )
                    again_button = gr.Button("Caption the last recording again", size="sm")
                    gr.Markdown(
                        "The recording is kept in memory for this page only, not in a file.", elem_classes="note"
                    )
            with gr.Accordion("Language model and hotwords", open=False):
                use_lm = gr.Checkbox(True, label="Language model", info="Of the model's folder, where there is one")
                hotwords = gr.Textbox(
                    "", label="Hotwords", info="Phrases that are likely, parted by commas", max_length=2000
                )
                beam_width = gr.Slider(
                    1, 500, BEAM_WIDTH, step=1, label="Beam width", info="More is slower, and rarely better above 100"
                )
        with gr.Column(scale=3, min_width=280):
            page = gr.HTML(EMPTY, js_on_load=player.SCRIPT, elem_id="caption-player")
            text = gr.Textbox(label="Text", lines=3, interactive=False, buttons=["copy"], elem_id="caption-text")
            with gr.Row():
                downloads = [
                    gr.DownloadButton(
                        kind.upper(), interactive=False, size="sm", min_width=60, elem_id=f"caption-{kind}"
                    )
                    for kind in ("srt", "vtt", "txt", "json")
                ]
    options = [use_lm, hotwords, beam_width]
    shared: dict[str, Any] = {"concurrency_id": "asr", "concurrency_limit": 2}
    shown = [page, text, *downloads]
    caption_button.click(caption_file, [file, *options], shown, api_visibility="private", **shared)
    taken = microphone.stop_recording(
        lambda path: (take_recording(path, limits), None),
        microphone,
        [recording, microphone],
        api_visibility="private",
    )
    taken.success(caption_recording, [recording, *options], shown, api_visibility="private", **shared)
    again_button.click(caption_recording, [recording, *options], shown, api_visibility="private", **shared)

    # For programs: real components, so that gradio takes no path but that of a file uploaded to it.
    gr.Button(visible=False).click(
        for_programs,
        [gr.File(visible=False, label="file"), *options],
        [
            gr.JSON(visible=False, label="transcript"),
            gr.File(visible=False, label="srt"),
            gr.File(visible=False, label="vtt"),
        ],
        api_name="captions",
        api_description="Captions of a recording: text and words with times, and the subtitles as SRT and WebVTT.",
        **shared,
    )
