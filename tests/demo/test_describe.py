"""Descriptions by a model that captions sounds; the demo has no tab for what there is no model of."""

from pathlib import Path

import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError

from hfaudio.demo.app import served
from hfaudio.demo.settings import DemoSettings


def test_a_captioning_model_describes_and_nothing_else_is_shown(
    small_whisper: Path, spoken: Path, tmp_path: Path
) -> None:
    """An untrained model says something, of whatever length."""
    with served(DemoSettings(asr=None, music=None, describe=str(small_whisper))) as address:
        client = Client(address, verbose=False)
        assert set(client.view_api(return_format="dict", print_info=False)["named_endpoints"]) == {"/describe"}
        assert isinstance(client.predict(file=handle_file(spoken), api_name="/describe"), str)
        (tmp_path / "text.wav").write_text("no sound")
        with pytest.raises(AppError, match="cannot be read"):
            client.predict(file=handle_file(tmp_path / "text.wav"), api_name="/describe")
