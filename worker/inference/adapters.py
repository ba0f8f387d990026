"""Checks a LoRA bundle against its base before a weight of it is used. What does not fit exactly is refused by name.

vLLM and PEFT load an adapter with wrong keys and then answer as the base (research/serving.md, section 5); here that is
a 409. The check wraps a copy of the base without memory (`meta` device): the serving model is never touched by it.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from worker.inference.engine import AdapterFolder, Refusal

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PICKLES = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt"}
# Other initialisations change the base weights when a layer is made, for every adapter on it.
HARMLESS_STARTS = (True, False, "gaussian", "eva", "orthogonal")
CANDIDATE = "candidate"


@dataclass(frozen=True)
class Bundle:
    """A checked adapter. Its tensors are in CPU memory, under the keys that PEFT saves."""

    config: Any
    tensors: dict[str, Any]


def check_folder(adapter: AdapterFolder) -> None:
    """Raises Refusal for a folder that is missing, leads out of itself, or holds pickles."""
    root = adapter.folder.resolve()
    if not root.is_dir():
        raise rejected(adapter, "its folder is missing")
    for path in root.rglob("*"):
        if not path.resolve().is_relative_to(root):
            raise rejected(adapter, f"{path.relative_to(root)} leads out of its folder")
        if path.suffix.lower() in PICKLES:
            raise rejected(adapter, f"{path.relative_to(root)} may be a pickle; only safetensors are read")


def validate_bundle(adapter: AdapterFolder, base: Any) -> Bundle:
    """Read a bundle and hold it against the loaded base. Raises Refusal 409 `adapter_rejected` with the reason."""
    check_folder(adapter)
    config = _read_config(adapter)
    tensors = _read_tensors(adapter)
    _check_keys(adapter, tensors, _expected(adapter, config, base))
    for key, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise rejected(adapter, f"{key} holds numbers that are not finite")
    return Bundle(_read_config(adapter), tensors)  # PEFT writes into a config that it has used


def _read_config(adapter: AdapterFolder) -> Any:
    raw = _read_json(adapter, adapter.folder / CONFIG)
    if raw.get("peft_type") != "LORA":
        raise rejected(adapter, f"its peft_type is {raw.get('peft_type')!r}, only LORA can be served")
    start = raw.get("init_lora_weights", True)
    if start not in HARMLESS_STARTS:
        raise rejected(adapter, f"init_lora_weights {start!r} changes the base weights")
    for name in ("layer_replication", "alora_invocation_tokens", "target_parameters"):
        if raw.get(name):
            raise rejected(adapter, f"{name} cannot be served beside other adapters")
    try:
        config = LoraConfig.from_pretrained(str(adapter.folder))
    except (TypeError, ValueError, KeyError) as error:
        raise rejected(adapter, f"{CONFIG} cannot be read ({error})") from None
    config.inference_mode = True
    config.init_lora_weights = False  # every weight comes from the file
    config.bias = "none"  # trained biases are then unexpected keys: they cannot be kept apart from the base
    return config


def _read_json(adapter: AdapterFolder, path: Path) -> dict[str, Any]:
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise rejected(adapter, f"{path.name} is missing") from None
    except (OSError, ValueError):
        raise rejected(adapter, f"{path.name} is no JSON") from None
    if not isinstance(raw, dict):
        raise rejected(adapter, f"{path.name} is no JSON object")
    return raw


def _read_tensors(adapter: AdapterFolder) -> dict[str, Any]:
    path = adapter.folder / WEIGHTS
    if not path.is_file():
        raise rejected(adapter, f"{WEIGHTS} is missing")
    try:
        tensors: dict[str, Any] = load_file(str(path))
    except (SafetensorError, OSError, ValueError) as error:
        raise rejected(adapter, f"{WEIGHTS} cannot be read ({error})") from None
    return tensors


def _expected(adapter: AdapterFolder, config: Any, base: Any) -> dict[str, Any]:
    """Keys and shapes that an adapter of this config has on this base."""
    try:
        with torch.device("meta"):
            skeleton = AutoModelForCausalLM.from_config(base.config, trust_remote_code=False)
        wrapped = PeftModel(skeleton, config, adapter_name=CANDIDATE, low_cpu_mem_usage=True)
        state = get_peft_model_state_dict(wrapped, adapter_name=CANDIDATE, save_embedding_layers=False)
    except (ValueError, TypeError, KeyError, RuntimeError, NotImplementedError) as error:
        raise rejected(adapter, f"it does not fit the base model ({error})") from None
    return {key: tuple(tensor.shape) for key, tensor in state.items()}


def _check_keys(adapter: AdapterFolder, tensors: dict[str, Any], expected: dict[str, Any]) -> None:
    unexpected = sorted(tensors.keys() - expected.keys())
    if unexpected:
        raise rejected(adapter, f"{unexpected[0]} is no adapter weight of this base ({len(unexpected)} such keys)")
    missing = sorted(expected.keys() - tensors.keys())
    if missing:
        raise rejected(adapter, f"{missing[0]} is missing ({len(missing)} missing keys)")
    for key, shape in sorted(expected.items()):
        if tuple(tensors[key].shape) != shape:
            raise rejected(adapter, f"{key} has the shape {tuple(tensors[key].shape)}, the base needs {shape}")


def rejected(adapter: AdapterFolder, reason: str) -> Refusal:
    return Refusal(409, "adapter_rejected", f"the adapter {adapter.name} was rejected: {reason}"[:1000], "adapter")
