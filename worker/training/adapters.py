"""Loads an adapter's weights into a model's LoRA. Unless all of them fit, it raises and nothing is trained."""

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
    """The adapter's tensors on the CPU, by PEFT's names without the name of the adapter."""
    weights: Weights = load_file(folder / ADAPTER_WEIGHTS)
    return weights


def set_adapter(model: Any, weights: Weights) -> None:
    """Overwrite the weights of the model's LoRA. Raises SystemFault if names or shapes differ from the model's."""
    differing = _differing_names(model, weights)
    if differing:
        names = ", ".join(differing[:5])
        raise SystemFault(
            "checkpoint_does_not_fit", f"the checkpoint and the model differ in {len(differing)}: {names}"
        )
    set_peft_model_state_dict(model, weights, adapter_name=NAME)


def begin_with(model: Any, folder: Path) -> None:
    """Give a new LoRA the weights of an adapter's folder. Raises UserError if the adapter does not fit."""
    if not (folder / ADAPTER_CONFIG).is_file():
        raise refusal("the adapter to continue from is a whole model; train it as a model, by its name")
    if not isinstance(model, PeftModel):
        raise refusal("the adapter to continue from is a LoRA, and this spec trains all weights of the model")
    described = {**LoraConfig().to_dict(), **json.loads((folder / ADAPTER_CONFIG).read_text())}
    fields = lora.differences(described, model.peft_config[NAME].to_dict())
    if fields:
        shown = "; ".join(f"{field} is {there} there and {here} here" for field, there, here in fields)
        raise refusal(f"the adapter to continue from is another LoRA: {shown}")
    weights = read_adapter(folder)
    differing = _differing_names(model, weights)
    if differing:
        raise refusal(
            f"the adapter to continue from has other weights than this model's LoRA: {', '.join(differing[:5])}"
        )
    set_peft_model_state_dict(model, weights, adapter_name=NAME)


def refusal(message: str) -> UserError:
    return UserError(
        "continue_from",
        message,
        hint="use the model and the lora group of the job that trained it",
        param="continue_from",
    )


def _differing_names(model: Any, weights: Weights) -> list[str]:
    """The sorted names of tensors that are missing on one side or have another shape there."""
    own = get_peft_model_state_dict(model, adapter_name=NAME, save_embedding_layers=False)
    there, here = ({name: tuple(value.shape) for name, value in side.items()} for side in (weights, own))
    return sorted(name for name in {*there, *here} if there.get(name) != here.get(name))
