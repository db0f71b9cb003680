"""What users meet in the browser: captions that follow the sound, live captions, music, limits, other users."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
import soundfile
import webvtt
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page
from scipy.signal import correlate

from hfaudio.audio.resample import resample
from hfaudio.demo.live import LiveSession

TABS = ("Captions", "Live captions", "Text to music", "Speak a prompt, hear the music")


# Counts the samples that the page's recorder hears, up to the press of its Stop button.
COUNT_SAMPLES = """
window.heard = 0;
window.counts = true;
window.AudioWorkletNode = class extends AudioWorkletNode {
  constructor(...values) {
    super(...values);
    this.port.addEventListener('message', (event) => { if (window.counts) window.heard += event.data.length; });
  }
};
document.addEventListener('click', (event) => {
  if (event.target.closest('#live [aria-pressed=true]')) window.counts = false;
}, true);
"""


def caption_example(page: Page) -> None:
    page.click("#caption-example")
    page.wait_for_selector("#caption-file .file-preview")
    page.click("#caption-button")
    page.wait_for_selector("#caption-player audio")


def test_the_example_is_captioned_and_followed_while_it_plays(page: Page) -> None:
    caption_example(page)
    assert "a dreamy organ tune in a flat minor" in page.input_value("#caption-text textarea")
    page.evaluate("document.querySelector('#caption-player audio').play()")
    page.wait_for_selector("#caption-player .w.now")
    page.click("#caption-player .cues li:nth-child(2) button")  # goes to the second caption's time
    start = float(page.get_attribute("#caption-player .cues li:nth-child(2) button", "data-start"))
    page.wait_for_function("t => document.querySelector('#caption-player audio').currentTime >= t", arg=start)
    assert page.locator("#caption-player figcaption i").count() == 3  # the legend of the words' confidence


def test_subtitles_download_and_a_player_reads_them(page: Page, spoken: Path, tmp_path: Path) -> None:
    page.set_input_files("#caption-file input[type=file]", spoken)
    page.wait_for_selector("#caption-file .file-preview")
    page.click("#caption-button")
    page.wait_for_selector("#caption-player audio")
    for kind, read in (("srt", webvtt.from_srt), ("vtt", webvtt.read)):
        with page.expect_download() as download:
            page.click(f"#caption-{kind}")
        path = tmp_path / f"captions.{kind}"
        download.value.save_as(path)
        captions = read(path)
        assert download.value.suggested_filename == f"spoken.{kind}"
        assert "steady march" in " ".join(caption.text.replace("\n", " ") for caption in captions)
        starts = [caption.start_in_seconds for caption in captions]
        assert starts == sorted(starts) and captions[-1].end_in_seconds < 14


def test_a_file_that_is_too_large_or_too_long_or_no_sound_is_refused(page: Page, tmp_path: Path) -> None:
    large, long, text = tmp_path / "large.wav", tmp_path / "long.wav", tmp_path / "notes.wav"
    with large.open("wb") as file:
        file.truncate(200_000_000)
    soundfile.write(long, np.zeros(16_000 * 130, np.float32), 16_000)
    text.write_text("no sound")
    page.set_input_files("#caption-file input[type=file]", large)
    page.wait_for_selector("text=/exceeds|too large|maximum/i")
    for path, message in ((long, "at most 2 are allowed"), (text, "cannot be read")):
        page.reload()
        page.wait_for_selector("#caption-button")
        page.set_input_files("#caption-file input[type=file]", path)
        page.wait_for_selector("#caption-file .file-preview")
        page.click("#caption-button")
        told = page.wait_for_selector(f"text={message}")
        assert str(tmp_path) not in told.inner_text() and "Traceback" not in page.content()


def test_the_page_asks_nobody_else_for_anything(browser: Browser, address: str) -> None:
    page = browser.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address)
    page.wait_for_selector("#caption-button")
    caption_example(page)
    hosts = {urlsplit(url).netloc for url in asked if not url.startswith(("data:", "blob:"))}
    page.close()
    assert hosts == {urlsplit(address).netloc}


@pytest.mark.parametrize("dark", [False, True])
def test_nothing_serious_bars_anybody_from_the_page(browser: Browser, address: str, dark: bool) -> None:
    """axe-core, on every tab; colours of both themes."""
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    page.goto(f"{address}?__theme={'dark' if dark else 'light'}")
    page.wait_for_selector("#caption-button")
    caption_example(page)
    found = []
    for tab in TABS:
        page.get_by_role("tab", name=tab, exact=True).click()
        page.wait_for_timeout(300)
        violations = Axe().run(page).response["violations"]
        found += [
            (tab, violation["id"], violation["nodes"][0]["html"][:200])
            for violation in violations
            if violation["impact"] in ("serious", "critical")
        ]
    page.close()
    assert found == []


def test_a_phone_shows_the_page_without_scrolling_sideways(browser: Browser, address: str) -> None:
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.goto(address)
    page.wait_for_selector("#caption-button")
    caption_example(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.close()


def test_live_captions_hear_every_sample(
    browse: Callable[[Path | None], Browser],
    address: str,
    spoken: Path,
    prompts: list[tuple[str, np.ndarray]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The microphone plays a recording; what the server got is that recording, without a gap."""
    received: list[np.ndarray] = []
    rates: set[int] = set()
    hear = LiveSession.hear

    def recorded(session: LiveSession, number: int, sample_rate: int, samples: np.ndarray) -> None:
        if number == session._number:  # not what is sent again
            received.append(samples.astype(np.float32) / 32768)
        rates.add(sample_rate)
        hear(session, number, sample_rate, samples)

    monkeypatch.setattr(LiveSession, "hear", recorded)
    page = browse(spoken).new_page()
    page.add_init_script(COUNT_SAMPLES)
    page.goto(address)
    page.get_by_role("tab", name="Live captions", exact=True).click()
    page.click("#live [data-part=button]")
    page.wait_for_selector("#live .partial >> text=/dreamy/", timeout=20_000)  # before the prompt has ended
    page.wait_for_timeout(1000 * soundfile.info(spoken).duration - 2000)
    page.click("#live [data-part=button]")
    page.wait_for_selector("#live [data-part=files]:not([hidden])")
    text = page.inner_text("#live .live p")
    with page.expect_download() as download:
        page.click("#live a[download='live.srt']")
    captions = webvtt.from_srt(download.value.path())
    heard = page.evaluate("window.heard")
    page.close()
    assert sum(map(len, received)) == heard > 0
    assert text == " ".join(text for text, _ in prompts) and captions[0].text.startswith("a dreamy organ")
    source, rate = soundfile.read(spoken, dtype="float32")
    sound = resample(np.concatenate(received), rates.pop(), rate)
    begins = []
    for first in range(rate, len(sound) - rate, rate):
        piece = sound[first : first + rate]
        if np.abs(piece).max() > 0.05:
            begins.append(int(np.abs(correlate(source, piece, "valid", "fft")).argmax()) - first)
    # A lost request would be a gap of 0.25 s. Chromium's fake microphone itself slips by some ms on a loaded machine.
    assert len(begins) >= 6 and max(begins) - min(begins) < 0.02 * rate


def test_two_users_at_once_get_their_own_captions(browser: Browser, address: str, spoken: Path) -> None:
    pages = [browser.new_context().new_page() for _ in range(2)]
    for page in pages:
        page.goto(address)
        page.wait_for_selector("#caption-button")
    pages[0].set_input_files("#caption-file input[type=file]", spoken)
    pages[1].click("#caption-example")
    for page in pages:
        page.wait_for_selector("#caption-file .file-preview")
    for page in pages:
        page.click("#caption-button")
    sources = []
    for page in pages:
        page.wait_for_selector("#caption-player audio")
        sources.append(page.get_attribute("#caption-player audio", "src"))
        page.context.close()
    assert "spoken.wav" in sources[0] and "three_prompts.ogg" in sources[1]


def test_a_recording_of_the_microphone_is_captioned_and_no_file_is_left(
    browse: Callable[[Path | None], Browser], address: str, spoken: Path
) -> None:
    folder = Path(os.environ["GRADIO_TEMP_DIR"])
    before = {file for file in folder.rglob("*") if file.is_file()}
    page = browse(spoken).new_page()
    page.goto(address)
    page.get_by_role("tab", name="Microphone", exact=True).click()
    page.click("#caption-microphone .record-button")
    page.wait_for_timeout(4_500)
    page.click("#caption-microphone .stop-button")
    page.wait_for_selector("#caption-player audio")
    assert "a dreamy organ tune" in page.input_value("#caption-text textarea")
    assert page.get_attribute("#caption-player audio", "src").startswith("data:audio/mpeg")
    page.close()
    left = {file.suffix for file in folder.rglob("*") if file.is_file() and file not in before}
    assert left == {".srt", ".vtt", ".txt", ".json"}


def test_text_becomes_music_that_plays_downloads_and_goes_on(page: Page, tmp_path: Path) -> None:
    page.get_by_role("tab", name="Text to music", exact=True).click()
    page.fill("#music-prompt textarea", "happy fast piano in g major")
    page.click("#music-button")
    if shutil.which("ffmpeg"):  # it is heard while it is generated
        page.wait_for_function("[...document.querySelectorAll('audio')].some((audio) => audio.currentTime > 0.3)")
    page.wait_for_selector("#music-1-wav")
    assert page.get_attribute("#music-1 img.spectrogram", "alt").endswith("happy fast piano in g major")
    files = {}
    for kind in ("wav", "flac"):
        with page.expect_download() as download:
            page.click(f"#music-1-{kind}")
        files[kind] = tmp_path / download.value.suggested_filename
        download.value.save_as(files[kind])
    assert (
        soundfile.info(files["wav"]).duration == soundfile.info(files["flac"]).duration == pytest.approx(5, abs=0.04)
    )
    page.click("#music-1-continue")
    page.wait_for_selector("#music-facts >> text=/^10.0 s of music/")


def test_a_prompt_that_is_spoken_is_heard_as_music(
    browse: Callable[[Path | None], Browser], address: str, prompts: list[tuple[str, np.ndarray]], tmp_path: Path
) -> None:
    """From the microphone to the clip without a hand on the page but for record and stop."""
    text, clip = prompts[1]
    silence = np.zeros(16_000, np.float32)
    soundfile.write(tmp_path / "prompt.wav", np.repeat(np.concatenate([silence, clip, silence]), 3), 48_000)
    page = browse(tmp_path / "prompt.wav").new_page()
    page.goto(address)
    page.get_by_role("tab", name="Speak a prompt, hear the music", exact=True).click()
    page.click("#speak-microphone .record-button")
    page.wait_for_timeout(1000 * len(clip) / 16_000 + 1700)
    page.click("#speak-microphone .stop-button")
    page.wait_for_selector("#speak-1-wav", timeout=60_000)
    assert page.input_value("#speak-prompt textarea") == text
    with page.expect_download() as download:
        page.click("#speak-1-wav")
    assert soundfile.info(download.value.path()).duration == pytest.approx(5, abs=0.04)
    page.close()
