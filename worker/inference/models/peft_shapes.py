"""What PEFT creates from an adapter's config on a base: the shapes of the weights and the layers that change.

PEFT itself computes this on a copy of the base without memory (`meta` device), so it never touches the serving model.
"""

import json
import threading
from collections import OrderedDict
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict
from peft.tuners.lora import Linear, LoraLayer
from torch import nn
from transformers import AutoModelForCausalLM

from worker.inference.models.bases import MAKING

CANDIDATE = "candidate"
MOST_CONFIGS = 64
# Config fields about the origin of an adapter, which do not affect its shape.
ORIGIN = ("base_model_name_or_path", "revision", "peft_version")


@dataclass(frozen=True)
class LoraPart:
    """How an adapter changes one layer. A plain part is two matrices beside an `nn.Linear`."""

    scaling: float
    is_plain: bool


@dataclass(frozen=True)
class PeftShape:
    """Shapes of the weights by the keys under which PEFT saves them, and parts by the path of their layer."""

    shapes: dict[str, tuple[int, ...]]
    parts: dict[str, LoraPart]


class PeftShapes:
    """The shapes for one base. Results are cached by config. Thread-safe."""

    def __init__(self, base_config: Any) -> None:
        self._base_config = base_config
        self._made: OrderedDict[str, PeftShape] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, config: Any) -> PeftShape:
        """The shape of an adapter with this config. Raises the errors of PEFT for a config that does not fit
        the base.
        """
        fields = {name: value for name, value in config.to_dict().items() if name not in ORIGIN}
        key = json.dumps(fields, default=sorted, sort_keys=True)
        with self._lock:
            if key not in self._made:
                self._made[key] = _build(
                    self._base_config, deepcopy(config)
                )  # PEFT changes the config that it is given
            self._made.move_to_end(key)
            while len(self._made) > MOST_CONFIGS:
                self._made.popitem(last=False)
            return self._made[key]


def _build(base_config: Any, config: Any) -> PeftShape:
    with MAKING:
        with torch.device("meta"):
            skeleton = AutoModelForCausalLM.from_config(base_config, trust_remote_code=False)
        wrapped = PeftModel(skeleton, config, adapter_name=CANDIDATE, low_cpu_mem_usage=True)
    state = get_peft_model_state_dict(wrapped, adapter_name=CANDIDATE, save_embedding_layers=False)
    layers = {path: layer for path, layer in skeleton.named_modules() if isinstance(layer, LoraLayer)}
    return PeftShape(
        {key: tuple(tensor.shape) for key, tensor in state.items()},
        {path: LoraPart(float(layer.scaling[CANDIDATE]), _is_plain(layer)) for path, layer in layers.items()},
    )


def _is_plain(layer: Any) -> bool:
    return type(layer) is Linear and type(layer.base_layer) is nn.Linear and not layer.lora_variant
