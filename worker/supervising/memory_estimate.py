"""How much of a GPU's memory a training takes at most: measured where the job was at work before, estimated otherwise.

The estimate adds up what Unsloth and TRL hold at the worst moment of a step. It is meant to be too high rather than too
low: what it says no to costs a pause of the engine, what it wrongly says yes to costs an attempt.
"""

from dataclasses import dataclass

from app.contracts.model_card import ModelCard
from app.contracts.spec import JobSpec

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


def shape_of(card: ModelCard) -> BaseShape | None:
    """None for a form of model that is not known."""
    sizes = (card.hidden_size, card.intermediate_size, card.layers, card.vocabulary)
    known = [size for size in sizes if size is not None]
    is_known = len(known) == len(sizes) and card.weight_bytes > 0
    return BaseShape(card.weight_bytes, card.is_quantised, *known) if is_known else None


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
