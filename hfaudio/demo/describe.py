"""The tab that describes sounds, by a model that recipes/asr_seq2seq.py trained with --target caption."""

import gradio as gr

from hfaudio.demo.captions import transcribe
from hfaudio.demo.settings import DemoSettings, Opened, check_recording, upload
from hfaudio.inference.transcribe import Transcriber


def describe_tab(settings: DemoSettings, model: Opened[Transcriber]) -> None:
    """The tab's contents."""
    limits = settings.limits

    def describe(file: str | None, progress: gr.Progress = gr.Progress()) -> str:  # noqa: B008, how gradio hands it in
        if file is None:
            raise gr.Error("Choose a recording first.", title="No recording")
        check_recording(file, limits.file_minutes)
        return transcribe(model, file, progress).text

    with gr.Row():
        with gr.Column(scale=2, min_width=280):
            file = upload(limits, "describe-file")
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
