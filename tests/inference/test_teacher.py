from pathlib import Path

import numpy as np
import pytest
import torch

from hfaudio.inference.teacher import Label, Teacher

RATE = 16_000


@pytest.mark.parametrize(
    ("label", "reason"),
    [
        (Label("good morning", -0.1, 0.9), None),
        (Label("", -0.1, 1.0), "no text"),
        (Label("no no no no no", -0.1, 1.0), "loop"),
        (Label("supercalifragilistic" * 3, -0.1, 1.0), "too many characters a second"),
        (Label("good morning", -0.6, 0.9), "low confidence"),
        (Label("good morning", -0.1, 0.5), "two hearings disagree"),
    ],
)
def test_why_a_label_is_not_used(label, reason):
    assert label.refusal(1.0, min_log_prob=-0.5, min_agreement=0.8) == reason


@pytest.fixture(scope="module")
def clips() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [0.1 * rng.standard_normal(round(seconds * RATE)).astype("f4") for seconds in (0.4, 2.0, 1.0)]


def test_labels_come_in_order_whatever_the_batches(small_whisper: Path, clips):
    labels = [Teacher(small_whisper, batch_size=size, device="cpu")(clips) for size in (1, 3)]
    assert [label.text for label in labels[0]] == [label.text for label in labels[1]]
    for a, b in zip(*labels, strict=True):
        assert a.log_prob == pytest.approx(b.log_prob, abs=1e-4)
        assert a.log_prob < 0 and 0 <= a.agreement <= 1


def test_a_ctc_teacher_is_sure_by_its_frames(short_sighted_folders, clips):
    teacher = Teacher(short_sighted_folders["lstm"], device="cpu", normalizer="basic")
    labels = teacher(clips)
    assert teacher.is_ctc
    with torch.no_grad():
        inputs = teacher.processor.feature_extractor(clips[1], sampling_rate=RATE, return_tensors="pt")
        best = teacher.model(**inputs).logits.log_softmax(-1).max(-1).values.mean()
    assert labels[1].log_prob == pytest.approx(float(best), abs=1e-4)
