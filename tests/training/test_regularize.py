import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import TrainerControl, TrainerState, TrainingArguments

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


def test_what_it_is_not_for():
    model = nn.Sequential(nn.Linear(3, 2))
    with pytest.raises(ValueError, match="strength must be above 0, got -1"):
        PullToStart(model, -1)
    with pytest.raises(ValueError, match="use --weight_decay"):
        PullToStart(get_peft_model(model, LoraConfig(target_modules=["0"])), 1.0)
