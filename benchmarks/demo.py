"""How the demo holds up: cold start, captions of a minute, live captions in a browser, many clients at once.

    python benchmarks/demo.py                                    # needs a Chromium (Debian: apt install chromium)
    python benchmarks/demo.py --parts start captions clients     # without one

The figures go to standard output as JSON. The microphone of the browser plays bundled test speech; what the server
received is compared with it sample by sample. In the part "slow" the decoder takes two seconds for a second of sound.
"""

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import numpy as np
import soundfile
from live_captions import MICROPHONE_RATE, RATE, bundled_speech

from hfaudio.audio.resample import resample
from hfaudio.metrics import word_error_rate

PARTS = ("start", "captions", "live", "slow", "clients")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--seconds", type=float, default=60.0, help="of speech in captions and live captions")
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--requests", type=int, default=200, help="of all clients together")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        speech = Path(folder, "speech.wav")
        text, begins = spoken(speech, arguments.seconds)
        figures: dict[str, Any] = {}
        if "start" in arguments.parts:
            figures["start"] = cold_start()
        if "captions" in arguments.parts:
            figures["captions"] = captions(speech, text)
        if "live" in arguments.parts:
            figures["live"] = live(speech, text, begins, slow=0)
        if "slow" in arguments.parts:
            figures["slow"] = live(speech, text, begins, slow=2)
        if "clients" in arguments.parts:
            figures["clients"] = many_clients(arguments.clients, arguments.requests)
    print(json.dumps(figures, indent=2))


def spoken(path: Path, seconds: float) -> tuple[str, float]:
    """Write bundled test clips with pauses of a second; their text, and the second at which it begins."""
    speech = bundled_speech(seconds, pause=1.0)
    soundfile.write(path, resample(speech.samples, RATE, MICROPHONE_RATE), MICROPHONE_RATE)
    return str(speech.text), speech.begins


@contextmanager
def demo_process(*options: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """`hfaudio demo` on a free port; yields its address once the page answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "hfaudio.cli", "demo", "--port", str(port), *options]
    process = subprocess.Popen(command, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}/"
    try:
        while True:
            try:
                urlopen(address).read()
                break
            except URLError:
                if process.poll() is not None:
                    raise RuntimeError(f"`{' '.join(command)}` ended with {process.returncode}") from None
                time.sleep(0.05)
        yield address, process
    finally:
        process.terminate()
        process.wait()


def cold_start(repeats: int = 3) -> dict[str, float]:
    """Seconds from the command to a page that answers, and to one whose button can be pressed."""
    answered, usable = [], []
    for _ in range(repeats):
        start = time.perf_counter()
        with demo_process() as (address, _):
            answered.append(time.perf_counter() - start)
            if CHROMIUM is None:
                continue
            with opened_page(address) as page:
                page.wait_for_selector("#caption-button")
                usable.append(time.perf_counter() - start)
    figures = {"page_answers_seconds": statistics.median(answered)}
    return figures | ({"page_usable_seconds": statistics.median(usable)} if usable else {})


@contextmanager
def opened_page(address: str, *switches: str) -> Iterator[Any]:
    """The page in a headless browser."""
    from playwright.sync_api import sync_playwright

    if CHROMIUM is None:
        raise SystemExit("this part needs a Chromium (Debian: apt install chromium); leave it out by --parts")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", *switches])
        page = browser.new_page()
        page.goto(address)
        yield page
        browser.close()


def captions(speech: Path, text: str) -> dict[str, float]:
    """Seconds for captions of a recording, sent by a program: the first time, with opening the model, and later."""
    from gradio_client import Client, handle_file

    with demo_process() as (address, _), tempfile.TemporaryDirectory() as folder:
        client = Client(address, verbose=False, download_files=folder)
        taken = []
        for _ in range(4):
            start = time.perf_counter()
            transcript, _, _ = client.predict(file=handle_file(speech), api_name="/captions")
            taken.append(time.perf_counter() - start)
    wer = word_error_rate([text], [transcript["text"]]).value
    return {
        "recording_seconds": transcript["seconds"],
        "first_seconds": taken[0],
        "later_seconds": statistics.median(taken[1:]),
        "wer": wer,
    }


def live(speech: Path, text: str, begins: float, slow: float) -> dict[str, float]:
    """The whole recording by the browser's microphone. `slow` seconds of sleep are added for each second decoded."""
    import hfaudio.demo.live as live_module
    from hfaudio.demo.app import served
    from hfaudio.demo.settings import DemoSettings
    from hfaudio.inference.transcribe import CTCRecognizer

    received: list[tuple[float, int, np.ndarray]] = []
    hear, forward = live_module.LiveSession.hear, CTCRecognizer.forward

    def recorded_hear(session: Any, number: int, sample_rate: int, samples: np.ndarray) -> None:
        if number == session._number and len(samples):
            received.append((time.perf_counter(), sample_rate, samples.astype(np.float32)))
        hear(session, number, sample_rate, samples)

    def slow_forward(recognizer: Any, clips: Any) -> np.ndarray:
        time.sleep(slow * sum(len(clip) for clip in clips) / recognizer.rate)
        return forward(recognizer, clips)

    live_module.LiveSession.hear = recorded_hear  # type: ignore[method-assign]
    CTCRecognizer.forward = slow_forward  # type: ignore[method-assign]
    seconds = soundfile.info(speech).duration
    fake = (
        "--use-fake-device-for-media-stream",
        "--use-fake-ui-for-media-stream",
        f"--use-file-for-fake-audio-capture={speech}%noloop",
    )
    with served(DemoSettings(music=None)) as address, opened_page(address, *fake) as page:
        page.get_by_role("tab", name="Live captions", exact=True).click()
        page.click("#live [data-part=button]")
        start = time.perf_counter()
        first_text = None
        while time.perf_counter() - start < seconds + 1:  # to beyond the end of the file
            page.wait_for_timeout(50)
            if first_text is None and page.locator("#live .live p").count():
                shown = page.inner_text("#live .live p")
                first_text = None if "…" in shown else time.perf_counter()
        page.click("#live [data-part=button]")
        page.wait_for_selector("#live [data-part=files]:not([hidden])", timeout=1e3 * (60 + 4 * slow * seconds))
        shown = page.inner_text("#live .live p")
        latency = float(page.inner_text("#live [data-figure=latency]"))
    live_module.LiveSession.hear, CTCRecognizer.forward = hear, forward  # type: ignore[method-assign]
    place, spread, share = compared(received, speech)
    figures = {
        "sent_seconds": seconds,
        "received_seconds": sum(len(samples) / rate for _, rate, samples in received),
        "received_share": share,
        "chunks": len(received),
        "largest_shift_samples": spread,
        "last_latency_seconds": latency,
        "wer": word_error_rate([text], [shown]).value,
    }
    if first_text is not None:
        # Speech begins `begins` seconds into the file, of which the first chunk begins at `place`, half a second
        # before it arrives.
        began = received[0][0] - len(received[0][2]) / received[0][1] + begins - place
        figures["first_partial_seconds"] = first_text - began
    return figures


def compared(received: list[tuple[float, int, np.ndarray]], speech: Path) -> tuple[float, int, float]:
    """Where in the file (seconds) the received sound begins, by how many samples later chunks are shifted against the
    first, and the share of the file's samples between begin and end that was received."""
    source, rate = soundfile.read(speech, dtype="float32")
    sound = np.concatenate([samples for _, _, samples in received]) / 32768
    sound = resample(sound.astype(np.float32), received[0][1], rate)  # the browser may run at 44.1 kHz

    def lag(first: int, size: int) -> int:
        """Where in the file a piece of the received sound is, by cross-correlation."""
        piece = sound[first : first + size]
        length = 1 << (len(source) + size).bit_length()
        product = np.fft.irfft(np.fft.rfft(source, length) * np.conj(np.fft.rfft(piece, length)), length)
        return int(product[: len(source)].argmax())

    size = 2 * rate  # two seconds hold some speech, and are nowhere repeated
    starts = range(0, len(sound) - size, size)
    lags = [lag(first, size) - first for first in starts if np.abs(sound[first : first + size]).max() > 0.02]
    begin = lags[0]
    expected = len(source) - max(0, begin)
    return begin / rate, max(abs(value - begin) for value in lags), min(len(sound), expected) / expected


def many_clients(clients: int, requests: int) -> dict[str, Any]:
    """Requests of several clients at once: how they end, how long they take, and what the server's memory grows by."""
    from gradio_client import Client, handle_file

    clip = Path(__file__).parents[1] / "hfaudio" / "demo" / "three_prompts.ogg"
    outcomes: dict[str, int] = {}
    taken: list[float] = []
    lock = threading.Lock()
    with demo_process() as (address, process), tempfile.TemporaryDirectory() as folder:
        made = [Client(address, verbose=False, download_files=folder) for _ in range(clients)]

        def ask(number: int) -> None:
            start = time.perf_counter()
            try:
                transcript, _, _ = made[number % clients].predict(file=handle_file(clip), api_name="/captions")
                outcome = "ok" if transcript["text"].startswith("a dreamy organ tune") else "wrong text"
            except Exception as error:  # what the server says
                outcome = str(error)
            with lock:
                outcomes[outcome] = outcomes.get(outcome, 0) + 1
                taken.append(time.perf_counter() - start)

        with ThreadPoolExecutor(clients) as executor:
            list(executor.map(ask, range(clients)))  # every client once: models, compiled code and pools are there
            outcomes.clear()
            taken.clear()
            before = memory_mb(process.pid)
            start = time.perf_counter()
            list(executor.map(ask, range(requests)))
            seconds = time.perf_counter() - start
        after = memory_mb(process.pid)
    return {
        "clients": clients,
        "outcomes": outcomes,
        "requests_per_second": requests / seconds,
        "median_seconds": statistics.median(taken),
        "memory_mb": after,
        "memory_growth_mb": after - before,
    }


def memory_mb(pid: int) -> float:
    """Resident memory of a process (Linux)."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


if __name__ == "__main__":
    main()
