"""What `LstmForCTC` and `WhisperForCTC` have in common."""

from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCTC, PreTrainedModel, WhisperConfig, WhisperModel

import hfaudio.auto  # noqa: F401
from hfaudio.models import LstmCTCConfig, LstmForCTC, WhisperCTCConfig, WhisperForCTC
from hfaudio.models.lstm_ctc import BidirectionalLayer, reversal

TINY_WHISPER = {
    "d_model": 32,
    "encoder_layers": 2,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 64,
    "decoder_layers": 1,
    "decoder_attention_heads": 2,
    "decoder_ffn_dim": 64,
}


def make(name: str) -> PreTrainedModel:
    torch.manual_seed(0)
    if name == "lstm":
        return LstmForCTC(LstmCTCConfig(vocab_size=11, hidden_size=24, conv_channels=16))
    return WhisperForCTC(WhisperCTCConfig(vocab_size=11, **TINY_WHISPER))


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    features = torch.randn(3, 61, 80, generator=torch.Generator().manual_seed(1))
    mask = torch.ones(3, 61, dtype=torch.long)
    mask[1, 38:] = 0
    mask[2, 7:] = 0
    return features, mask


both = pytest.mark.parametrize("name", ["lstm", "whisper"])


@both
def test_an_example_alone_equals_itself_in_a_padded_batch(name: str) -> None:
    model, (features, mask) = make(name).eval(), batch()
    features[1, 38:] = 9.0  # whatever stands in the padding
    together = model(features, mask).logits
    for i, length in enumerate((61, 38, 7)):
        alone = model(features[i : i + 1, :length]).logits[0]
        torch.testing.assert_close(together[i, : len(alone)], alone, atol=1e-5, rtol=1e-4)
        assert (together[i, len(alone) :].argmax(-1) == model.config.pad_token_id).all()
        assert len(alone) == model._get_feat_extract_output_lengths(torch.tensor(length))


@both
def test_padding_gives_no_gradient(name: str) -> None:
    model, (features, mask) = make(name), batch()
    features.requires_grad_()
    model(features, mask, torch.tensor([[1, 2], [3, -100], [4, -100]])).loss.backward()
    assert features.grad[0].abs().sum() > 0
    assert not features.grad[1, 38:].any() and not features.grad[2, 7:].any()


@both
def test_gradient_checkpointing_changes_no_gradient(name: str) -> None:
    features, mask = batch()
    labels = torch.tensor([[1, 2], [3, -100], [4, -100]])
    gradients = []
    for checkpointing in (False, True):
        model = make(name).train()
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        if checkpointing:
            model.gradient_checkpointing_enable()
            assert model.is_gradient_checkpointing
        model(features, mask, labels).loss.backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.requires_grad})
    for parameter, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][parameter], gradient, msg=parameter)


@both
def test_every_trainable_weight_gets_a_gradient_and_bfloat16_autocast_works(name: str) -> None:
    model, (features, mask) = make(name).train(), batch()
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(features, mask, torch.tensor([[1, 2], [3, 4], [4, -100]])).loss
    loss.backward()
    assert loss.dtype == torch.float32
    assert not [n for n, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]


@both
def test_saved_and_opened_by_auto_classes(name: str, tmp_path: Path) -> None:
    model, (features, mask) = make(name).eval(), batch()
    model.save_pretrained(tmp_path)
    opened = AutoModelForCTC.from_pretrained(tmp_path).eval()
    assert type(opened) is type(model) and type(AutoConfig.from_pretrained(tmp_path)) is type(model.config)
    assert torch.equal(opened(features, mask).logits, model(features, mask).logits)


@both
def test_head_is_made_anew_for_another_vocabulary(name: str, tmp_path: Path) -> None:
    make(name).save_pretrained(tmp_path)
    opened = AutoModelForCTC.from_pretrained(tmp_path, vocab_size=17, ignore_mismatched_sizes=True)
    assert opened.lm_head.out_features == 17 and torch.isfinite(opened.lm_head.weight).all()


def test_lstm_layer_equals_a_packed_bidirectional_lstm() -> None:
    torch.manual_seed(0)
    layer, packed = BidirectionalLayer(6, dropout=0.0), torch.nn.LSTM(6, 6, batch_first=True, bidirectional=True)
    for name, parameter in packed.named_parameters():
        ours = layer.backwards if name.endswith("_reverse") else layer.forwards
        parameter.data = getattr(ours, name.removesuffix("_reverse")).data
    hidden, lengths = torch.randn(3, 9, 6), torch.tensor([9, 4, 1])
    sequence = torch.nn.utils.rnn.pack_padded_sequence(layer.norm(hidden), lengths, batch_first=True)
    expected, _ = torch.nn.utils.rnn.pad_packed_sequence(packed(sequence)[0], batch_first=True)
    result = layer(hidden, reversal(lengths, 9))
    for i, length in enumerate(lengths):
        torch.testing.assert_close(result[i, :length], (hidden + layer.project(expected))[i, :length])


def test_samples_per_logit_frame() -> None:
    assert LstmCTCConfig(hop_length=160, conv_strides=[2, 2]).inputs_to_logits_ratio == 640
    assert WhisperCTCConfig().inputs_to_logits_ratio == 320


def test_blank_bias_is_set() -> None:
    model = LstmForCTC(LstmCTCConfig(vocab_size=11, hidden_size=24, conv_channels=16, blank_bias=-3.0))
    assert model.lm_head.bias[0].item() == -3.0


def test_whisper_encoder_is_taken_over_and_equals_the_stock_one_on_30_seconds(tmp_path: Path) -> None:
    torch.manual_seed(0)
    whisper = WhisperModel(
        WhisperConfig(vocab_size=20, pad_token_id=0, max_source_positions=60, **TINY_WHISPER)
    ).eval()
    whisper.save_pretrained(tmp_path)
    ours = WhisperForCTC.from_whisper(str(tmp_path), vocab_size=11).eval()
    features = torch.randn(2, 120, 80)
    expected = whisper.encoder(features.transpose(1, 2)).last_hidden_state
    torch.testing.assert_close(ours.encoder(features, torch.tensor([120, 120]))[0], expected)
    with pytest.raises(ValueError, match="got 122 mel frames, this encoder has positions for 120"):
        ours(torch.randn(1, 122, 80))


def test_frozen_feature_encoder_keeps_its_convolutions() -> None:
    model = make("whisper")
    model.freeze_feature_encoder()
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    assert "encoder.layers.0.fc1.weight" in trainable and not any("conv" in name for name in trainable)
