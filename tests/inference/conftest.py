"""Untrained models saved as folders. Their heads are scaled up, so that their letters change from frame to frame."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    GenerationConfig,
    ParakeetCTCConfig,
    ParakeetFeatureExtractor,
    ParakeetForCTC,
    SeamlessM4TFeatureExtractor,
    Wav2Vec2BertConfig,
    Wav2Vec2BertForCTC,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    Wav2Vec2Processor,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperProcessor,
    WhisperTokenizer,
)

from hfaudio.audio.features import LOG_MEL
from hfaudio.decoding.beam import BeamSearchDecoder
from hfaudio.models import LstmCTCConfig, LstmForCTC
from hfaudio.ngram.model import NGramLM
from hfaudio.processing import SpectralFeatureExtractor, build_char_tokenizer, ctc_labels
from hfaudio.processing.language_model import save_language_model

# Features without the floor under the loudest frame, which would make a chunk differ from the whole recording.
LOCAL_LOG_MEL = replace(LOG_MEL, dynamic_range_db=None)


@pytest.fixture(scope="session")
def lstm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ours, with everything that sees the whole clip: an LSTM and features normalised over the clip."""
    torch.manual_seed(0)
    tokenizer = build_char_tokenizer(["a dog sang"])
    config = LstmCTCConfig(vocab_size=len(tokenizer), hidden_size=16, conv_channels=16, num_hidden_layers=1)
    return save_ctc(tmp_path_factory.mktemp("lstm"), LstmForCTC(config), SpectralFeatureExtractor())


@pytest.fixture(scope="session")
def short_sighted_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Models whose frames depend on less than 0.2 s around them: convolutions only, nothing normalised."""
    torch.manual_seed(0)
    vocab_size = len(build_char_tokenizer(["a dog sang"]))
    lstm = LstmForCTC(LstmCTCConfig(vocab_size=vocab_size, hidden_size=16, conv_channels=16, num_hidden_layers=0))
    wav2vec2 = Wav2Vec2ForCTC(
        Wav2Vec2Config(
            vocab_size=vocab_size,
            pad_token_id=0,
            hidden_size=16,
            num_hidden_layers=0,
            num_attention_heads=2,
            intermediate_size=16,
            conv_dim=(16,) * 7,
            num_conv_pos_embeddings=4,
            num_conv_pos_embedding_groups=2,
            feat_extract_norm="layer",
            do_stable_layer_norm=True,
        )
    )
    folder = tmp_path_factory.mktemp("short_sighted")
    return {
        "lstm": save_ctc(folder / "lstm", lstm, SpectralFeatureExtractor(LOCAL_LOG_MEL, normalize=False)),
        "wav2vec2": save_ctc(folder / "wav2vec2", wav2vec2, Wav2Vec2FeatureExtractor(do_normalize=False)),
    }


@pytest.fixture(scope="session")
def other_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Architectures with frames of their own."""
    torch.manual_seed(0)
    encoder = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    head = {"vocab_size": len(build_char_tokenizer(["a dog sang"])), "pad_token_id": 0}
    parakeet = ParakeetForCTC(ParakeetCTCConfig(encoder_config=encoder, **head))
    bert = Wav2Vec2BertForCTC(Wav2Vec2BertConfig(**encoder, **head))
    folder = tmp_path_factory.mktemp("others")
    return {
        "parakeet": save_ctc(folder / "parakeet", parakeet, ParakeetFeatureExtractor()),
        "w2v-bert": save_ctc(folder / "w2v-bert", bert, SeamlessM4TFeatureExtractor()),
    }


@pytest.fixture(scope="session")
def whisper_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Whisper of four words."""
    torch.manual_seed(0)
    special = ("startoftranscript", "notimestamps", "startofprev", "nospeech", *(f"{i / 50:.2f}" for i in range(1501)))
    tokens = ["<|endoftext|>", "Ġa", "Ġdog", "Ġsang", "Ġsong", *(f"<|{name}|>" for name in special)]
    tokenizer = WhisperTokenizer(vocab={token: i for i, token in enumerate(tokens)}, merges=[], pad_token=tokens[0])
    model = WhisperForConditionalGeneration(
        WhisperConfig(
            vocab_size=len(tokens),
            d_model=16,
            encoder_layers=1,
            decoder_layers=1,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_ffn_dim=16,
            decoder_ffn_dim=16,
            num_mel_bins=8,
            pad_token_id=0,
            bos_token_id=0,
            eos_token_id=0,
            decoder_start_token_id=tokens.index("<|startoftranscript|>"),
        )
    )
    model.generation_config = GenerationConfig(
        is_multilingual=False,
        max_length=16,
        pad_token_id=0,
        bos_token_id=0,
        eos_token_id=0,
        decoder_start_token_id=tokens.index("<|startoftranscript|>"),
        no_timestamps_token_id=tokens.index("<|notimestamps|>"),
        prev_sot_token_id=tokens.index("<|startofprev|>"),
        suppress_tokens=list(range(5, 9)),
        alignment_heads=[[0, 0]],
    )
    folder = tmp_path_factory.mktemp("whisper")
    model.save_pretrained(folder)
    WhisperProcessor(WhisperFeatureExtractor(feature_size=8), tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def noise() -> np.ndarray:
    """7.3 s at 16 kHz whose loudness and colour change."""
    rng = np.random.default_rng(0)
    samples = rng.normal(size=round(7.3 * 16_000)) * np.sin(np.arange(round(7.3 * 16_000)) / 3000)
    return (0.1 * np.where(np.arange(len(samples)) % 5000 < 2000, samples, np.roll(samples, 1) + samples)).astype("f4")


def save_ctc(folder: Path, model: torch.nn.Module, extractor: object) -> Path:
    with torch.no_grad():
        head = model.ctc_head if isinstance(model, ParakeetForCTC) else model.lm_head
        head.weight *= 20
        head.bias[2] += 3  # "|": several words
    model.save_pretrained(folder)
    Wav2Vec2Processor(extractor, build_char_tokenizer(["a dog sang"])).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def lm_folder(short_sighted_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short-sighted model with a language model that prefers three words to what it hears."""
    folder = tmp_path_factory.mktemp("lm") / "model"
    shutil.copytree(short_sighted_folders["lstm"], folder)
    tokenizer = build_char_tokenizer(["a dog sang"])
    lm = NGramLM.from_text(["a dog sang", "a dog", "dog sang a"], order=2)
    save_language_model(folder, BeamSearchDecoder(ctc_labels(tokenizer), lm, blank_id=0, beta=0.0))
    return folder
