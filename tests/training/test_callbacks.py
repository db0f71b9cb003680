import logging
import math
from pathlib import Path
from types import SimpleNamespace

import pytest

from hfaudio.training.arguments import AudioTrainingArguments
from hfaudio.training.callbacks import CTCMonitor, TrainingDivergedError


@pytest.fixture
def arguments(tmp_path: Path) -> AudioTrainingArguments:
    return AudioTrainingArguments(output_dir=str(tmp_path), learning_rate=0.5, warmup_steps=0, max_grad_norm=0)


def log(monitor: CTCMonitor, arguments: AudioTrainingArguments, step: int, **logs: float) -> None:
    monitor.on_log(arguments, SimpleNamespace(global_step=step), SimpleNamespace(), logs=logs)


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_with_its_probable_causes(loss: float, arguments) -> None:
    with pytest.raises(TrainingDivergedError, match=r"at step 7; .*learning rate \(0.5\).*no warm-up.*hardly clipped"):
        log(CTCMonitor(), arguments, 7, loss=loss, grad_norm=1.0)


def test_an_overflowing_gradient_is_no_news_under_float16_only(arguments) -> None:
    with pytest.raises(TrainingDivergedError, match="grad_norm is inf"):
        log(CTCMonitor(), arguments, 7, loss=1.0, grad_norm=math.inf)
    arguments.fp16 = True
    log(CTCMonitor(), arguments, 7, loss=1.0, grad_norm=math.inf)


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def test_blanks_at_the_start_are_no_news_but_lasting_ones_are_reported_once(arguments, caplog) -> None:
    monitor = CTCMonitor(patience=100)
    for step in (20, 60, 100):
        log(monitor, arguments, step, loss=3.0, blank_share=1.0)
    assert not messages(caplog)
    for step in (120, 140):
        log(monitor, arguments, step, loss=3.0, blank_share=1.0)
    assert len(messages(caplog)) == 1 and "too few steps yet" in messages(caplog)[0]


def test_a_model_that_falls_silent_again_is_reported_at_once(arguments, caplog) -> None:
    monitor = CTCMonitor(patience=1000)
    for step, share in ((10, 1.0), (20, 0.8), (30, 1.0)):
        log(monitor, arguments, step, loss=3.0, blank_share=share)
    assert len(messages(caplog)) == 1 and "had begun to spell" in messages(caplog)[0]
