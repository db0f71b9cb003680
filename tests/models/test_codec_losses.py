import pytest
import torch
from scipy.signal import ShortTimeFFT
from scipy.signal.windows import hann

from hfaudio.models.codec_losses import FLOOR, LossBalancer, SpectralLoss
from hfaudio.models.discriminator import (
    MultiScaleSTFTDiscriminator,
    adversarial_loss,
    discriminator_loss,
    feature_matching_loss,
    halves,
)


def audio(seed: int = 0, batch: int = 2, channels: int = 1, samples: int = 4000) -> torch.Tensor:
    return 0.1 * torch.randn(batch, channels, samples, generator=torch.Generator().manual_seed(seed))


def test_equal_audio_has_no_loss_and_losses_rise_with_noise() -> None:
    loss = SpectralLoss(16000)
    assert all(float(value) == 0 for value in loss(audio(), audio()).values())
    small, large = (loss(audio(), audio() + level * audio(1)) for level in (0.1, 1.0))
    assert all(small[name] < large[name] for name in small)


def test_the_stft_loss_is_that_of_its_equations_by_scipy() -> None:
    """Yamamoto et al. 2020, equations 4 to 6, at one resolution."""
    reference, estimate = audio(0, 1)[0, 0].double(), audio(1, 1)[0, 0].double()
    transform = ShortTimeFFT(hann(512, sym=False), hop=128, fs=1, scale_to=None, fft_mode="onesided")

    def magnitudes(x):
        padded = torch.nn.functional.pad(x[None], (256, 256), "reflect")[0].numpy()
        frames = transform.stft(padded, p0=2, p1=34)  # centred on the multiples of the hop of x
        return torch.from_numpy(abs(frames)) / 256

    real, made = magnitudes(reference), magnitudes(estimate)
    expected = (real - made).norm() / real.norm()
    expected += (real.clamp(min=FLOOR).log() - made.clamp(min=FLOOR).log()).abs().mean()
    result = SpectralLoss(16000, n_ffts=(512,)).double()
    result.window_512 = result.window_512.double()
    measured = result(reference[None, None], estimate[None, None])["stft"]
    assert float(measured) == pytest.approx(float(expected), rel=1e-3)


def test_phases_are_heard_by_the_complex_loss_alone() -> None:
    flipped = SpectralLoss(16000)(audio(), -audio())
    assert float(flipped["mel"]) == pytest.approx(0, abs=1e-6)
    assert float(flipped["stft"]) == pytest.approx(0, abs=1e-6)
    assert float(flipped["complex"]) > 1e-3


def test_silence_has_finite_gradients() -> None:
    estimate = torch.zeros(1, 1, 4000, requires_grad=True)
    sum(SpectralLoss(16000)(torch.zeros(1, 1, 4000), estimate).values()).backward()
    assert estimate.grad.isfinite().all()


def test_balanced_gradients_have_the_shares_of_their_weights() -> None:
    output = audio().requires_grad_()
    target = audio(1)
    losses = {"small": 1e-6 * (output - target).square().mean(), "large": 1e3 * (output * target).mean()}
    balancer = LossBalancer({"small": 3.0, "large": 1.0})
    together = balancer(losses, output)
    parts = {name: torch.autograd.grad(loss, output, retain_graph=True)[0] for name, loss in losses.items()}
    expected = sum(
        weight / 4 * parts[name] / parts[name].flatten(1).norm(dim=1).mean() / len(output)
        for name, weight in (("small", 3), ("large", 1))
    )
    torch.testing.assert_close(together, expected)


def test_a_loss_that_comes_later_takes_its_share_without_the_bias_of_a_young_average() -> None:
    output = audio().requires_grad_()
    balancer = LossBalancer({"first": 1.0, "second": 1.0})
    for _ in range(5):
        balancer({"first": output.square().mean()}, output)
    both = balancer({"first": output.square().mean(), "second": output.square().mean()}, output)
    alone = LossBalancer({"first": 1.0, "second": 1.0})({"first": output.square().mean()}, output)
    torch.testing.assert_close(both, alone, rtol=1e-5, atol=1e-9)


def test_half_a_batch_twice_is_the_whole_batch() -> None:
    """What two ranks average is what one would have got."""
    output = audio(batch=4).requires_grad_()

    def balanced(part: torch.Tensor) -> torch.Tensor:
        return LossBalancer({"l": 1.0})({"l": part.abs().mean()}, part)

    whole = balanced(output)
    parts = [balanced(part) / 2 for part in output.split(2)]
    torch.testing.assert_close(torch.cat(parts), whole)


def test_discriminators_learn_to_tell_sines_from_noise_and_codecs_to_convince_them() -> None:
    torch.manual_seed(0)
    model = MultiScaleSTFTDiscriminator(1, (256, 128), 4)
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    time = torch.arange(2000) / 16000
    losses = []
    for step in range(60):
        frequency = 300 + 100 * torch.rand(4, 1, 1)
        real = 0.1 * torch.sin(2 * torch.pi * frequency * time)
        pair = model(torch.cat([real, audio(step, 4, samples=2000)]))
        loss = discriminator_loss(*halves(pair))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(2, abs=0.3)  # hinge at 0: one from either side
    assert losses[-1] < 0.5
    real_part, fake_part = halves(model(torch.cat([real, audio(99, 4, samples=2000)])))
    assert adversarial_loss(real_part) < adversarial_loss(fake_part)
    assert float(feature_matching_loss(real_part, real_part)) == 0
    assert float(feature_matching_loss(real_part, fake_part)) > 0.1


def test_stereo_is_seen_as_four_pictures() -> None:
    model = MultiScaleSTFTDiscriminator(2, (256,), 4)
    (judgement,) = model(audio(channels=2))
    assert model.discriminators[0].layers[0].weight.shape[1] == 4
    assert judgement.logits.shape[:2] == (2, 1)
    assert len(judgement.features) == 5
