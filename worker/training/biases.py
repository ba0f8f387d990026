"""Restores the base's own biases: PEFT trains them in place, and its `disable_adapter` does not undo that."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from peft import PeftModel

# Under these names PEFT stores the layers of the base.
PLACES = (".base_layer", ".original_module")
# Names with these parts belong to the adapter, not to the base.
ADDED = (".lora_", ".modules_to_save.")
Biases = Mapping[str, Any]


def base_biases(model: Any) -> Biases:
    """Copies of the current biases, by their names in the base. `model` may have LoRA or not."""
    return {name: bias.detach().clone() for name, bias in _named_biases(model)}


@contextmanager
def answering_as_base(model: PeftModel, biases: Biases) -> Iterator[None]:
    """Make the model compute as its base, with these biases, inside the block. Call it under `torch.no_grad`."""
    trained = base_biases(model)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Careful, disabling adapter layers with bias")
        with model.disable_adapter():
            _set(model, biases)
            try:
                yield
            finally:
                _set(model, trained)


def _set(model: PeftModel, biases: Biases) -> None:
    for name, bias in _named_biases(model):
        bias.copy_(biases[name])


def _named_biases(model: Any) -> Iterator[tuple[str, torch.nn.Parameter]]:
    for name, weights in model.named_parameters():
        if name.endswith(".bias") and not any(part in name for part in ADDED):
            plain = name.removeprefix("base_model.model.")
            for place in PLACES:
                plain = plain.replace(place, "")
            yield plain, weights
