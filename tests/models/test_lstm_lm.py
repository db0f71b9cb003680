import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

import hfaudio.auto  # noqa: F401
from hfaudio.models import LstmLMConfig, LstmLMForCausalLM
from hfaudio.processing.remote_code import carry_code

STRANGER = """
import sys
sys.modules["hfaudio"] = None  # importing it fails
import torch
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True)
assert type(model).__module__.startswith("transformers_modules")
print("SUM", f"{model(input_ids=torch.tensor([[1, 4, 5]])).logits.sum().item():.4f}")
"""


@pytest.fixture
def model() -> LstmLMForCausalLM:
    torch.manual_seed(0)
    return LstmLMForCausalLM(LstmLMConfig(vocab_size=7, hidden_size=16)).eval()


def test_a_token_sees_only_those_before_it(model: LstmLMForCausalLM) -> None:
    ids = torch.tensor([[1, 4, 5, 6, 4]])
    changed = ids.clone()
    changed[0, 3] = 5
    a, b = model(input_ids=ids).logits, model(input_ids=changed).logits
    torch.testing.assert_close(a[:, :3], b[:, :3])
    assert not torch.allclose(a[:, 3], b[:, 3])


def test_the_loss_is_the_mean_over_the_tokens_to_be_predicted(model: LstmLMForCausalLM) -> None:
    ids = torch.tensor([[1, 4, 5, 2], [1, 6, 2, 0]])
    labels = torch.tensor([[1, 4, 5, 2], [1, 6, 2, -100]])
    outputs = model(input_ids=ids, labels=labels)
    log_probs = outputs.logits.log_softmax(-1)
    predicted = [log_probs[0, 0, 4], log_probs[0, 1, 5], log_probs[0, 2, 2], log_probs[1, 0, 6], log_probs[1, 1, 2]]
    torch.testing.assert_close(outputs.loss, -torch.stack(predicted).mean())


def test_a_folder_opens_with_and_without_hfaudio(model: LstmLMForCausalLM, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    assert [file.name for file in carry_code(tmp_path)] == ["hfaudio_models_lstm_lm.py"]
    opened = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(opened) is LstmLMForCausalLM
    assert opened.lm_head.weight is opened.embed_tokens.weight
    expected = model(input_ids=torch.tensor([[1, 4, 5]])).logits
    torch.testing.assert_close(opened(input_ids=torch.tensor([[1, 4, 5]])).logits, expected)
    environment = os.environ | {"HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    stranger = subprocess.run(
        [sys.executable, "-c", STRANGER, tmp_path], capture_output=True, text=True, env=environment, cwd=tmp_path
    )
    assert stranger.returncode == 0, stranger.stderr
    assert f"SUM {expected.sum().item():.4f}" in stranger.stdout
