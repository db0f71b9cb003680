"""The page as its users have it: served on this machine, seen by a Chromium that is installed, or not tested."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from playwright.sync_api import Browser, Page, sync_playwright

from hfaudio.audio.io import load_audio
from hfaudio.data.datasets import DataArguments, load_split

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="session")
def address() -> Iterator[str]:
    """The demo with the bundled models, and limits that a test can reach."""
    from hfaudio.demo.app import served
    from hfaudio.demo.settings import DemoSettings, Limits

    with served(DemoSettings(limits=Limits(file_minutes=2, music_seconds=10))) as found:
        yield found


@pytest.fixture(scope="session")
def prompts() -> list[tuple[str, np.ndarray]]:
    """Text and samples (N,) at 16 kHz of three prompts of the bundled test speech."""
    rows = load_split(DataArguments(), "test")
    return [(rows[i]["text"], load_audio(rows[i]["audio"], 16_000)) for i in (0, 7, 14)]


@pytest.fixture(scope="session")
def spoken(prompts: list[tuple[str, np.ndarray]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The three as a wav at 48 kHz with pauses, such as a microphone would record."""
    silence = np.zeros(16_000, np.float32)
    samples = np.concatenate([silence, *(part for _, clip in prompts for part in (clip, silence))])
    path = tmp_path_factory.mktemp("spoken") / "spoken.wav"
    soundfile.write(path, np.repeat(samples, 3), 48_000)
    return path


@pytest.fixture(scope="session")
def browse() -> Iterator[Callable[[Path | None], Browser]]:
    """Opens a headless browser, whose microphone plays the wav that is given, once."""
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed: the page is not tested in a browser (Debian: apt install chromium)")
    with sync_playwright() as playwright:
        opened: list[Browser] = []

        def open_browser(microphone: Path | None = None) -> Browser:
            fake = [] if microphone is None else [f"--use-file-for-fake-audio-capture={microphone}%noloop"]
            options = [
                "--no-sandbox",  # of a container whose only user is root
                "--use-fake-device-for-media-stream",
                "--use-fake-ui-for-media-stream",
                "--autoplay-policy=no-user-gesture-required",
                *fake,
            ]
            opened.append(playwright.chromium.launch(executable_path=CHROMIUM, args=options))
            return opened[-1]

        yield open_browser
        for browser in opened:
            browser.close()


@pytest.fixture(scope="session")
def browser(browse: Callable[[Path | None], Browser]) -> Browser:
    """A browser without anything to hear."""
    return browse(None)


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    """The page as it opens for somebody new."""
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    page.goto(address)
    page.wait_for_selector("#caption-button")
    yield page
    page.close()
