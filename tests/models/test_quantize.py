import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor
from transformers import EncodecConfig
from transformers.models.encodec.modeling_encodec import EncodecResidualVectorQuantizer

from hfaudio.models.quantize import ResidualVectorQuantization, k_means, perplexity

SIZE, DIM, STAGES = 16, 4, 3


def stock_quantizer(stages: int = STAGES) -> EncodecResidualVectorQuantizer:
    config = EncodecConfig(codebook_size=SIZE, hidden_size=DIM, upsampling_ratios=[2], sampling_rate=1000)
    config.target_bandwidths = [stages * 4 * 0.5]
    return EncodecResidualVectorQuantizer(config)


def quantizer(
    seed: int = 0, decay: float = 0.9, stages: int = STAGES, stock: EncodecResidualVectorQuantizer | None = None
) -> ResidualVectorQuantization:
    """Three codebooks of 16 random vectors, each stage at a smaller scale."""
    rvq = ResidualVectorQuantization(stock or stock_quantizer(stages), decay=decay)
    generator = torch.Generator().manual_seed(seed)
    for stage, book in enumerate(rvq.codebooks):
        book.embed.copy_(torch.randn(SIZE, DIM, generator=generator) * 0.5**stage)
        book.cluster_size.fill_(8.0)
        book.embed_avg.copy_(book.embed * 8)
    return rvq


def latents(seed: int = 1, batch: int = 2, frames: int = 20) -> Tensor:
    return torch.randn(batch, DIM, frames, generator=torch.Generator().manual_seed(seed))


def test_codes_and_sum_are_those_of_transformers() -> None:
    stock = stock_quantizer()
    result = quantizer(stock=stock).eval()(latents())
    expected = stock.encode(latents())
    assert torch.equal(result.codes, expected)
    torch.testing.assert_close(result.latents, stock.decode(expected))


def test_the_straight_through_gradient_is_one() -> None:
    x = latents().requires_grad_()
    quantizer()(x).latents.sum().backward()
    torch.testing.assert_close(x.grad, torch.ones_like(x))


def test_the_commitment_loss_of_every_stage_reaches_the_encoder() -> None:
    """The gradient of stage k alone: the difference between k and k - 1 stages in use."""
    norms = []
    for stages in range(1, STAGES + 1):
        gradients = []
        for used in (stages, stages - 1):
            x = latents().requires_grad_()
            rvq = quantizer().eval()
            loss = rvq(x, torch.full((2,), used)).commitment * max(1, used)
            (gradient,) = torch.autograd.grad(loss, x, allow_unused=True)
            gradients.append(gradient)
        norms.append(float((gradients[0] - gradients[1]).norm()))
    assert min(norms) > 1e-3, norms


def test_the_commitment_loss_is_the_mean_squared_residual() -> None:
    rvq = quantizer().eval()
    residual, total = latents(), 0.0
    for book in rvq.codebooks:
        distances = torch.cdist(residual.transpose(1, 2).reshape(-1, DIM), book.embed)
        total += float(distances.min(1).values.square().mean()) / DIM
        residual = residual - book.embed[distances.argmin(1)].view(2, 20, DIM).transpose(1, 2)
    assert float(rvq(latents()).commitment) == pytest.approx(total / STAGES, rel=1e-5)


def test_an_example_with_fewer_quantizers_is_the_sum_of_the_first_ones() -> None:
    stock, x = stock_quantizer(), latents()
    mixed = quantizer(stock=stock).eval()(x, torch.tensor([1, 3]))
    torch.testing.assert_close(mixed.latents[:1], stock.decode(stock.encode(x)[:1])[:1])
    torch.testing.assert_close(mixed.latents[1:], stock.decode(stock.encode(x))[1:])


def test_codebooks_move_to_the_mean_of_their_vectors() -> None:
    """One step of the moving averages, by hand."""
    rvq = quantizer(stages=1)
    before = [buffer.clone() for buffer in (rvq.codebooks[0].cluster_size, rvq.codebooks[0].embed_avg)]
    codes = rvq(latents()).codes[0].flatten()
    vectors = latents().transpose(1, 2).reshape(-1, DIM)
    for code in codes.unique():
        mine = vectors[codes == code]
        size = 0.9 * before[0][code] + 0.1 * len(mine)
        average = 0.9 * before[1][code] + 0.1 * mine.sum(0)
        torch.testing.assert_close(rvq.codebooks[0].embed[code], average / size)


def test_evaluation_changes_no_codebook() -> None:
    stock = stock_quantizer()
    rvq = quantizer(stock=stock).eval()
    before = {name: value.clone() for name, value in stock.state_dict().items()}
    rvq(latents())
    assert all(torch.equal(value, before[name]) for name, value in stock.state_dict().items())


def used_after_training(rvq: ResidualVectorQuantization, steps: int = 300) -> float:
    """Share of the codes of the first codebook in use, when half of them started far from all data."""
    book = rvq.codebooks[0]
    book.embed[SIZE // 2 :] += 50
    book.embed_avg.copy_(book.embed * book.cluster_size[:, None])
    for step in range(steps):
        rvq(latents(seed=step, batch=4, frames=64))
    return len(rvq.eval()(latents(seed=999, frames=500)).codes[0].unique()) / SIZE


def test_dead_codes_come_to_life() -> None:
    rvq = quantizer(decay=0.99)
    assert used_after_training(rvq) >= 0.8


def test_dead_codes_stay_dead_if_the_moving_averages_are_not_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """The order of audiocraft and encodec: `embed` is replaced alone, and the next average undoes it."""

    def set_embed_only(book, where, embed, counts) -> None:
        book.embed[where] = embed

    monkeypatch.setattr(ResidualVectorQuantization, "_set", staticmethod(set_embed_only))
    assert used_after_training(quantizer(decay=0.99)) < 0.8


def test_fresh_codebooks_are_all_in_use_after_k_means() -> None:
    rvq = ResidualVectorQuantization(stock_quantizer())
    assert not rvq.is_initialised
    rvq.initialise(latents(batch=1, frames=2000)[0].T, batch_size=100)
    assert rvq.is_initialised
    codes = rvq.eval()(latents(seed=5, frames=1000)).codes
    assert all(len(stage.unique()) == SIZE for stage in codes)


def test_k_means_finds_separate_clusters_and_fewer_points_than_centres_work() -> None:
    generator = torch.Generator().manual_seed(0)
    corners = torch.tensor([[0.0, 0], [0, 10], [10, 0], [10, 10]])
    points = corners.repeat(50, 1) + 0.1 * torch.randn(200, 2, generator=generator)
    centres, counts = k_means(points, 4, 20, generator)
    assert sorted(centres.round().int().tolist()) == sorted(corners.int().tolist())
    assert counts.tolist() == [50] * 4
    centres, counts = k_means(points[:3], 8, 5, generator)
    assert centres.shape == (8, 2)
    assert counts.sum() == 3


def test_perplexity_of_even_and_of_single_use() -> None:
    counts = torch.tensor([[5.0, 5, 5, 5], [7, 0, 0, 0], [0, 0, 0, 0]])
    torch.testing.assert_close(perplexity(counts), torch.tensor([4.0, 1.0, 1.0]))


def update_on_ranks(rank: int, world: int, file: str, queue) -> None:
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=world)
    assert dist.get_world_size() == world
    stock, batch = stock_quantizer(), latents(batch=4)
    rvq = quantizer(stock=stock)
    for _ in range(3):
        rvq(batch[rank * 4 // world : (rank + 1) * 4 // world])
    queue.put((rank, [buffer.numpy() for buffer in stock.state_dict().values()]))
    dist.destroy_process_group()


def test_two_ranks_update_as_one_with_the_joined_batch(tmp_path) -> None:
    context = mp.get_context("spawn")
    queue = context.Queue()
    workers = [
        context.Process(target=update_on_ranks, args=(rank, 2, str(tmp_path / "store"), queue)) for rank in (0, 1)
    ]
    for worker in workers:
        worker.start()
    results = dict(queue.get(timeout=120) for _ in workers)
    for worker in workers:
        worker.join()
    stock = stock_quantizer()
    alone = quantizer(stock=stock)
    for _ in range(3):
        alone(latents(batch=4))
    for mine, other, expected in zip(results[0], results[1], stock.state_dict().values(), strict=True):
        torch.testing.assert_close(torch.from_numpy(mine), torch.from_numpy(other), rtol=0, atol=0)
        torch.testing.assert_close(torch.from_numpy(mine), expected)
