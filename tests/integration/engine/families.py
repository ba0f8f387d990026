"""Tiny models of several families, with weights of a fixed seed, and whether a batch can hold them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import GenerationConfig

SIZES: dict[str, Any] = {
    "vocab_size": 256,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": 0,
}


@dataclass(frozen=True)
class Family:
    """The name of transformers' classes, and the changes of SIZES; a field that is `...` is left out."""

    name: str
    is_batched: bool
    changes: dict[str, Any]


NO_SIZES: dict[str, Any] = dict.fromkeys(SIZES, ...)
FAMILIES = {
    "Llama": Family("Llama", True, {}),
    "Mistral with a window": Family("Mistral", True, {"sliding_window": 12}),
    "Qwen2": Family("Qwen2", True, {}),
    "Qwen3": Family("Qwen3", True, {"head_dim": 16}),
    "Gemma2 with soft caps and windows": Family("Gemma2", True, {"sliding_window": 12, "head_dim": 16}),
    "Phi3": Family("Phi3", True, {}),
    "Qwen3 with experts": Family(
        "Qwen3Moe", True, {"head_dim": 16, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
    ),
    "GPT-2": Family(
        "GPT2", True, {**NO_SIZES, "vocab_size": 256, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 256}
    ),
    "Bloom, whose positions are in its scores": Family(
        "Bloom", False, {**NO_SIZES, "vocab_size": 256, "hidden_size": 64, "n_layer": 2, "n_head": 4}
    ),
    "Llama with positions of the whole batch": Family(
        "Llama", False, {"rope_parameters": {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0}}
    ),
}


def build_family(family: str, folder: Path) -> Path:
    """Write the model as float32 safetensors; it names no end token."""
    chosen = FAMILIES[family]
    fields = {name: value for name, value in {**SIZES, **chosen.changes}.items() if value is not ...}
    config = getattr(transformers, f"{chosen.name}Config")(**{**fields, "bos_token_id": None, "eos_token_id": None})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(config)
        for weights in model.parameters():
            if weights.dim() > 1:
                torch.nn.init.normal_(weights.data, std=0.15)
    model.generation_config = GenerationConfig(pad_token_id=0)
    model.save_pretrained(folder)
    return folder
