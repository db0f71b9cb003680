"""`hfaudio demo` and `hfaudio publish` as commands: options, mistakes, and a page that answers."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from hfaudio import cli
from hfaudio.demo.settings import Limits


def test_limits_are_fields_with_the_defaults_that_help_tells() -> None:
    limits = Limits()
    for name, option in cli.LIMIT_OPTIONS.items():
        told = re.search(r"\(([\d.]+)\)$", option["help"])
        assert told is not None and float(told[1]) == getattr(limits, name)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--adapter", "folk"], "give a name and a folder"),
        (["--auth", "me"], "a name and a password"),
        (["--asr", "none", "--music", "none"], "the demo has no model"),
        (["--asr", "bundled", "--music", "none", "--adapter", "a=b"], "adapters are of the music model"),
        (["--file_mb", "0"], "file_mb must be above 0"),
    ],
)
def test_mistakes_are_told(options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["demo", *options]) == 2
    assert message in capsys.readouterr().err


def test_a_folder_without_a_model_is_not_published(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["publish", str(tmp_path), "user/name"]) == 2
    assert "neither config.json nor adapter_config.json" in capsys.readouterr().err
    assert cli.main(["publish", str(tmp_path), "user/name", "--clips", str(tmp_path / "none.wav")]) == 2
    assert "there is no file" in capsys.readouterr().err


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_the_page_asks_for_a_login_and_leaves_nothing(tmp_path: Path, stop: signal.Signals) -> None:
    """As a file, with a password, until it is interrupted or a service manager ends it."""
    app = Path(__file__).parents[1] / "demo" / "app.py"
    environment = os.environ | {"TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [sys.executable, app, "--auth", "me:secret", "--music", "none"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        said = process.stdout.readline()
        address = re.search(r"http://\S+", said)
        assert address is not None, process.stderr.read() if process.stderr else ""
        assert "hfaudio-demo-" in " ".join(path.name for path in tmp_path.iterdir())
        with pytest.raises(HTTPError, match="401"):
            urlopen(address[0] + "config")
        assert b"gradio" in urlopen(address[0]).read()  # the page itself asks for the name
    finally:
        process.send_signal(stop)
        process.wait(30)
    assert process.returncode == 0 and list(tmp_path.glob("hfaudio-demo-*")) == []
