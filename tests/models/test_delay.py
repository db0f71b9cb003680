"""The delay pattern, against transformers' own and written out by hand."""

import pytest
import torch
from transformers import MusicgenDecoderConfig, MusicgenForCausalLM

from hfaudio.models.delay import apply_delay, check_delay, delays, undo_delay

PAD = 9


def test_pattern_written_out() -> None:
    codes = torch.tensor([[[1, 2, 3, 4], [5, 6, 7, 8], [1, 1, 2, 2]]])
    delayed = [[1, 2, 3, 4, PAD, PAD], [PAD, 5, 6, 7, 8, PAD], [PAD, PAD, 1, 1, 2, 2]]
    assert apply_delay(codes, PAD).tolist() == [delayed]


def test_left_and_right_share_their_delay() -> None:
    assert delays(8, channels=2) == [0, 0, 1, 1, 2, 2, 3, 3]
    codes = torch.arange(8).view(1, 4, 2)
    delayed = [[0, 1, PAD], [2, 3, PAD], [PAD, 4, 5], [PAD, 6, 7]]
    assert apply_delay(codes, PAD, channels=2).tolist() == [delayed]


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("frames", [1, 5, 40])
@pytest.mark.parametrize("num_codebooks", [2, 4, 8])
def test_undone_it_gives_the_codes_again(num_codebooks: int, frames: int, channels: int) -> None:
    codes = torch.randint(0, PAD, (3, num_codebooks, frames))
    delayed = apply_delay(codes, PAD, channels)
    assert delayed.shape == (3, num_codebooks, frames + num_codebooks // channels - 1)
    assert undo_delay(delayed, channels).equal(codes)


@pytest.mark.parametrize("channels", [1, 2])
def test_equals_the_mask_of_transformers(channels: int) -> None:
    """`build_delay_pattern_mask` puts a start of sequence in front of the same pattern."""
    config = MusicgenDecoderConfig(
        vocab_size=PAD, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, ffn_dim=8, pad_token_id=PAD,
        bos_token_id=PAD, num_codebooks=4, audio_channels=channels,
    )  # fmt: skip
    codes = torch.randint(0, PAD, (2, 4, 10))
    prompt = torch.nn.functional.pad(codes, (1, 0), value=PAD).flatten(0, 1)
    late = delays(4, channels)[-1]
    _, mask = MusicgenForCausalLM(config).build_delay_pattern_mask(prompt, PAD, max_length=11 + late)
    assert mask.view(2, 4, -1)[..., 1:].equal(apply_delay(codes, PAD, channels))


def test_labels_without_the_pattern_are_refused() -> None:
    codes = torch.randint(0, PAD, (2, 4, 12))
    check_delay(apply_delay(codes, PAD).transpose(1, 2), PAD)
    with pytest.raises(ValueError, match="delay pattern"):
        check_delay(codes.transpose(1, 2), PAD)
    twice = apply_delay(apply_delay(codes, PAD), PAD)
    with pytest.raises(ValueError, match="delay pattern"):
        check_delay(twice.transpose(1, 2), PAD)
    with pytest.raises(ValueError, match="delay pattern"):
        check_delay(apply_delay(codes, PAD).transpose(1, 2), PAD, channels=2)


def test_labels_of_clips_that_end_earlier_pass() -> None:
    labels = torch.full((2, 15, 4), -100)
    for row, frames in enumerate((12, 5)):
        labels[row, : frames + 3] = apply_delay(torch.randint(0, PAD, (1, 4, frames)), PAD)[0].T
    check_delay(labels, PAD)
