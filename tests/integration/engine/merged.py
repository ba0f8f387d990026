"""A tiny base with biases, and adapters of it that are more than LoRA on linear layers."""

from pathlib import Path
from typing import Any

from tests.integration.engine.model_caches import ServedModel, build_tiny_adapter
from tests.support.tiny_model import build_tiny_model
from worker.inference.engine import AdapterFolder, ModelFolder

MORE_THAN_LORA: dict[str, dict[str, Any]] = {
    "all biases": {"r": 4, "bias": "all", "target_modules": ["q_proj", "gate_proj"]},
    "biases of its layers": {"r": 4, "bias": "lora_only", "target_modules": ["q_proj", "v_proj"]},
    "directions": {"r": 4, "use_dora": True, "target_modules": ["v_proj", "up_proj"]},
    "a head": {"r": 2, "target_modules": ["o_proj", "down_proj"], "modules_to_save": ["lm_head"]},
    "embeddings": {"r": 2, "target_modules": ["k_proj"], "modules_to_save": ["embed_tokens"]},
    "some tokens": {"r": 2, "target_modules": ["k_proj"], "trainable_token_indices": [63, 85, 263]},
    "LoRA on the embeddings": {"r": 3, "target_modules": ["v_proj", "embed_tokens"]},
    "biases of LoRA": {"r": 2, "lora_bias": True, "target_modules": ["q_proj", "k_proj"]},
    "a large rank": {"r": 520, "target_modules": ["q_proj"]},
}
PLAIN = {"r": 4, "target_modules": ["q_proj", "up_proj"]}


def build_biased_model(folder: Path) -> ServedModel:
    """The base is a Qwen2; the adapter "plain" is one that a mixed batch can hold."""
    path = build_tiny_model(folder / "base", family="Qwen2")
    base = ModelFolder(path.name, path)
    served_model = ServedModel(base, base, base, {})
    for seed, (name, config) in enumerate({"plain": PLAIN, **MORE_THAN_LORA}.items(), start=40):
        built = build_tiny_adapter(folder / name, path, seed=seed, **config)
        served_model.adapters[name] = AdapterFolder(f"adapter-{name}@v1", built)
    return served_model
