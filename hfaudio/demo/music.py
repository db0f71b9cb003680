"""The tabs that make music: from a typed prompt, and from a spoken one."""

import base64
import html
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from hfaudio.audio.export import normalise_loudness
from hfaudio.audio.io import AudioError, Source, save_audio
from hfaudio.demo.captions import transcribe
from hfaudio.demo.settings import (
    SPEECH_RATE,
    DemoSettings,
    Opened,
    check_recording,
    readable,
    take_recording,
)
from hfaudio.inference.generate import MusicGenerator, Sampling
from hfaudio.inference.spectrogram import plot_spectrograms
from hfaudio.inference.transcribe import Transcriber

PROMPTS = (
    "slow flute tune in d minor",
    "happy fast piano in g major",
    "a sad waltz on strings",
    "lively marimba dance in c major",
    "calm organ melody in b flat minor",
)
EMPTY = '<p class="note">The music appears here: to play, to download, and as a picture.</p>'
LARGEST_SEED = 2**31 - 1
CAN_STREAM = shutil.which("ffmpeg") is not None  # gradio needs the program for sound that is still being made
PIECE_SECONDS = 1.0  # of such sound
Generators = Mapping[str, Opened[MusicGenerator]]  # by the name of the adapter, "" without one


@dataclass(frozen=True)
class Wish:
    """What is to be generated; gradio.Error for what nobody can have."""

    prompt: str
    seconds: float
    guidance_scale: float
    temperature: float
    seed: int
    adapter: str
    continue_from: str | None = None  # a file that gradio holds, or one of ours

    @classmethod
    def checked(
        cls,
        settings: DemoSettings,
        generators: Generators,
        prompt: str,
        seconds: float,
        guidance_scale: float,
        temperature: float,
        seed: float | None,
        adapter: str | None,
        continue_from: str | None = None,
    ) -> "Wish":
        """Of values that came from a page or a program; a seed below 0 is drawn."""
        limits, adapter = settings.limits, adapter or ""
        if not prompt.strip():
            raise gr.Error("The prompt is empty; say what is to be heard, such as 'slow flute tune in d minor'.")
        if len(prompt) > limits.prompt_chars:
            raise gr.Error(f"The prompt has {len(prompt)} characters, at most {limits.prompt_chars} are allowed.")
        if not 0 < seconds <= limits.music_seconds:
            raise gr.Error(f"The length must be above 0 and at most {limits.music_seconds:g} s, got {seconds:g}.")
        if adapter not in generators:
            raise gr.Error(
                f"There is no adapter {adapter!r}; there are {', '.join(filter(None, generators)) or 'none'}."
            )
        if continue_from is not None:
            check_recording(continue_from, limits.file_minutes)
        drawn = random.randint(0, LARGEST_SEED) if seed is None or seed < 0 else int(seed)
        return cls(prompt.strip(), seconds, guidance_scale, temperature, drawn, adapter, continue_from)


@dataclass(frozen=True)
class Clip:
    """A clip that was made, as files."""

    wav: str
    flac: str
    picture: str  # HTML
    facts: dict[str, Any]


def pieces(generator: MusicGenerator, wish: Wish) -> Iterator[np.ndarray]:
    """Audio (C, n) of a clip, while it is generated; gradio.Error for what a user can mend."""
    try:
        yield from generator.stream(
            wish.prompt,
            wish.seconds,
            seed=wish.seed,
            sampling=Sampling(guidance_scale=wish.guidance_scale, temperature=wish.temperature),
            chunk_seconds=PIECE_SECONDS,
            continue_from=wish.continue_from,
        )
    except AudioError as error:
        raise readable(error) from error
    except ValueError as error:  # a wrong value, with rule and remedy
        raise gr.Error(str(error)) from error


def save_clip(folder: Path, samples: np.ndarray, sample_rate: int, wish: Wish, took: float) -> Clip:
    """Write the clip (C, N) at -16 LUFS, in a folder of its own that nobody can guess."""
    place = Path(tempfile.mkdtemp(dir=folder))
    samples = normalise_loudness(samples, sample_rate)
    name = "-".join(wish.prompt.split()[:8]).replace("/", "-")[:60]
    files = [place / f"{name}-{wish.seed}{suffix}" for suffix in (".wav", ".flac")]
    for file in files:
        save_audio(file, samples, sample_rate)
    seconds = samples.shape[1] / sample_rate
    plot_spectrograms({f"seed {wish.seed}": samples}, sample_rate, place / "spectrogram.png")
    encoded = base64.b64encode((place / "spectrogram.png").read_bytes()).decode()
    alt = f"Spectrogram of {seconds:.1f} seconds of: {html.escape(wish.prompt, quote=True)}"
    picture = f'<img class="spectrogram" src="data:image/png;base64,{encoded}" alt="{alt}">'
    facts = {"prompt": wish.prompt, "seconds": round(seconds, 2), "seed": wish.seed, "took_seconds": round(took, 2)}
    return Clip(str(files[0]), str(files[1]), picture, facts)


def made(generators: Generators, wish: Wish, folder: Path, progress: gr.Progress) -> Clip:
    """A whole clip, for those who do not listen meanwhile."""
    generator = opening(generators[wish.adapter], progress)
    start, parts, heard = time.perf_counter(), [], 0
    for piece in pieces(generator, wish):
        parts.append(piece)
        heard += piece.shape[1]
        progress(min(1.0, heard / generator.sample_rate / wish.seconds), desc="Generating")
    return save_clip(folder, np.concatenate(parts, 1), generator.sample_rate, wish, time.perf_counter() - start)


def opening(opened: Opened[MusicGenerator], progress: gr.Progress) -> MusicGenerator:
    if not opened.is_open:
        progress(0, desc="Opening the music model")
    return opened()


def heard_now(samples: np.ndarray, sample_rate: int) -> tuple[int, np.ndarray]:
    """A piece (C, n) as gradio streams it: (n, C) of 16 bits, as it would set each piece of floats to full level."""
    return sample_rate, (np.clip(samples.T, -1, 1) * 32767).astype(np.int16)


def facts_line(clips: list[Clip]) -> str:
    """HTML: how long the clips are, how long they took, and their seeds."""
    seconds = sum(clip.facts["seconds"] for clip in clips)
    took = sum(clip.facts["took_seconds"] for clip in clips)
    seeds = ", ".join(str(clip.facts["seed"]) for clip in clips)
    return f'<p class="note">{seconds:.1f} s of music in {took:.1f} s. Seeds: {seeds}.</p>'


def answers(settings: DemoSettings, generators: Generators, folder: Path) -> Callable[..., tuple[str, dict[str, Any]]]:
    """For programs: takes the values of `Wish.checked`, gives a wav file and its facts."""

    def answer(*values: Any) -> tuple[str, dict[str, Any]]:
        clip = made(generators, Wish.checked(settings, generators, *values), folder, gr.Progress())
        return clip.wav, clip.facts

    return answer


def music_tab(settings: DemoSettings, generators: Generators, folder: Path) -> None:
    """Text to music: the tab's contents, and its endpoints for programs."""
    limits, shared, answer = settings.limits, _shared(), answers(settings, generators, folder)
    with gr.Row():
        with gr.Column(scale=2, min_width=280):
            prompt = gr.Textbox(
                PROMPTS[0], label="Prompt", lines=2, max_length=limits.prompt_chars, elem_id="music-prompt"
            )
            button = gr.Button("Generate", variant="primary", elem_id="music-button")
            gr.Examples([[text] for text in PROMPTS], prompt, label="Examples", api_visibility="private")
            controls = _controls(settings, generators)
            variants = gr.Slider(1, limits.variants, 1, step=1, label="Variants", info="Each with the next seed")
            with gr.Accordion("Begin with a recording", open=False):
                start = gr.Audio(label="Recording to continue", sources=["upload"], type="filepath", editable=False)
        with gr.Column(scale=3, min_width=280):
            live = gr.Audio(
                label="While it is generated",
                streaming=True,
                autoplay=True,
                visible=False,
                interactive=False,
                buttons=[],
            )
            line = gr.HTML(EMPTY, elem_id="music-facts")
            results = [_result(number) for number in range(limits.variants)]
    shown = [live, line, *(part for result in results for part in result.outputs)]

    def generate(
        text: str,
        seconds: float,
        guidance: float,
        temperature: float,
        seed: float,
        adapter: str,
        count: float,
        recording: str | None,
        progress: gr.Progress = gr.Progress(),  # noqa: B008, how gradio hands it in
    ) -> Iterator[list[Any]]:
        first = Wish.checked(settings, generators, text, seconds, guidance, temperature, seed, adapter, recording)
        generator = opening(generators[first.adapter], progress)
        hidden = [update for result in results for update in result.hidden()]
        clips: list[Clip] = []
        if CAN_STREAM:  # shown from now on; an empty player is nothing to look at
            yield [gr.Audio(visible=True), *([gr.skip()] * (1 + len(hidden)))]
        for number in range(int(min(count, limits.variants))):
            wish = replace(first, seed=(first.seed + number) % (LARGEST_SEED + 1))
            begin, parts, done = time.perf_counter(), [], 0.0
            for piece in pieces(generator, wish):
                parts.append(piece)
                done += piece.shape[1] / generator.sample_rate
                progress(min(1.0, (number + done / wish.seconds) / count), desc=f"{done:.1f} s")
                if CAN_STREAM and number == 0:
                    yield [heard_now(piece, generator.sample_rate), gr.skip(), *([gr.skip()] * len(hidden))]
            samples = np.concatenate(parts, 1)
            clips.append(save_clip(folder, samples, generator.sample_rate, wish, time.perf_counter() - begin))
            updates = [u for result, clip in zip(results, clips, strict=False) for u in result.filled(clip)]
            yield [gr.skip(), facts_line(clips), *updates, *hidden[len(updates) :]]

    inputs = [prompt, *controls, variants]
    run = {"outputs": shown, "api_visibility": "private", "show_progress_on": line, **shared}
    gr.on([button.click, prompt.submit], generate, [*inputs, start], **run)
    for result in results:
        # What a clip is continued from is a file of ours, which the server remembers.
        result.further.click(generate, [*inputs, result.path], **run)

    def for_programs(
        prompt: str,
        seconds: float = 5.0,
        guidance_scale: float = 3.0,
        temperature: float = 1.0,
        seed: float = -1,
        adapter: str = "",
    ) -> tuple[str, dict[str, Any]]:
        return answer(prompt, seconds, guidance_scale, temperature, seed, adapter)

    def continue_for_programs(
        file: str,
        prompt: str,
        seconds: float = 5.0,
        guidance_scale: float = 3.0,
        temperature: float = 1.0,
        seed: float = -1,
        adapter: str = "",
    ) -> tuple[str, dict[str, Any]]:
        return answer(prompt, seconds, guidance_scale, temperature, seed, adapter, file)

    # For programs: real components, so that gradio takes no path but that of a file uploaded to it.
    for name, function, first, told in (
        ("generate_music", for_programs, [], "Music from a prompt: a wav file, and its prompt, length and seed."),
        ("continue_music", continue_for_programs, [gr.File(visible=False)], "A recording, and how it might go on."),
    ):
        gr.Button(visible=False).click(
            function,
            [*first, prompt, *controls],
            [gr.File(visible=False), gr.JSON(visible=False)],
            api_name=name,
            api_description=told,
            **shared,
        )


def speak_tab(settings: DemoSettings, transcriber: Opened[Transcriber], generators: Generators, folder: Path) -> None:
    """A spoken prompt to a clip, at one press of a button."""
    limits, shared, answer = settings.limits, _shared(), answers(settings, generators, folder)
    with gr.Row():
        with gr.Column(scale=2, min_width=280):
            microphone = gr.Audio(
                label="Say what you would like to hear; it is played when you stop",
                sources=["microphone"],
                type="filepath",
                editable=False,
                elem_id="speak-microphone",
            )
            gr.Markdown("What you say is read in memory and not kept in a file.", elem_classes="note")
            prompt = gr.Textbox(
                label="Prompt that was understood",
                info="Correct it and press the button to hear it anew",
                max_length=limits.prompt_chars,
                elem_id="speak-prompt",
            )
            button = gr.Button("Play this prompt", variant="primary", elem_id="speak-button")
            controls = _controls(settings, generators)
        with gr.Column(scale=3, min_width=280):
            line = gr.HTML(EMPTY, elem_id="speak-facts")
            result = _result(0, name="speak")

    def understand(path: str | None, progress: gr.Progress = gr.Progress()) -> tuple[str, None]:  # noqa: B008
        if path is None:
            raise gr.Error("Say something first.", title="No recording")
        source = {"array": take_recording(path, limits), "sampling_rate": SPEECH_RATE}
        return understood(source, progress), None

    def understood(source: Source, progress: gr.Progress) -> str:
        text = transcribe(transcriber, source, progress).text
        if not text:
            raise gr.Error("Nothing was understood; speak a little louder, or write the prompt.")
        return text

    def play(
        *values: Any,
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> list[Any]:
        clip = made(generators, Wish.checked(settings, generators, *values), folder, progress)
        return [facts_line([clip]), *result.filled(clip, autoplay=True)]

    run = {"outputs": [line, *result.outputs], "api_visibility": "private", "show_progress_on": line, **shared}
    heard = microphone.stop_recording(understand, microphone, [prompt, microphone], api_visibility="private", **shared)
    heard.success(play, [prompt, *controls], **run)
    gr.on([button.click, prompt.submit], play, [prompt, *controls], **run)
    result.further.click(play, [prompt, *controls, result.path], **run)

    def for_programs(
        file: str,
        seconds: float = 5.0,
        guidance_scale: float = 3.0,
        temperature: float = 1.0,
        seed: float = -1,
        adapter: str = "",
    ) -> tuple[str, str, dict[str, Any]]:
        check_recording(file, limits.file_minutes)
        text = understood(file, gr.Progress())
        return text, *answer(text, seconds, guidance_scale, temperature, seed, adapter)

    gr.Button(visible=False).click(
        for_programs,
        [gr.File(visible=False), *controls],
        [gr.Textbox(visible=False), gr.File(visible=False), gr.JSON(visible=False)],
        api_name="speak_music",
        api_description="A spoken prompt: what was understood, a wav file of it, and its length and seed.",
        **shared,
    )


def _shared() -> dict[str, Any]:
    """Options of all events: the model draws for one after the other."""
    return {"concurrency_id": "music", "concurrency_limit": 1}


def _controls(settings: DemoSettings, generators: Generators) -> list[Any]:
    """Length, guidance, temperature, seed, adapter."""
    longest = settings.limits.music_seconds
    with gr.Accordion("Length, guidance, seed", open=False):
        return [
            gr.Slider(1, longest, min(5, longest), step=0.5, label="Seconds"),
            gr.Slider(1, 10, 3, step=0.5, label="Guidance", info="How much the prompt counts; 1 is none"),
            gr.Slider(0, 2, 1, step=0.05, label="Temperature", info="0 takes the likeliest sound at every step"),
            gr.Number(-1, label="Seed", info="The same seed gives the same clip; -1 draws one", precision=0),
            gr.Dropdown(
                [(name or "none", name) for name in generators], value="", label="Adapter", visible=len(generators) > 1
            ),
        ]


@dataclass(frozen=True)
class _Result:
    """The place of one clip on the page."""

    box: gr.Column
    audio: gr.Audio
    picture: gr.HTML
    wav: gr.DownloadButton
    flac: gr.DownloadButton
    further: gr.Button
    path: gr.State  # of the wav

    @property
    def outputs(self) -> list[Any]:
        return [self.box, self.audio, self.picture, self.wav, self.flac, self.path]

    def filled(self, clip: Clip, *, autoplay: bool = False) -> list[Any]:
        """Updates of the outputs for a clip."""
        return [
            gr.Column(visible=True),
            gr.Audio(clip.wav, label=f"Seed {clip.facts['seed']}", autoplay=autoplay),
            clip.picture,
            gr.DownloadButton(value=clip.wav),
            gr.DownloadButton(value=clip.flac),
            clip.wav,
        ]

    def hidden(self) -> list[Any]:
        """Updates of the outputs where there is no clip."""
        return [gr.Column(visible=False), None, "", gr.DownloadButton(), gr.DownloadButton(), None]


def _result(number: int, name: str = "music") -> _Result:
    place = f"{name}-{number + 1}"
    with gr.Column(visible=False, elem_id=place) as box:
        audio = gr.Audio(
            label="Clip",
            interactive=False,
            type="filepath",
            buttons=["download"],
            waveform_options={"waveform_color": "#94a3b8", "waveform_progress_color": "#0f766e"},
            elem_id=f"{place}-audio",
        )
        picture = gr.HTML("")
        with gr.Row():
            wav = gr.DownloadButton("WAV", size="sm", min_width=60, elem_id=f"{place}-wav")
            flac = gr.DownloadButton("FLAC", size="sm", min_width=60, elem_id=f"{place}-flac")
            further = gr.Button("Continue this clip", size="sm", min_width=60, elem_id=f"{place}-continue")
        path = gr.State()
    return _Result(box, audio, picture, wav, flac, further, path)
