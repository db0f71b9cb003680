import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import Trainer, TrainerControl, TrainerState, TrainingArguments

from hfaudio.training.regularize import PullToStart


class Schedule:
    def get_last_lr(self) -> list[float]:
        return [0.1]


def step(pull: PullToStart, model: nn.Module, folder) -> None:
    arguments = TrainingArguments(output_dir=str(folder), use_cpu=True)
    pull.on_optimizer_step(arguments, TrainerState(), TrainerControl(), model=model, lr_scheduler=Schedule())


def test_weights_move_towards_their_start_by_learning_rate_times_strength(tmp_path):
    model = nn.Linear(3, 2)
    model.bias.requires_grad_(False)
    start = model.weight.detach().clone()
    pull = PullToStart(model, strength=2.0)
    with torch.no_grad():
        model.weight += 1
        model.bias += 1
    bias = model.bias.detach().clone()
    step(pull, model, tmp_path)
    torch.testing.assert_close(model.weight.detach() - start, torch.full((2, 3), 0.8))  # 1 - 0.1 * 2
    assert torch.equal(model.bias, bias)  # what is not trained is left alone
    step(pull, model, tmp_path)
    torch.testing.assert_close(model.weight.detach() - start, torch.full((2, 3), 0.64))


class Line(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor([1.0, -2.0]))

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": ((x @ self.slope - y) ** 2).mean()}


POINTS = [{"x": torch.tensor([1.0, 0.5 * number]), "y": torch.tensor(3.0)} for number in range(6)]


def trained_line(folder, resume_from: str | None = None) -> torch.Tensor:
    """Slope after 6 steps of one point each; the learning rate falls from 0.1 by a sixth of it a step."""
    model = Line()
    arguments = TrainingArguments(
        output_dir=str(folder),
        use_cpu=True,
        max_steps=6,
        save_steps=3,
        per_device_train_batch_size=1,
        train_sampling_strategy="sequential",
        optim="sgd",
        learning_rate=0.1,
        max_grad_norm=0.0,
        report_to=[],
        disable_tqdm=True,
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=POINTS, callbacks=[PullToStart(model, strength=2.0)])
    trainer.train(resume_from_checkpoint=resume_from)
    return model.slope.detach()


def test_a_resumed_run_pulls_to_the_start_of_the_first_run(tmp_path):
    start = Line().slope.detach()
    slope = start.clone()
    for number, point in enumerate(POINTS):
        rate = 0.1 * (1 - number / 6)
        slope -= rate * 2 * (point["x"] @ slope - point["y"]) * point["x"]
        slope -= rate * 2.0 * (slope - start)
    whole = trained_line(tmp_path)
    torch.testing.assert_close(whole, slope)
    assert torch.equal(trained_line(tmp_path, str(tmp_path / "checkpoint-3")), whole)


def test_what_it_is_not_for():
    model = nn.Sequential(nn.Linear(3, 2))
    with pytest.raises(ValueError, match="strength must be above 0, got -1"):
        PullToStart(model, -1)
    with pytest.raises(ValueError, match="use --weight_decay"):
        PullToStart(get_peft_model(model, LoraConfig(target_modules=["0"])), 1.0)
