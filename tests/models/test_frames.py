import numpy as np
import pytest
import torch
from transformers import (
    HubertConfig,
    HubertForCTC,
    ParakeetCTCConfig,
    ParakeetForCTC,
    SeamlessM4TFeatureExtractor,
    Wav2Vec2BertConfig,
    Wav2Vec2BertForCTC,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
)

from hfaudio.models import LstmCTCConfig, LstmForCTC
from hfaudio.models.frames import FrameCount, logit_lengths
from hfaudio.processing import SpectralFeatureExtractor

TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "vocab_size": 9,
    "pad_token_id": 0,
}
WAVE = TINY | {"conv_dim": (16,) * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2}


def models() -> dict:
    torch.manual_seed(0)
    encoder = {k: v for k, v in TINY.items() if k not in ("vocab_size", "pad_token_id")}
    return {
        "wav2vec2": (Wav2Vec2ForCTC(Wav2Vec2Config(**WAVE)), Wav2Vec2FeatureExtractor()),
        "hubert": (HubertForCTC(HubertConfig(**WAVE)), Wav2Vec2FeatureExtractor()),
        "w2v-bert": (Wav2Vec2BertForCTC(Wav2Vec2BertConfig(**TINY)), SeamlessM4TFeatureExtractor()),
        "lstm": (LstmForCTC(LstmCTCConfig(hidden_size=8, conv_channels=8)), SpectralFeatureExtractor()),
        "parakeet": (ParakeetForCTC(ParakeetCTCConfig(encoder_config=encoder, vocab_size=9, pad_token_id=0)), None),
    }


@pytest.mark.parametrize("name", ["wav2vec2", "hubert", "w2v-bert", "lstm"])
def test_frame_count_is_right_within_a_frame(name: str) -> None:
    model, extractor = models()[name]
    count = FrameCount.of(model, extractor)
    for seconds in (0.1, 0.23, 1.0, 2.37, 7.7, 20.0):
        samples = np.zeros(round(seconds * 16_000), dtype=np.float32)
        inputs = extractor(samples, sampling_rate=16_000, return_tensors="pt")
        frames = model.eval()(inputs[model.main_input_name]).logits.shape[1]
        assert abs(count(len(samples)) - frames) <= 1


def test_faster_speech_leaves_fewer_frames() -> None:
    model, extractor = models()["lstm"]
    count = FrameCount.of(model, extractor)
    assert count.at_speed(1.25)(100_000) == count(80_000) < count(100_000)


@pytest.mark.parametrize("name", ["wav2vec2", "w2v-bert", "lstm"])
def test_logit_lengths_equal_those_of_examples_alone(name: str) -> None:
    model, _ = models()[name]
    size = (40_000,) if name == "wav2vec2" else (250, 160 if name == "w2v-bert" else 80)
    inputs, length = torch.randn(1, *size), size[0] * 3 // 5
    full, alone = (model.eval()(x).logits.shape[1] for x in (inputs, inputs[:, :length]))
    assert logit_lengths(model, torch.tensor([length]), size[0], full).tolist() == [alone]


def test_logit_lengths_of_a_model_that_cannot_say_them() -> None:
    model, _ = models()["parakeet"]
    lengths = logit_lengths(model, torch.tensor([100, 50, 51]), 100, 13)
    assert lengths.tolist() == [13, 7, 7]
