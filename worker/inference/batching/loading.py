"""Reads an adapter's folder to the weights of a slot. PEFT decides which layers change and with which scale."""

import json
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from app.contracts.model_card import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from worker.inference.batching.attention import NotBatchable
from worker.inference.batching.lora import LoraWeights
from worker.inference.engine import AdapterFolder
from worker.inference.models.adapters import BIAS, validate_bundle
from worker.inference.models.peft_shapes import PeftShape, PeftShapes

PREFIX = "base_model.model."
MAX_RANK = 512
# Config fields of an adapter for more than two small matrices beside a linear layer.
MORE_THAN_LORA = (
    "use_dora",
    "modules_to_save",
    "trainable_token_indices",
    "target_parameters",
    "use_qalora",
    "lora_bias",
    "arrow_config",
)


def more_than_lora(adapter: AdapterFolder) -> str | None:
    """The config name of a part that a mixed batch cannot compute. Returns None if none is found.

    It reads no weights. Files that cannot be read are reported later, by the check of the whole bundle.
    """
    try:
        raw = json.loads((adapter.folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
        if not isinstance(raw, dict):
            return None
        found = next((name for name in MORE_THAN_LORA if raw.get(name)), None)
        if found is None and raw.get("bias", "none") != "none":
            with safe_open(str(adapter.folder / ADAPTER_WEIGHTS), framework="pt") as tensors:
                found = "bias" if any(key.endswith(BIAS) for key in tensors.keys()) else None  # noqa: SIM118
    except (OSError, ValueError, SafetensorError):
        return None
    return found


class AdapterReader:
    """Reads adapters of one base, and caches what their configs mean for it."""

    def __init__(self, model: Any, linear_paths: frozenset[str]) -> None:
        self._peft_shapes = PeftShapes(model.config)
        self._linear_paths = linear_paths
        self._dtype = model.dtype
        self._device = model.device

    def read(self, adapter: AdapterFolder) -> LoraWeights:
        """Read an adapter. Raises Refusal 409 if it does not fit its base, NotBatchable if it is more than LoRA."""
        bundle = validate_bundle(adapter, self._peft_shapes)
        self._check_parts(bundle.peft_shape)
        left, parts = dict(bundle.tensors), bundle.peft_shape.parts
        pairs = {path: tuple(left.pop(f"{PREFIX}{path}.lora_{matrix}.weight") for matrix in "AB") for path in parts}
        if left:
            raise NotBatchable(f"{next(iter(left))} is not a pair of LoRA matrices")
        places = self._allocate(pairs.values())
        for path, (down, up) in pairs.items():
            scaled = (up.float() * parts[path].scaling).t()
            pairs[path] = (_put(next(places), down), _put(next(places), scaled))
        weights = LoraWeights(adapter.name, pairs, sum(part.nbytes for pair in pairs.values() for part in pair))
        if weights.rank > MAX_RANK:
            raise NotBatchable(f"rank {weights.rank} is above {MAX_RANK}")
        return weights

    def _allocate(self, pairs: Iterable[tuple[Any, Any]]) -> Iterator[Any]:
        """Allocate A and B of each pair in one piece of memory, pinned if a GPU reads it."""
        sizes = [part.numel() for pair in pairs for part in pair]
        kind = {"dtype": self._dtype, "pin_memory": self._device.type == "cuda"}
        return iter(torch.empty(sum(sizes), **kind).split(sizes))

    def _check_parts(self, peft_shape: PeftShape) -> None:
        for path, part in peft_shape.parts.items():
            if not part.is_plain:
                raise NotBatchable(f"its layer {path} is more than LoRA on a linear layer")
            if path not in self._linear_paths:
                raise NotBatchable(f"the base does not send every token through {path}")


def _put(place: Any, tensor: Any) -> Any:
    return place.view(tensor.shape).copy_(tensor)


class AdapterCache:
    """Adapters of all bases in host memory, up to a total number of bytes.

    An owner finds only its own adapters. The least recently used is dropped first.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._weights: OrderedDict[tuple[object, str], LoraWeights] = OrderedDict()

    def get(self, owner: object, name: str) -> LoraWeights | None:
        if (owner, name) in self._weights:
            self._weights.move_to_end((owner, name))
        return self._weights.get((owner, name))

    def clear(self, owner: object) -> None:
        for key in [key for key in self._weights if key[0] is owner]:
            del self._weights[key]

    def put(self, owner: object, weights: LoraWeights) -> None:
        """Add an adapter. The newest stays, whatever its size."""
        self._weights[owner, weights.name] = weights
        while len(self._weights) > 1 and sum(one.nbytes for one in self._weights.values()) > self._most_bytes:
            self._weights.popitem(last=False)
