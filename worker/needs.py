"""How much of a GPU's memory a training takes at most: measured where the job was at work before, estimated otherwise.

The estimate adds up what Unsloth and TRL hold at the worst moment of a step. It is meant to be too high rather than too
low: what it says no to costs a pause of the engine, what it wrongly says yes to costs an attempt.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache

from app.contracts.order import BaseRef
from app.contracts.spec import JobSpec

CONFIG, INDEX = "config.json", "model.safetensors.index.json"
SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "vocab_size")
# The CUDA context, libraries and what the allocator has cut up.
CONTEXT_BYTES = 3 * 2**29
MARGIN = 1.2
# Of a base in 16 bits, that is left in 4 or 8 bits with the constants of the blocks.
IN_4_BITS, IN_8_BITS = 0.3, 0.55
# A weight that is trained in 32 bits: itself, its gradient and AdamW's two moments.
TRAINED_BYTES = 16
TRAINED_TO_16_BITS = TRAINED_BYTES // 2


@dataclass(frozen=True)
class BaseShape:
    """What counts of a base model. `weight_bytes` are those of its files, which hold 16 bits a weight, or less."""

    weight_bytes: int
    is_quantised: bool
    hidden: int
    intermediate: int
    layers: int
    vocabulary: int


def shape_of(base: BaseRef) -> BaseShape | None:
    """Read from the small files of the model; None while they are not on this host, or for a form not known."""
    config_path = _file(base, CONFIG)
    if config_path is None:
        return None
    config: dict[str, Any] = json.loads(config_path.read_text())
    text = config.get("text_config", config)  # of a model that also sees
    weight_bytes = _weight_bytes(base, config_path.parent)
    if weight_bytes == 0 or any(not isinstance(text.get(name), int) for name in SIZES):
        return None
    return BaseShape(weight_bytes, "quantization_config" in config, *(text[name] for name in SIZES))


def _file(base: BaseRef, name: str) -> Path | None:
    if base.is_local:
        path = Path(base.source) / name
        return path if path.is_file() else None
    found = try_to_load_from_cache(base.source, name, revision=base.revision)
    return Path(found) if isinstance(found, str) else None


def _weight_bytes(base: BaseRef, folder: Path) -> int:
    index = _file(base, INDEX)
    if index is not None:
        return int(json.loads(index.read_text()).get("metadata", {}).get("total_size", 0))
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def training_bytes(spec: JobSpec, shape: BaseShape) -> int:
    """An upper bound, without the base's own files being read into memory first."""
    held = _base(spec, shape) + _trained(spec, shape) + _activations(spec, shape)
    return int(held * MARGIN) + CONTEXT_BYTES


def measured_bytes(peak: int) -> int:
    """What a training takes that was seen to reserve so much."""
    return int(peak * MARGIN) + CONTEXT_BYTES


def _base(spec: JobSpec, shape: BaseShape) -> float:
    embeddings = 2 * shape.vocabulary * shape.hidden * 2  # and the head: neither is quantised
    if shape.is_quantised:
        return shape.weight_bytes
    if spec.model.load_in_4bit:
        return shape.weight_bytes * IN_4_BITS + embeddings
    if spec.model.load_in_8bit:
        return shape.weight_bytes * IN_8_BITS + embeddings
    return shape.weight_bytes * (2 if spec.model.dtype == "float32" else 1)


def _trained(spec: JobSpec, shape: BaseShape) -> float:
    if spec.model.full_finetuning:
        return shape.weight_bytes * TRAINED_TO_16_BITS
    # Rows and columns of the seven projections; those of attention are at most as wide as the layer.
    sides = 8 * shape.hidden + 3 * (shape.hidden + shape.intermediate)
    whole = {*spec.lora.target_modules, *(spec.lora.modules_to_save or ())} & {"embed_tokens", "lm_head"}
    weights = shape.layers * spec.lora.r * sides + len(whole) * shape.vocabulary * shape.hidden
    return weights * TRAINED_BYTES


def _activations(spec: JobSpec, shape: BaseShape) -> float:
    """By the count of Korthikanti et al. 2022 (arXiv 2205.05198, section 4.1), without attention's own matrices."""
    batch = max(spec.training.per_device_train_batch_size, spec.training.per_device_eval_batch_size)
    layer = 34 * shape.hidden + 12 * shape.intermediate
    kept = shape.layers * layer if spec.lora.use_gradient_checkpointing is False else 2 * shape.layers * shape.hidden
    logits = 8 * shape.vocabulary  # in 32 bits, and their gradient
    return batch * spec.model.max_seq_length * float(kept + layer + logits)
