"""What MusicGen learns from and is checked for, against transformers' own loss, codec and null condition."""

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    EncodecConfig,
    EncodecModel,
    MusicgenConfig,
    MusicgenDecoderConfig,
    MusicgenForConditionalGeneration,
    MusicgenMelodyConfig,
    MusicgenMelodyDecoderConfig,
    MusicgenMelodyForConditionalGeneration,
    T5Config,
)

from hfaudio.models.codec import bandwidths
from hfaudio.models.musicgen import (
    check_codec,
    check_conditions,
    codebook_losses,
    codec_bandwidth,
    decode_codes,
    encode_audio,
    label_codes,
    null_chroma,
    window_frames,
)

SIZE, K = 16, 4  # codes of a codebook, codebooks


def tiny_codec(**changes: Any) -> EncodecModel:
    config = EncodecConfig(
        sampling_rate=800, num_filters=2, hidden_size=4, codebook_size=SIZE, upsampling_ratios=[4, 2],
        num_lstm_layers=1, use_causal_conv=False,
    )  # fmt: skip
    config.target_bandwidths = bandwidths(8, SIZE, config.frame_rate)
    for name, value in changes.items():
        setattr(config, name, value)
    torch.manual_seed(0)
    codec = EncodecModel(config).eval()
    for layer in codec.quantizer.layers:
        layer.codebook.embed.normal_()
    return codec


def tiny_musicgen(channels: int = 1, melody: bool = False) -> Any:
    codec = tiny_codec()
    text = T5Config(vocab_size=20, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    decoder_class = MusicgenMelodyDecoderConfig if melody else MusicgenDecoderConfig
    decoder = decoder_class(
        vocab_size=SIZE, hidden_size=24, num_hidden_layers=2, num_attention_heads=2, ffn_dim=32,
        num_codebooks=K * channels, audio_channels=channels, pad_token_id=SIZE, bos_token_id=SIZE, dropout=0.0,
    )  # fmt: skip
    decoder.decoder_start_token_id = SIZE
    parts: dict[str, Any] = {"text_encoder": text, "audio_encoder": codec.config, "decoder": decoder}
    model: Any
    if melody:
        config = MusicgenMelodyConfig(**parts, num_chroma=12, chroma_length=6)
        model = MusicgenMelodyForConditionalGeneration(config)
    else:
        model = MusicgenForConditionalGeneration(MusicgenConfig(**parts))
    model.audio_encoder.load_state_dict(codec.state_dict())
    return model.eval()


def words(*lengths: int) -> dict[str, Tensor]:
    ids = torch.randint(3, 20, (len(lengths), max(lengths)), generator=torch.Generator().manual_seed(1))
    mask = torch.tensor([[1] * n + [0] * (max(lengths) - n) for n in lengths])
    return {"input_ids": ids * mask, "attention_mask": mask}


@pytest.mark.parametrize("channels", [1, 2])
def test_loss_is_that_of_transformers(channels: int) -> None:
    model = tiny_musicgen(channels)
    batch = label_codes([torch.randint(0, SIZE, (K * channels, 11)) for _ in range(3)], model.decoder.config)
    with torch.no_grad():
        stock = model(**words(4, 2, 3), labels=batch["labels"].clone()).loss
        logits = model(**words(4, 2, 3), decoder_input_ids=batch["decoder_input_ids"]).logits
    torch.testing.assert_close(codebook_losses(logits, batch["labels"]).mean(), stock)


def test_a_short_clip_has_the_loss_it_has_alone() -> None:
    model = tiny_musicgen()
    clips = [torch.randint(0, SIZE, (K, frames)) for frames in (12, 5)]
    text = words(3, 3)
    together = label_codes(clips, model.decoder.config)
    alone = label_codes(clips[1:], model.decoder.config)
    with torch.no_grad():
        both = codebook_losses(
            model(**text, decoder_input_ids=together["decoder_input_ids"]).logits, together["labels"]
        )
        one = codebook_losses(
            model(
                input_ids=text["input_ids"][1:],
                attention_mask=text["attention_mask"][1:],
                decoder_input_ids=alone["decoder_input_ids"],
            ).logits,
            alone["labels"],
        )
    torch.testing.assert_close(both[1], one[0])


def test_null_condition_is_the_one_that_generate_compares_with() -> None:
    """A row of zeros in the mask gives the logits of `generate`'s null rows: encoder states of zeros, no mask."""
    model = tiny_musicgen()
    text = words(4)
    start = torch.randint(0, SIZE, (K, 5))
    model.generation_config.guidance_scale = 3.0
    with torch.no_grad():
        ours = model(input_ids=text["input_ids"], attention_mask=torch.zeros(1, 4).long(), decoder_input_ids=start)
        prepared = model._prepare_text_encoder_kwargs_for_generation(
            text["input_ids"],
            {"attention_mask": text["attention_mask"]},
            "input_ids",
            model.generation_config,
        )
        theirs = model(
            encoder_outputs=prepared["encoder_outputs"],
            attention_mask=prepared["attention_mask"],
            decoder_input_ids=start.repeat(2, 1),
        )
    conditional, null = theirs.logits.chunk(2)
    torch.testing.assert_close(ours.logits, null)
    assert (conditional - null).abs().max() > 1e-5


def test_null_melody_is_the_one_of_transformers() -> None:
    model = tiny_musicgen(melody=True)
    start = torch.randint(0, SIZE, (K, 5))
    with torch.no_grad():
        ours = model(**words(3), input_features=null_chroma(torch.rand(1, 6, 12)), decoder_input_ids=start).logits
        theirs = model(**words(3), decoder_input_ids=start).logits  # no melody given
    torch.testing.assert_close(ours, theirs)


def test_stereo_codes_alternate_and_come_back_on_their_sides() -> None:
    codec = tiny_codec()
    audio = torch.randn(2, 2, 96)
    codes = encode_audio(codec, audio, 2 * K)
    assert codes.shape == (2, 2 * K, 12)
    left, right = (encode_audio(codec, audio[:, side : side + 1], K) for side in (0, 1))
    assert codes[:, ::2].equal(left)
    assert codes[:, 1::2].equal(right)
    decoded = decode_codes(codec, codes, channels=2)
    torch.testing.assert_close(decoded[:, 1:], decode_codes(codec, right))


def test_codes_are_those_of_the_first_codebooks() -> None:
    codec = tiny_codec()
    audio = torch.randn(1, 1, 96)
    assert encode_audio(codec, audio, 3).equal(encode_audio(codec, audio, 8)[:, :3])
    assert codec_bandwidth(codec, 3) == pytest.approx(3 * 4 * 100 / 1000)
    with pytest.raises(ValueError, match=r"has 8 codebooks .* 9 are asked for"):
        codec_bandwidth(codec, 9)


def test_codec_of_another_checkpoint_is_refused() -> None:
    decoder = tiny_musicgen().decoder.config
    check_codec(tiny_codec(), decoder)
    for changes, message in (
        ({"codebook_size": 32}, "32 codes in a codebook and the decoder 16"),
        ({"audio_channels": 2}, "2 channels"),
        ({"normalize": True, "chunk_length_s": 1.0}, "chunks of its own"),
    ):
        with pytest.raises(ValueError, match=message):
            check_codec(tiny_codec(**changes), decoder)


def test_conditions_that_change_nothing_are_found() -> None:
    model = tiny_musicgen(melody=True)
    assert set(check_conditions(model)) == {"text", "melody"}
    model.audio_enc_to_dec_proj.weight.data.zero_()
    with pytest.raises(ValueError, match=r"conditions \(melody\) change no logit"):
        check_conditions(model)
    model = tiny_musicgen()
    model.enc_to_dec_proj.weight.data.zero_()
    with pytest.raises(ValueError, match=r"conditions \(text\) change no logit"):
        check_conditions(model)


def test_window_is_what_generate_plays_by_itself() -> None:
    model = tiny_musicgen()
    generation = model.generation_config
    generation.pad_token_id = generation.bos_token_id = generation.decoder_start_token_id = SIZE
    generation.max_length = 20
    audio = model.generate(**words(3), do_sample=False)
    assert audio.shape[-1] == window_frames(model) * 8
