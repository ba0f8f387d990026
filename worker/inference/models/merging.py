"""Merges an adapter into its base, for adapters that have more than LoRA on linear layers.

PEFT merges layer by layer. Each layer is in float32 meanwhile, so that a coarser dtype is rounded only once.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from peft import PeftModel, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from torch import nn

from worker.inference.engine import AdapterFolder
from worker.inference.models.adapters import Bundle, rejected
from worker.inference.models.resident import MixedUp

MERGED = "merged"
# Errors that PEFT raises for a layer that it cannot merge.
UNMERGEABLE = (ValueError, TypeError, NotImplementedError)


def merge(adapter: AdapterFolder, bundle: Bundle, base: Any) -> Any:
    """A plain model that answers as the base with the adapter does. The base must not be used afterwards.

    Raises Refusal 409 `adapter_rejected` if PEFT cannot merge the adapter, or the merged weights are not finite.
    """
    if getattr(base, "is_quantized", False):
        base = base.dequantize(dtype=base.dtype)  # quantising merged weights again would change them
    wrapped = PeftModel(base, bundle.config, adapter_name=MERGED)
    left = set_peft_model_state_dict(wrapped, bundle.tensors, adapter_name=MERGED).unexpected_keys
    if left:
        raise MixedUp(f"{left[0]} of {adapter.name} was not loaded")
    try:
        with torch.no_grad():
            _merge_layers(base)
            model = wrapped.base_model.merge_and_unload()  # for modules and tokens that were trained in full
    except UNMERGEABLE as error:
        raise rejected(adapter, f"it cannot be merged into its base ({error})") from None
    for name, weights in model.named_parameters():
        if not torch.isfinite(weights).all():
            raise rejected(adapter, f"merged into its base, {name} holds numbers that are not finite")
    return model.eval()


def _merge_layers(base: Any) -> None:
    users = Counter(id(weights) for module in base.modules() for weights in module.parameters(recurse=False))
    for path, layer in list(_outermost(base)):
        plain = layer.get_base_layer()
        dtype = next(plain.parameters()).dtype
        for name, weights in list(plain.named_parameters(recurse=False)):
            if users[id(weights)] > 1:  # tied to another layer, which the adapter must not change
                setattr(plain, name, nn.Parameter(weights.detach().clone(), requires_grad=False))
        layer.float()
        base.set_submodule(path, _merged(layer).to(dtype))


def _outermost(base: Any) -> Iterator[tuple[str, Any]]:
    """LoRA layers that are not inside another one: those on the parameters of experts are nested."""
    outer: str | None = None
    for path, layer in base.named_modules():
        if isinstance(layer, LoraLayer) and (outer is None or not path.startswith(f"{outer}.")):
            outer = path
            yield path, layer


def _merged(layer: Any) -> Any:
    if hasattr(layer, "unload_and_optionally_merge_module"):
        return layer.unload_and_optionally_merge_module(merge=True, safe_merge=False, adapter_names=None)
    plain = layer.get_base_layer()
    if layer.lora_bias[MERGED] and plain.bias is None:
        plain.bias = nn.Parameter(plain.weight.new_zeros(layer.out_features), requires_grad=False)
    layer.merge()
    return plain
