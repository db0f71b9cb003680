"""The page put together, and how it is served."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # before gradio is imported: the page asks nobody for anything

import gradio as gr

from hfaudio.demo.captions import captions_tab
from hfaudio.demo.describe import describe_tab
from hfaudio.demo.live import live_tab
from hfaudio.demo.looks import CSS, THEME
from hfaudio.demo.music import music_tab, speak_tab
from hfaudio.demo.settings import DemoSettings, music_model, speech_model

EXAMPLE = Path(__file__).with_name("three_prompts.ogg")  # clips 0, 7 and 14 of the bundled test speech

HEAD = """<h1>hfaudio</h1><p>Captions of recordings and of live speech, and music from text, by models that were
fine-tuned with hfaudio.</p>"""
BUNDLED_NOTE = """The bundled models know one small language of requests for music, such as "slow flute tune in d
minor", spoken by synthetic voices, and eight instruments of one soundfont. `hfaudio demo --asr MODEL --music MODEL`
opens others."""


def build_app(settings: DemoSettings, folder: Path) -> gr.Blocks:
    """The page; results of requests are written below `folder`."""
    seconds = round(60 * settings.limits.keep_minutes)
    speech = speech_model(settings, settings.asr) if settings.asr else None
    with gr.Blocks(title="hfaudio", analytics_enabled=False, delete_cache=(seconds, seconds)) as app:
        gr.HTML(HEAD, elem_id="head")
        with gr.Tabs():
            if speech is not None:
                with gr.Tab("Captions", id="captions"):
                    captions_tab(settings, speech, folder, EXAMPLE)
                with gr.Tab("Live captions", id="live"):
                    live_tab(settings, speech)
            if settings.describe is not None:
                with gr.Tab("Describe", id="describe"):
                    describe_tab(settings, speech_model(settings, settings.describe))
            if settings.music is not None:
                adapters: dict[str, str | None] = {"": None, **settings.adapters}
                generators = {name: music_model(settings, settings.music, place) for name, place in adapters.items()}
                with gr.Tab("Text to music", id="music"):
                    music_tab(settings, generators, folder)
                if speech is not None:
                    with gr.Tab("Speak a prompt, hear the music", id="speak"):
                        speak_tab(settings, speech, generators, folder)
        if "bundled" in (settings.asr, settings.music):
            gr.Markdown(BUNDLED_NOTE, elem_classes="note")
    return app


@contextmanager
def served(settings: DemoSettings, *, auth: tuple[str, str] | None = None, **launch: Any) -> Iterator[str]:
    """Serve the page and yield its address; what users uploaded and made is deleted in the end.

    `launch` are options of `gradio.Blocks.launch`: `server_port`, `server_name`, `share`.
    """
    limits = settings.limits
    folder = Path(tempfile.mkdtemp(prefix="hfaudio-demo-"))
    before = os.environ.get("GRADIO_TEMP_DIR")
    os.environ["GRADIO_TEMP_DIR"] = str(folder)  # uploads go below it as well
    app = build_app(settings, folder)
    try:
        app.queue(max_size=limits.queue_size)
        _, address, share_address = app.launch(
            prevent_thread_lock=True,
            max_file_size=round(limits.file_mb * 1e6),
            allowed_paths=[str(EXAMPLE)],
            auth=auth,
            show_error=False,  # errors that are not ours are told as "Error"; the log has them
            footer_links=["api"],
            theme=THEME,
            css=CSS,
            quiet=True,
            ssr_mode=False,
            **launch,
        )
        yield share_address or address
    finally:
        app.close()
        shutil.rmtree(folder, ignore_errors=True)
        if before is None:
            del os.environ["GRADIO_TEMP_DIR"]
        else:
            os.environ["GRADIO_TEMP_DIR"] = before
