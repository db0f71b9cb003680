from itertools import pairwise, product

import numpy as np
import torch

from hfaudio.models.ctc import blank_out_padding, ctc_loss


def collapse(path: tuple[int, ...]) -> tuple[int, ...]:
    first = [path[0], *(b for a, b in pairwise(path) if a != b)]
    return tuple(label for label in first if label != 0)


def test_loss_is_the_sum_over_all_paths_per_label_and_averaged_over_examples() -> None:
    logits = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[1, 2], [2, -100]])
    lengths = torch.tensor([4, 3])
    log_probs = logits.log_softmax(-1).numpy()
    losses = []
    for example, target in enumerate([(1, 2), (2,)]):
        length = int(lengths[example])
        paths = [p for p in product(range(3), repeat=length) if collapse(p) == target]
        likelihood = sum(np.exp(sum(log_probs[example, t, k] for t, k in enumerate(p))) for p in paths)
        losses.append(-np.log(likelihood) / len(target))
    assert np.isclose(ctc_loss(logits, lengths, labels, 0, zero_infinity=False).item(), np.mean(losses), atol=1e-6)


def test_loss_of_halves_averages_to_the_loss_of_the_whole() -> None:
    logits, labels = torch.randn(4, 20, 5), torch.tensor([[1, 2, 3], [1, -100, -100], [4, 4, -100], [2, 3, 2]])
    lengths = torch.tensor([20, 7, 15, 11])
    whole = ctc_loss(logits, lengths, labels, 0, zero_infinity=True)
    halves = [ctc_loss(logits[s], lengths[s], labels[s], 0, zero_infinity=True) for s in (slice(2), slice(2, 4))]
    assert torch.isclose(whole, sum(halves) / 2)


def test_loss_is_computed_in_float32_under_autocast() -> None:
    logits, labels = torch.randn(1, 300, 30), torch.arange(1, 29)[None]
    exact = ctc_loss(logits, torch.tensor([300]), labels, 0, zero_infinity=True)
    with torch.autocast("cpu", torch.bfloat16):
        assert ctc_loss(logits, torch.tensor([300]), labels, 0, zero_infinity=True) == exact


def test_a_label_longer_than_its_frames_gives_no_gradient_instead_of_infinity() -> None:
    logits = torch.randn(1, 3, 5, requires_grad=True)
    loss = ctc_loss(logits, torch.tensor([3]), torch.tensor([[1, 1, 1]]), 0, zero_infinity=True)
    loss.backward()
    assert loss == 0 and not logits.grad.any()


def test_padded_frames_say_blank_and_stay_finite() -> None:
    logits = torch.randn(2, 5, 4)
    silent = blank_out_padding(logits, torch.tensor([5, 2]), blank_id=3)
    assert torch.equal(silent[0], logits[0]) and torch.equal(silent[1, :2], logits[1, :2])
    log_probs = silent.log_softmax(-1)
    assert torch.isfinite(log_probs).all() and torch.equal(log_probs[1, 2:, 3], torch.zeros(3))
