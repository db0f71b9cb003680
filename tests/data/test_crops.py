import io

import datasets
import numpy as np
import pytest
import soundfile
import torch

from hfaudio.data.crops import CropEncoder, CropExamples, stack_crops
from hfaudio.data.datasets import RowCheck, check_rows

RATE = 8000


def ramp(seconds: float, channels: int = 1) -> np.ndarray:
    """(channels, N): each sample tells its place, the second channel by its negative."""
    place = np.arange(round(seconds * RATE)) / (30 * RATE)
    return np.stack([place, -place][:channels]).astype(np.float32)


def rows(*lengths: float, channels: int = 1) -> datasets.Dataset:
    audio = []
    for seconds in lengths:
        file = io.BytesIO()
        soundfile.write(file, ramp(seconds, channels).T, RATE, format="WAV", subtype="FLOAT")
        audio.append({"bytes": file.getvalue(), "path": None})
    return datasets.Dataset.from_dict({"audio": audio, "id": [str(n) for n in range(len(audio))]})


def examples(*lengths: float, keep: float = 0, channels: int = 1, seed: int = 0, crop: float = 1.0) -> CropExamples:
    check = RowCheck(RATE, max_seconds=60, labelled=False, channels=channels)
    usable, _ = check_rows(rows(*lengths, channels=channels), check)
    return CropExamples(usable, check, CropEncoder(crop, RATE, seed), keep_seconds=keep)


def starts(data: CropExamples) -> list[float]:
    """Seconds at which the crops begin."""
    return [float(data[index]["input_values"][0, 0]) * 30 for index in range(len(data))]


def test_an_epoch_has_a_crop_in_every_slot_of_every_recording() -> None:
    data = examples(3.5, 0.4, 1.0)
    assert len(data) == 5  # three slots, and one each
    found = starts(data)
    room = 2.5 / 3  # of each slot
    assert all(slot * room <= found[slot] <= (slot + 1) * room for slot in range(3))
    assert found[3:] == [0, 0]
    assert all(data[index]["input_values"].shape == (1, RATE) for index in range(5))


def test_short_recordings_get_silence_behind() -> None:
    crop = examples(0.4)[0]["input_values"][0]
    np.testing.assert_allclose(crop[:3200], ramp(0.4)[0], atol=1e-7)
    assert not crop[3200:].any()


def test_kept_audio_gives_the_same_crops_as_files() -> None:
    first, second = examples(3.5, 0.4, 2.0), examples(3.5, 0.4, 2.0, keep=100)
    assert second.kept is not None
    for index in range(len(first)):
        np.testing.assert_allclose(first[index]["input_values"], second[index]["input_values"], atol=2e-4 / 30)


def test_crops_depend_on_epoch_and_seed_and_on_nothing_else() -> None:
    data = examples(9.0)
    first = starts(data)
    assert starts(data) == first
    data.set_epoch(1)
    assert starts(data) != first
    assert starts(examples(9.0, seed=1)) != first


def test_stereo_keeps_its_channels_and_mono_is_their_mean() -> None:
    stereo = examples(2.0, channels=2, keep=100)[0]["input_values"]
    assert stereo.shape == (2, RATE)
    np.testing.assert_allclose(stereo[0], -stereo[1])
    check = RowCheck(RATE, labelled=False)
    usable, _ = check_rows(rows(2.0, channels=2), check)
    assert not CropExamples(usable, check, CropEncoder(1.0, RATE))[0]["input_values"].any()


def test_the_encoder_cuts_streamed_rows() -> None:
    encoder = CropEncoder(1.0, RATE)
    crops = [encoder(ramp(5.0)[0], "", {"id": "a"}, epoch=epoch)["input_values"] for epoch in range(20)]
    begins = [float(crop[0, 0]) * 30 for crop in crops]
    assert min(begins) < 1 and max(begins) > 3 and max(begins) <= 4
    assert len(set(begins)) == 20
    assert encoder(ramp(0.5)[0], "", {"id": "a"}, epoch=0)["input_values"].shape == (1, RATE)


def test_batches_go_over_all_crops_once_on_two_ranks() -> None:
    data = examples(3.5, 2.0, 4.0)
    seen = [index for rank in (0, 1) for batch in data.batches(None, 2, 2, rank, 0, 1) for index in batch]
    assert len(seen) == len(set(seen)) == len(data) - len(data) % 2
    batch = stack_crops([data[0], data[1]])
    assert batch["input_values"].shape == (2, 1, RATE)
    assert batch["input_values"].dtype == torch.float32


def test_a_file_that_was_replaced_is_named() -> None:
    data = examples(3.0)
    data.rows = data.rows.map(lambda row: {"audio": {"bytes": b"no audio", "path": "tune.wav"}})
    with pytest.raises(RuntimeError, match=r"row 0 .* refused .*corrupt"):
        data[0]
