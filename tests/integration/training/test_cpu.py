"""What a CPU is spared: the loss and the gradient are those of a model that does all of the work."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from app.contracts.rows import INPUT_IDS
from worker.training.micro_batches.cpu import SHORT_ROW, spare_work

IDS = torch.randint(0, 64, (3, 24), generator=torch.Generator().manual_seed(0))
MASK = (torch.arange(24) < torch.tensor([[24], [20], [9]])).long()


@pytest.fixture
def model() -> Any:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2}
    base = LlamaForCausalLM(LlamaConfig(vocab_size=64, num_hidden_layers=2, **sizes)).to(torch.bfloat16)
    return get_peft_model(base, LoraConfig(target_modules=["q_proj", "down_proj"], init_lora_weights=False))


def a_trainer(model: Any, *, longest_row: int, bf16: bool = True) -> Any:
    """What is read of transformers' trainer."""
    rows = Dataset.from_dict({INPUT_IDS: [[0] * longest_row, [0]]})
    return SimpleNamespace(model=model, args=SimpleNamespace(bf16=bf16), train_dataset=rows, eval_dataset=None)


def loss_and_gradient(model: Any) -> tuple[torch.Tensor, torch.Tensor]:
    model.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(input_ids=IDS, attention_mask=MASK, labels=IDS.masked_fill(MASK == 0, -100)).loss
    loss.backward()
    return loss.detach(), torch.cat([one.grad.flatten() for one in model.parameters() if one.requires_grad])


def test_a_lora_without_casts_of_its_own_gives_the_same_bits(model: Any) -> None:
    loss, gradient = loss_and_gradient(model)

    spare_work(a_trainer(model, longest_row=SHORT_ROW + 1))

    spared_loss, spared_gradient = loss_and_gradient(model)
    assert torch.equal(loss, spared_loss)
    assert torch.equal(gradient, spared_gradient)


def test_attention_of_short_rows_gives_the_same_gradient_up_to_rounding(model: Any) -> None:
    loss, gradient = loss_and_gradient(model)

    spare_work(a_trainer(model, longest_row=SHORT_ROW))

    spared_loss, spared_gradient = loss_and_gradient(model)
    assert model.get_base_model().config._attn_implementation == "eager"
    torch.testing.assert_close(loss, spared_loss, rtol=1e-2, atol=0)
    assert (gradient - spared_gradient).norm() < 0.03 * gradient.norm()


def test_without_autocast_peft_casts_as_before(model: Any) -> None:
    spare_work(a_trainer(model, longest_row=SHORT_ROW, bf16=False))

    assert model(input_ids=IDS).logits.dtype == torch.bfloat16
