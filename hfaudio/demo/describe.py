"""The tab that describes sounds, by a model that recipes/asr_seq2seq.py trained with --target caption."""

import gradio as gr

from hfaudio.audio.io import AudioError
from hfaudio.demo.settings import MEDIA_TYPES, DemoSettings, Opened, check_recording, readable
from hfaudio.inference.transcribe import Transcriber


def describe_tab(settings: DemoSettings, model: Opened[Transcriber]) -> None:
    """The tab's contents."""
    limits = settings.limits

    def describe(file: str | None, progress: gr.Progress = gr.Progress()) -> str:  # noqa: B008, how gradio hands it in
        if file is None:
            raise gr.Error("Choose a recording first.", title="No recording")
        check_recording(file, limits)
        progress(0, desc="Listening" if model.is_open else "Opening the model")
        try:
            return model()(file).text
        except AudioError as error:
            raise readable(error) from error

    with gr.Row():
        with gr.Column(scale=2, min_width=280):
            file = gr.File(
                label=f"Audio or video, at most {limits.file_mb:g} MB and {limits.file_minutes:g} minutes",
                file_types=MEDIA_TYPES,
                height=150,
                elem_id="describe-file",
            )
            button = gr.Button("Describe", variant="primary", elem_id="describe-button")
        with gr.Column(scale=3, min_width=280):
            text = gr.Textbox(
                label="Description", lines=4, interactive=False, buttons=["copy"], elem_id="describe-text"
            )
    button.click(
        describe,
        file,
        text,
        api_name="describe",
        api_description="A description of what a recording sounds like.",
        concurrency_id="describe",
        concurrency_limit=1,
    )
