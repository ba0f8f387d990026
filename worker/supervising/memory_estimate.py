"""Gives an upper bound for the GPU memory of a training: measured in an earlier attempt, otherwise estimated.

The estimate adds up what Unsloth and TRL hold at the peak of a step. It is rather too high than too low: too high only
makes the engine free its memory without need, too low lets an attempt fail.
"""

from dataclasses import dataclass

from app.contracts.model_card import ModelCard
from app.contracts.spec import JobSpec

# For the CUDA context, libraries and memory that the allocator loses by fragmentation.
CONTEXT_BYTES = 3 * 2**29
MARGIN = 1.2
# The size of a base in 4 or 8 bits, with the constants of its blocks, relative to 16 bits.
IN_4_BITS, IN_8_BITS = 0.3, 0.55
# For a weight that is trained in 32 bits: the weight, its gradient and AdamW's two moments.
TRAINED_BYTES = 16
TRAINED_TO_16_BITS = TRAINED_BYTES // 2


@dataclass(frozen=True)
class BaseShape:
    """The sizes of a base model that decide its memory. `weight_bytes`: of its files, with at most 16 bits a weight."""

    weight_bytes: int
    is_quantised: bool
    hidden: int
    intermediate: int
    layers: int
    vocabulary: int


def shape_of(card: ModelCard) -> BaseShape | None:
    """Returns None if the card lacks one of the sizes, that is, the model has an unknown form."""
    sizes = (card.hidden_size, card.intermediate_size, card.layers, card.vocabulary)
    known = [size for size in sizes if size is not None]
    is_known = len(known) == len(sizes) and card.weight_bytes > 0
    return BaseShape(card.weight_bytes, card.is_quantised, *known) if is_known else None


def training_bytes(spec: JobSpec, shape: BaseShape) -> int:
    """An upper bound in bytes, without the base's own files being read into memory first."""
    held = _base(spec, shape) + _trained(spec, shape) + _activations(spec, shape)
    return int(held * MARGIN) + CONTEXT_BYTES


def measured_bytes(peak: int) -> int:
    """The upper bound for a training that reserved `peak` bytes in an earlier attempt."""
    return int(peak * MARGIN) + CONTEXT_BYTES


def _base(spec: JobSpec, shape: BaseShape) -> float:
    embeddings = 2 * shape.vocabulary * shape.hidden * 2  # embeddings and head are not quantised
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
    # Inputs plus outputs of the seven projections; those of attention are at most as wide as the hidden state.
    sides = 8 * shape.hidden + 3 * (shape.hidden + shape.intermediate)
    fully_trained = {*spec.lora.named_targets, *(spec.lora.modules_to_save or ())} & {"embed_tokens", "lm_head"}
    weights = shape.layers * spec.lora.largest_rank * sides + len(fully_trained) * shape.vocabulary * shape.hidden
    return weights * TRAINED_BYTES


def _activations(spec: JobSpec, shape: BaseShape) -> float:
    """Follows Korthikanti et al. 2022 (arXiv 2205.05198, section 4.1), without the attention matrices."""
    batch = max(spec.training.per_device_train_batch_size, spec.training.per_device_eval_batch_size)
    layer = 34 * shape.hidden + 12 * shape.intermediate
    kept = shape.layers * layer if spec.lora.use_gradient_checkpointing is False else 2 * shape.layers * shape.hidden
    logits = 8 * shape.vocabulary  # logits and their gradient, in 32 bits
    return batch * spec.method.sequences * spec.model.max_seq_length * float(kept + layer + logits)
