"""Makes one model of a base and an adapter: what is more than LoRA on linear layers becomes part of the weights.

PEFT merges layer by layer; each layer is in float32 meanwhile, so that a coarser type rounds once.
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
# What PEFT raises for a layer that it cannot merge.
UNMERGEABLE = (ValueError, TypeError, NotImplementedError)


def merge(adapter: AdapterFolder, bundle: Bundle, base: Any) -> Any:
    """A plain model that answers as the base with the adapter does. The base is used up.

    Raises Refusal 409 `adapter_rejected` for an adapter that PEFT cannot merge, or whose merged weights are not finite.
    """
    if getattr(base, "is_quantized", False):
        base = base.dequantize(dtype=base.dtype)  # merged weights that are quantised again would be others
    wrapped = PeftModel(base, bundle.config, adapter_name=MERGED)
    left = set_peft_model_state_dict(wrapped, bundle.tensors, adapter_name=MERGED).unexpected_keys
    if left:
        raise MixedUp(f"{left[0]} of {adapter.name} went nowhere")
    try:
        with torch.no_grad():
            _merge_layers(base)
            model = wrapped.base_model.merge_and_unload()  # modules and tokens that were trained as a whole
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
            if users[id(weights)] > 1:  # tied to another layer, which the adapter leaves as it is
                setattr(plain, name, nn.Parameter(weights.detach().clone(), requires_grad=False))
        layer.float()
        base.set_submodule(path, _merged(layer).to(dtype))


def _outermost(base: Any) -> Iterator[tuple[str, Any]]:
    """LoRA layers that are in no other one: those of the parameters of experts are nested."""
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
