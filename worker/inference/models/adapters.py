"""Checks a LoRA bundle against its base before any weight is used. A bundle that does not fit exactly is refused with
the reason.

vLLM and PEFT load an adapter with wrong keys and then answer as the base (research/serving.md, section 5); here it is
refused with 409.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from safetensors import SafetensorError
from safetensors.torch import load, load_file

from app.contracts.model_card import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from worker.inference.engine import AdapterFolder, Refusal
from worker.inference.models.peft_shapes import PeftShape, PeftShapes

BIAS = ".bias"
PICKLES = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt"}
# Other initialisations change the weights of the base when a layer is created, for every adapter on it.
HARMLESS_STARTS = (True, False, "gaussian", "eva", "orthogonal")
MISFITS = (ValueError, TypeError, KeyError, AttributeError, RuntimeError, NotImplementedError)


@dataclass(frozen=True)
class Bundle:
    """A checked adapter. Its tensors are in CPU memory, under the keys that PEFT saves."""

    config: Any
    tensors: dict[str, Any]
    peft_shape: PeftShape

    @property
    def bound_part(self) -> str | None:
        """The config name of a part that cannot be kept apart from the base. Returns None if there is none."""
        if self.config.bias != "none":
            return "bias"
        return "target_parameters" if self.config.target_parameters else None


def check_folder(adapter: AdapterFolder) -> None:
    """Raises Refusal if the folder is missing, has links that lead out of it, or holds pickles, which only a checkpoint
    may.
    """
    root = adapter.folder.resolve()
    if not root.is_dir():
        raise rejected(adapter, "its folder is missing")
    try:
        paths = list(root.rglob("*"))
    except OSError:
        raise rejected(adapter, "its folder was deleted") from None
    for path in paths:
        if not path.resolve().is_relative_to(root):
            raise rejected(adapter, f"{path.relative_to(root)} leads out of its folder")
        if path.suffix.lower() in PICKLES and not adapter.is_checkpoint:
            raise rejected(adapter, f"{path.relative_to(root)} may be a pickle; only safetensors are read")


def validate_bundle(adapter: AdapterFolder, peft_shapes: PeftShapes) -> Bundle:
    """Read a bundle and check it against its base. Raises Refusal 409 `adapter_rejected` with the reason."""
    check_folder(adapter)
    config = _read_config(adapter)
    tensors = _read_tensors(adapter)
    try:
        peft_shape = peft_shapes.of(config)
    except MISFITS as error:
        raise rejected(adapter, f"it does not fit the base model ({error})") from None
    _check_keys(adapter, tensors, peft_shape.shapes)
    for key, tensor in tensors.items():
        if not are_finite(tensor):
            raise rejected(adapter, f"{key} holds numbers that are not finite")
    if not any(key.endswith(BIAS) for key in tensors):
        config.bias = "none"  # the base has no bias that could have been trained
    return Bundle(config, tensors, peft_shape)


def _read_config(adapter: AdapterFolder) -> Any:
    raw = _read_json(adapter, adapter.folder / ADAPTER_CONFIG)
    if raw.get("peft_type") != "LORA":
        raise rejected(adapter, f"its peft_type is {raw.get('peft_type')!r}, only LORA can be served")
    start = raw.get("init_lora_weights", True)
    if start not in HARMLESS_STARTS:
        raise rejected(adapter, f"init_lora_weights {start!r} changes the base weights")
    for name in ("layer_replication", "alora_invocation_tokens"):
        if raw.get(name):
            raise rejected(adapter, f"{name} can neither be served beside other adapters nor merged")
    try:
        config = LoraConfig.from_pretrained(str(adapter.folder))
    except (TypeError, ValueError, KeyError) as error:
        raise rejected(adapter, f"{ADAPTER_CONFIG} cannot be read ({error})") from None
    config.inference_mode = True
    config.init_lora_weights = False  # every weight comes from the file
    return config


def _read_json(adapter: AdapterFolder, path: Path) -> dict[str, Any]:
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise rejected(adapter, f"{path.name} is missing") from None
    except (OSError, ValueError):
        raise rejected(adapter, f"{path.name} is not valid JSON") from None
    if not isinstance(raw, dict):
        raise rejected(adapter, f"{path.name} is not a JSON object")
    return raw


def _read_tensors(adapter: AdapterFolder) -> dict[str, Any]:
    path = adapter.folder / ADAPTER_WEIGHTS
    if not path.is_file():
        raise rejected(adapter, f"{ADAPTER_WEIGHTS} is missing")
    try:
        # If another host deletes a file that is only mapped, reading on in it kills this process.
        tensors: dict[str, Any] = load(path.read_bytes()) if adapter.is_checkpoint else load_file(str(path))
    except (SafetensorError, OSError, ValueError) as error:
        raise rejected(adapter, f"{ADAPTER_WEIGHTS} cannot be read ({error})") from None
    return tensors


def _check_keys(adapter: AdapterFolder, tensors: dict[str, Any], expected: dict[str, Any]) -> None:
    unexpected = sorted(tensors.keys() - expected.keys())
    if unexpected:
        raise rejected(adapter, f"{unexpected[0]} is not an adapter weight of this base ({len(unexpected)} such keys)")
    missing = sorted(expected.keys() - tensors.keys())
    if missing:
        raise rejected(adapter, f"{missing[0]} is missing ({len(missing)} missing keys)")
    for key, shape in sorted(expected.items()):
        if tuple(tensors[key].shape) != shape:
            raise rejected(adapter, f"{key} has the shape {tuple(tensors[key].shape)}, the base needs {shape}")


def are_finite(tensor: Any) -> bool:
    """Whether all numbers are finite. Checking only the smallest and the largest takes a fifth of the time."""
    if tensor.numel() == 0 or not tensor.is_floating_point():
        return True
    return all(math.isfinite(extreme.item()) for extreme in torch.aminmax(tensor))


def rejected(adapter: AdapterFolder, reason: str) -> Refusal:
    return Refusal(409, "adapter_rejected", f"the adapter {adapter.name} was rejected: {reason}"[:1000], "adapter")
