"""An adapter's weights put into a model's new LoRA: all of them fit, or nothing is trained."""

import json
from pathlib import Path
from typing import Any

from peft import LoraConfig, PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file

from app.contracts import lora
from app.contracts.model_card import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from worker.failures import SystemFault, UserError

NAME = "default"
Weights = dict[str, Any]


def read_adapter(folder: Path) -> Weights:
    """Tensors on the CPU, by peft's names without the adapter's own."""
    weights: Weights = load_file(folder / ADAPTER_WEIGHTS)
    return weights


def set_adapter(model: Any, weights: Weights) -> None:
    """Overwrite the adapter's weights. Raises SystemFault where names or shapes are not the model's own."""
    odd = _odd_ones(model, weights)
    if odd:
        names = ", ".join(odd[:5])
        raise SystemFault("checkpoint_does_not_fit", f"the checkpoint and the model differ in {len(odd)}: {names}")
    set_peft_model_state_dict(model, weights, adapter_name=NAME)


def begin_with(model: Any, folder: Path) -> None:
    """Let a new LoRA start from the weights of an adapter's folder. Raises UserError for one that does not fit."""
    if not (folder / ADAPTER_CONFIG).is_file():
        raise refusal("the adapter to continue from is a whole model; train it as a model, by its name")
    if not isinstance(model, PeftModel):
        raise refusal("the adapter to continue from is a LoRA, and this spec trains all weights of the model")
    described = {**LoraConfig().to_dict(), **json.loads((folder / ADAPTER_CONFIG).read_text())}
    differing = lora.differences(described, model.peft_config[NAME].to_dict())
    if differing:
        shown = "; ".join(f"{field} is {there} there and {here} here" for field, there, here in differing)
        raise refusal(f"the adapter to continue from is another LoRA: {shown}")
    weights = read_adapter(folder)
    odd = _odd_ones(model, weights)
    if odd:
        raise refusal(f"the adapter to continue from has other weights than this model's LoRA: {', '.join(odd[:5])}")
    set_peft_model_state_dict(model, weights, adapter_name=NAME)


def refusal(message: str) -> UserError:
    return UserError(
        "continue_from",
        message,
        hint="take the lora group and the model of the job that trained it",
        param="continue_from",
    )


def _odd_ones(model: Any, weights: Weights) -> list[str]:
    """Names that one side lacks, or has in another shape."""
    own = get_peft_model_state_dict(model, adapter_name=NAME, save_embedding_layers=False)
    there, here = ({name: tuple(value.shape) for name, value in side.items()} for side in (weights, own))
    return sorted(name for name in {*there, *here} if there.get(name) != here.get(name))
