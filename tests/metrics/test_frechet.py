from pathlib import Path

import librosa
import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from scipy.stats import ortho_group
from transformers import (
    ClapConfig,
    ClapFeatureExtractor,
    ClapModel,
    EncodecConfig,
    EncodecFeatureExtractor,
    EncodecModel,
    PreTrainedModel,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    Wav2Vec2Model,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)

from hfaudio.audio.resample import resample
from hfaudio.metrics.frechet import HubEmbedding, LogMelStatistics, frechet_distance, frechet_with_floor

RATE = 16_000


def gaussian(seed: int, n: int, dimension: int = 20, shift: float = 0.0) -> np.ndarray:
    """Independent features of unit variance."""
    return np.random.default_rng(seed).normal(shift, 1, (n, dimension))


def by_definition(a: np.ndarray, b: np.ndarray) -> float:
    """Heusel et al. 2017, equation 6, with scipy's matrix root."""
    product = np.cov(a, rowvar=False) @ np.cov(b, rowvar=False)
    trace = np.trace(np.cov(a, rowvar=False) + np.cov(b, rowvar=False) - 2 * sqrtm(product).real)
    return float(np.square(a.mean(0) - b.mean(0)).sum() + trace)


def clips(seed: int, count: int, rate: int = RATE, seconds: float = 0.3) -> list[np.ndarray]:
    """Decaying tones in a little noise."""
    rng = np.random.default_rng(seed)
    time = np.arange(int(seconds * rate)) / rate
    tones = [
        np.sin(2 * np.pi * pitch * time) * np.exp(-decay * time)
        for pitch, decay in rng.uniform((200, 1), (2000, 9), (count, 2))
    ]
    return [(0.3 * tone + rng.normal(0, 0.003, len(time))).astype(np.float32) for tone in tones]


def test_the_distance_is_that_of_scipys_matrix_root() -> None:
    rng = np.random.default_rng(0)
    a = rng.normal(size=(300, 12)) @ rng.normal(size=(12, 12))
    b = rng.normal(size=(200, 12)) @ rng.normal(size=(12, 12)) + 1
    assert frechet_distance(a, b) == pytest.approx(by_definition(a, b), rel=1e-9)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-12)
    assert frechet_distance(a.astype(np.float32), b.astype(np.float32)) == pytest.approx(by_definition(a, b), rel=1e-5)


def test_one_feature_has_a_formula() -> None:
    a, b = gaussian(1, 50, 1), 3 * gaussian(2, 60, 1) + 5
    expected = (a.mean() - b.mean()) ** 2 + (a.std(ddof=1) - b.std(ddof=1)) ** 2
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-12)


def test_a_shift_counts_by_its_square_and_a_rotation_of_both_not_at_all() -> None:
    a = gaussian(3, 100)
    assert frechet_distance(a, a + 2) == pytest.approx(20 * 4, rel=1e-12)
    b, rotation = gaussian(4, 80, shift=0.5), ortho_group.rvs(20, random_state=0)
    assert frechet_distance(a @ rotation, b @ rotation) == pytest.approx(frechet_distance(a, b), rel=1e-12)


@pytest.mark.parametrize("n", [8, 200])
def test_singular_covariances_give_a_distance_that_is_real_and_not_negative(n: int) -> None:
    """Fewer clips than features, features that are copies or constant: 768 of them, of very different sizes."""
    a = gaussian(5, n, 30) @ np.random.default_rng(5).normal(size=(30, 768)) * np.logspace(-6, 3, 768)
    a[:, 100] = 7
    variance = a.var(0, ddof=1).sum()
    assert 0 <= frechet_distance(a, a) < 1e-12 * variance
    assert frechet_distance(a, 2 * a - a.mean(0)) == pytest.approx(variance, rel=1e-9)


def test_two_samples_of_one_distribution_are_apart_as_one_over_n() -> None:
    """The figures at the head of hfaudio/metrics/frechet.py."""
    for n, expected in ((50, 5.1), (100, 2.5), (200, 1.3)):
        distances = [frechet_distance(gaussian(2 * seed, n), gaussian(2 * seed + 1, n)) for seed in range(40)]
        assert np.mean(distances) == pytest.approx(expected, abs=0.1)


def test_generated_as_good_as_real_lies_at_the_floor_and_at_zero_without_end() -> None:
    results = [frechet_with_floor(gaussian(seed, 200), gaussian(100 + seed, 150), seed=seed) for seed in range(20)]
    assert {(result.n, result.dimension) for result in results} == {(100, 20)}
    assert np.mean([result.distance for result in results]) == pytest.approx(2.5, abs=0.1)
    assert np.mean([result.floor for result in results]) == pytest.approx(2.5, abs=0.1)
    assert all(result.floor < result.floor_high for result in results)
    assert not any(result.distance > result.floor_high for result in results)
    infinity = [result.infinity for result in results]
    assert abs(np.mean(infinity)) < 3 * np.std(infinity) / np.sqrt(20) + 0.1


def test_the_extrapolation_finds_the_true_distance() -> None:
    """A shift of 0.3 in 20 features: 1.8. At n = 100 the distance is 4.3."""
    results = [frechet_with_floor(gaussian(seed, 200), gaussian(50 + seed, 200, shift=0.3)) for seed in range(20)]
    assert np.mean([result.infinity for result in results]) == pytest.approx(1.8, abs=0.25)
    assert np.mean([result.distance for result in results]) == pytest.approx(4.3, abs=0.2)
    assert all(result.distance > result.floor_high for result in results)


def test_round_trips_are_compared_with_other_clips_than_their_own() -> None:
    """A codec without loss is at the floor; drawn freely, its output would be nearer to real than real is."""
    real = gaussian(7, 200)
    result = frechet_with_floor(real, real, paired=True)
    assert result.distance == pytest.approx(result.floor, rel=1e-12)
    free = frechet_with_floor(real, real)
    assert free.distance < 0.6 * free.floor
    assert free.infinity < -1


def test_a_second_real_set_gives_its_own_floor() -> None:
    real, other = gaussian(8, 100), gaussian(9, 100, shift=0.3)
    result = frechet_with_floor(real, gaussian(10, 100), held_out=other)
    assert result.n == 100
    assert result.floor == pytest.approx(frechet_distance(real, other), rel=1e-12)
    assert result.distance == pytest.approx(frechet_distance(real, gaussian(10, 100)), rel=1e-12)
    assert result.floor_high == pytest.approx(result.floor)


def test_draws_follow_the_seed() -> None:
    real, generated = gaussian(11, 130), gaussian(12, 90)
    assert frechet_with_floor(real, generated, seed=1) == frechet_with_floor(real, generated, seed=1)
    assert frechet_with_floor(real, generated, seed=1) != frechet_with_floor(real, generated, seed=2)


def test_too_few_clips_are_refused() -> None:
    with pytest.raises(ValueError, match=r"5 features needs sets of at least 50 clips, got n = 49 from 99 real in"):
        frechet_with_floor(gaussian(0, 99, 5), gaussian(1, 200, 5))
    with pytest.raises(ValueError, match=r"40 features needs sets of at least 80 clips, got n = 79 from 200 real in"):
        frechet_with_floor(gaussian(0, 200, 40), gaussian(1, 79, 40))
    with pytest.raises(ValueError, match="got n = 49 from 100 real and 100 generated; add clips or take an extractor"):
        frechet_with_floor(gaussian(0, 100, 5), gaussian(1, 100, 5), held_out=gaussian(2, 49, 5))
    assert frechet_with_floor(gaussian(0, 100, 5), gaussian(1, 50, 5)).n == 50


def test_what_else_is_refused() -> None:
    a = gaussian(0, 100)
    with pytest.raises(ValueError, match="got 20 and 5; use one extractor"):
        frechet_distance(a, gaussian(1, 100, 5))
    with pytest.raises(ValueError, match=r"b must be \(n, D\) embeddings of n >= 2 clips, got shape \(1, 20\)"):
        frechet_distance(a, a[:1])
    holed = a.copy()
    holed[[3, 7], 0] = np.nan
    with pytest.raises(ValueError, match="generated must be finite, got NaN or infinity in 2 rows, first 3"):
        frechet_with_floor(a, holed)
    with pytest.raises(ValueError, match=r"paired needs .* got 100 real, 99 generated; leave paired out"):
        frechet_with_floor(a, a[:99], paired=True)
    with pytest.raises(ValueError, match="100 generated and held_out; leave paired out"):
        frechet_with_floor(a, a, paired=True, held_out=a)
    with pytest.raises(ValueError, match="repeats must be at least 1, got 0"):
        frechet_with_floor(a, a, repeats=0)


def test_log_mel_statistics_equal_librosa() -> None:
    (clip,) = clips(0, 1)
    energies = librosa.feature.melspectrogram(
        y=clip, sr=RATE, n_fft=512, win_length=400, hop_length=160, n_mels=10, pad_mode="constant"
    )
    log_mel = np.log(np.maximum(energies, energies.max() * 1e-8))
    found = LogMelStatistics(RATE)([clip], RATE)
    assert found.shape == (1, 20)
    np.testing.assert_allclose(found[0], np.concatenate([log_mel.mean(1), log_mel.std(1)]), rtol=1e-3, atol=1e-3)


def test_log_mel_statistics_of_clips_of_any_rate_and_length() -> None:
    embed = LogMelStatistics(RATE, n_mels=8)
    wide = clips(1, 3, rate=48_000)
    np.testing.assert_array_equal(embed(wide, 48_000), embed([resample(clip, 48_000, RATE) for clip in wide], RATE))
    mixed = [clips(1, 1)[0], np.zeros(RATE, np.float32), np.ones(1), clips(1, 1)[0]]
    found = embed(mixed, RATE)
    assert found.shape == (4, 16)
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(found[0], found[3])
    assert (found[1, 8:] == 0).all()
    assert embed([], RATE).shape == (0, 16)


def test_log_mel_statistics_tell_a_low_pass_from_other_clips_of_the_kind() -> None:
    embed = LogMelStatistics(RATE)
    real, other = embed(clips(2, 200), RATE), embed(clips(3, 100), RATE)
    same = frechet_with_floor(real, other)
    assert same.distance < same.floor_high
    dull = [resample(resample(clip, RATE, 6000), 6000, RATE) for clip in clips(3, 100)]
    worse = frechet_with_floor(real, embed(dull, RATE))
    assert worse.distance > 2 * worse.floor_high


def test_clips_that_are_none() -> None:
    embed = LogMelStatistics(RATE)
    with pytest.raises(ValueError, match=r"expected clips of shape \(N,\), N >= 1, got \(2, 800\); mix channels"):
        embed([np.zeros((2, 800), np.float32)], RATE)
    with pytest.raises(ValueError, match=r"got \(0,\)"):
        embed([np.zeros(0, np.float32)], RATE)
    with pytest.raises(TypeError, match="got int16; divide 16-bit integers by 32768"):
        embed([np.zeros(800, np.int16)], RATE)


def saved(model: PreTrainedModel, extractor: object, folder: Path) -> str:
    model.save_pretrained(folder)
    extractor.save_pretrained(folder)  # type: ignore[attr-defined]
    return str(folder)


def tiny_wav2vec2() -> Wav2Vec2Config:
    return Wav2Vec2Config(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        conv_dim=(8, 8),
        conv_kernel=(10, 3),
        conv_stride=(5, 2),
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=2,
        vocab_size=8,
    )


def test_hub_embedding_is_the_mean_of_the_last_hidden_state(tmp_path: Path) -> None:
    """Of a CTC model's encoder, in half precision on disk, with the extractor's normalisation and rate."""
    torch.manual_seed(0)
    model = Wav2Vec2ForCTC(tiny_wav2vec2()).bfloat16()
    extractor = Wav2Vec2FeatureExtractor(sampling_rate=8000, do_normalize=True)
    embed = HubEmbedding(saved(model, extractor, tmp_path))
    sounds = [clips(4, 1, seconds=0.3)[0], clips(5, 1, seconds=0.5)[0]]
    found = embed(sounds, RATE)
    assert found.shape == (2, 16)
    assert found.dtype == np.float32

    encoder = Wav2Vec2Model.from_pretrained(tmp_path, dtype=torch.float32).eval()
    for sound, row in zip(sounds, found, strict=True):
        samples = resample(sound, RATE, 8000)
        samples = (samples - samples.mean()) / np.sqrt(samples.var() + 1e-7)
        with torch.no_grad():
            hidden = encoder(torch.from_numpy(samples)[None]).last_hidden_state
        np.testing.assert_allclose(row, hidden[0].mean(0).numpy(), atol=1e-5)
    np.testing.assert_array_equal(embed(sounds[1:], RATE), found[1:])
    with pytest.raises(ValueError, match="expected at least one clip"):
        embed([], RATE)


def test_hub_embedding_of_whisper_is_its_encoders_over_the_clip_without_the_filling(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = WhisperConfig(
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        vocab_size=8,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
    )
    extractor = WhisperFeatureExtractor()
    embed = HubEmbedding(saved(WhisperForConditionalGeneration(config), extractor, tmp_path))
    (sound,) = clips(6, 1, seconds=1.0)
    encoder = WhisperForConditionalGeneration.from_pretrained(tmp_path).get_encoder().eval()
    with torch.no_grad():
        hidden = encoder(extractor(sound, sampling_rate=RATE, return_tensors="pt").input_features).last_hidden_state
    assert hidden.shape[1] == 1500  # 30 seconds
    np.testing.assert_allclose(embed([sound], RATE)[0], hidden[0, :50].mean(0).numpy(), atol=1e-5)


def test_hub_embedding_of_clap_hears_the_first_ten_seconds_each_time(tmp_path: Path) -> None:
    torch.manual_seed(0)
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    swin = {"patch_embeds_hidden_size": 8, "hidden_size": 64, "depths": [1] * 4, "num_attention_heads": [1] * 4}
    config = ClapConfig(text_config={**small, "vocab_size": 8}, audio_config=swin, projection_dim=12)
    embed = HubEmbedding(saved(ClapModel(config), ClapFeatureExtractor(truncation="rand_trunc"), tmp_path))
    (sound,) = clips(7, 1, rate=48_000, seconds=11)
    found = embed([sound, sound[: 10 * 48_000], np.roll(sound, 48_000)], 48_000)
    assert found.shape == (3, 12)
    np.testing.assert_array_equal(found[0], found[1])
    assert not np.allclose(found[0], found[2])
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)


def test_a_model_without_a_hidden_state_is_refused(tmp_path: Path) -> None:
    model = EncodecModel(EncodecConfig(num_filters=4, hidden_size=8, codebook_size=16))
    embed = HubEmbedding(saved(model, EncodecFeatureExtractor(), tmp_path))
    with pytest.raises(TypeError, match="got EncodecModel with audio_codes, audio_values; take an encoder"):
        embed(clips(8, 1), RATE)
