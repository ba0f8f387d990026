"""From an adapter's folder to the weights of a slot. PEFT itself says which layer it changes and how strongly."""

import json
from collections import OrderedDict
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import Linear, LoraLayer
from torch import nn
from transformers import AutoModelForCausalLM

from worker.inference.adapters import CANDIDATE, CONFIG, validate_bundle
from worker.inference.batching.attention import NotBatchable
from worker.inference.batching.lora import LoraWeights
from worker.inference.engine import AdapterFolder

PREFIX = "base_model.model."
MAX_RANK = 512
# Parts of an adapter that are more than two small matrices beside a linear layer.
MORE_THAN_LORA = ("use_dora", "modules_to_save", "trainable_token_indices", "use_qalora", "lora_bias", "arrow_config")


def more_than_lora(adapter: AdapterFolder) -> str | None:
    """The part of the adapter's config that a mixed batch cannot compute; None too when the config is unreadable."""
    try:
        raw = json.loads((adapter.folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None  # the check of the whole bundle tells what is wrong with it
    if not isinstance(raw, dict):
        return None
    return next((name for name in MORE_THAN_LORA if raw.get(name)), None)


class AdapterReader:
    """Reads adapters of one base and remembers what their configs mean for it. For one thread at a time."""

    def __init__(self, model: Any, linear_paths: frozenset[str]) -> None:
        self._model = model
        self._linear_paths = linear_paths
        self._scalings: OrderedDict[str, dict[str, float]] = OrderedDict()

    def read(self, adapter: AdapterFolder) -> LoraWeights:
        """Raises Refusal 409 for a bundle that does not fit its base, NotBatchable for more than LoRA."""
        bundle = validate_bundle(adapter, self._model)
        scalings = self._scalings_of(bundle.config)
        left, pairs = dict(bundle.tensors), {}
        for path, scaling in scalings.items():
            down, up = (left.pop(f"{PREFIX}{path}.lora_{part}.weight") for part in "AB")
            pairs[path] = (down, up.float() * scaling)
        if left:
            raise NotBatchable(f"{next(iter(left))} is no pair of LoRA matrices")
        weights = LoraWeights(adapter.name, pairs, sum(part.nbytes for pair in pairs.values() for part in pair))
        if weights.rank > MAX_RANK:
            raise NotBatchable(f"rank {weights.rank} is above {MAX_RANK}")
        return weights

    def _scalings_of(self, config: Any) -> dict[str, float]:
        key = json.dumps(config.to_dict(), default=sorted, sort_keys=True)
        if key not in self._scalings:
            self._scalings[key] = self._ask_peft(config)
        return self._scalings[key]

    def _ask_peft(self, config: Any) -> dict[str, float]:
        with torch.device("meta"):
            skeleton = AutoModelForCausalLM.from_config(self._model.config, trust_remote_code=False)
        PeftModel(skeleton, config, adapter_name=CANDIDATE, low_cpu_mem_usage=True)
        layers = {path: layer for path, layer in skeleton.named_modules() if isinstance(layer, LoraLayer)}
        for path, layer in layers.items():
            if type(layer) is not Linear or type(layer.base_layer) is not nn.Linear or layer.lora_variant:
                raise NotBatchable(f"its layer {path} is more than LoRA on a linear layer")
            if path not in self._linear_paths:
                raise NotBatchable(f"the base does not send every token through {path}")
        return {path: float(layer.scaling[CANDIDATE]) for path, layer in layers.items()}


class Shelf:
    """Adapters that were read, in memory of the host, up to a number of bytes; the least recently used goes first."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._weights: OrderedDict[str, LoraWeights] = OrderedDict()

    def get(self, name: str) -> LoraWeights | None:
        if name in self._weights:
            self._weights.move_to_end(name)
        return self._weights.get(name)

    def put(self, weights: LoraWeights) -> None:
        """The newest stays, however large it is."""
        self._weights[weights.name] = weights
        while len(self._weights) > 1 and sum(one.nbytes for one in self._weights.values()) > self._most_bytes:
            self._weights.popitem(last=False)
