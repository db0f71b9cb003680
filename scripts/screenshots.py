"""Pictures of the demo for the README, from the real page.

python scripts/screenshots.py -o demo/screenshots     # needs a Chromium (Debian: apt install chromium)
"""

import argparse
import shutil
import tempfile
from pathlib import Path

import numpy as np
import soundfile
from playwright.sync_api import Page, sync_playwright

from hfaudio.audio.io import load_audio
from hfaudio.demo.app import EXAMPLE, served
from hfaudio.demo.settings import DemoSettings

SIZE = {"width": 1120, "height": 760}
PHONE = {"width": 390, "height": 760}


def main() -> None:
    parser = argparse.ArgumentParser(description="Pictures of the demo for the README.")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder to write to")
    folder = parser.parse_args().output
    folder.mkdir(parents=True, exist_ok=True)
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        raise SystemExit("there is no Chromium (Debian: apt install chromium)")
    with served(DemoSettings()) as address, sync_playwright() as playwright, tempfile.TemporaryDirectory() as place:
        speech = Path(place, "speech.wav")
        soundfile.write(speech, np.repeat(load_audio(EXAMPLE), 3), 48_000)
        switches = [
            "--no-sandbox",
            "--use-fake-device-for-media-stream",
            "--use-fake-ui-for-media-stream",
            "--autoplay-policy=no-user-gesture-required",
            f"--use-file-for-fake-audio-capture={speech}%noloop",
        ]
        browser = playwright.chromium.launch(executable_path=chromium, args=switches)
        for name, take in (("captions", captions), ("live", live), ("music", music)):
            page = browser.new_page(viewport=SIZE, color_scheme="light")
            page.goto(f"{address}?__theme=light")
            take(page)
            page.screenshot(path=folder / f"{name}.png")
            page.close()
        page = browser.new_page(viewport=PHONE)
        page.goto(f"{address}?__theme=dark")
        captions(page)
        page.locator("#caption-player").scroll_into_view_if_needed()
        page.evaluate("document.querySelector('#caption-player').scrollIntoView()")
        page.screenshot(path=folder / "phone.png")
        browser.close()


def captions(page: Page) -> None:
    """In the middle of the second prompt."""
    page.click("#caption-example")
    page.wait_for_selector("#caption-file .file-preview")
    page.click("#caption-button")
    page.wait_for_selector("#caption-player audio")
    page.click("#caption-player .cues li:nth-child(2) button")
    page.wait_for_timeout(1200)
    page.evaluate("document.querySelector('#caption-player audio').pause()")
    page.wait_for_timeout(300)


def live(page: Page) -> None:
    """While somebody speaks."""
    page.get_by_role("tab", name="Live captions", exact=True).click()
    page.click("#live [data-part=button]")
    page.wait_for_selector("#live .live p >> text=/steady march in/")


def music(page: Page) -> None:
    """After a clip was made."""
    page.get_by_role("tab", name="Text to music", exact=True).click()
    page.click("#music-button")
    page.wait_for_selector("#music-1-wav")
    page.wait_for_timeout(1500)


if __name__ == "__main__":
    main()
