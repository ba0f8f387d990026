"""Predicts the peak of GPU memory of a training step, from the spec, the base's sizes and the tokens of a micro-batch.

The peak is what torch's allocator hands out (`torch.cuda.max_memory_allocated`). It is reached in the backward pass of
the last layer, or where the loss is computed:

    weights + trained + gradients + optimizer + fixed                              held during the whole step
    + kept activations + the larger of (one layer's backward, the loss head)       grows with the tokens

Sources: unsloth 2026.10.9, unsloth_zoo 2026.10.9, bitsandbytes 0.50, peft 0.21, torch 2.11 to 2.14.
"""

from dataclasses import dataclass
from typing import Literal

from app.contracts.model_shape import (
    BaseShape,
    embedding_parameters,
    lora_parameters,
    trained_embeddings,
    trained_parameters,
)
from app.contracts.spec import JobSpec

# As `lora.use_gradient_checkpointing`: no recomputation, that of torch, or Unsloth's with inputs kept by the host.
Recomputation = Literal["unsloth"] | bool
Bits = Literal[4, 8, 16, 32]

# cuBLAS and cuBLASLt each keep a workspace of 32 MiB on Hopper (torch's `CUDABlas.cpp`).
WORKSPACE_BYTES = 2 * 32 * 2**20
# bitsandbytes `quantize_4bit` with `compress_statistics`: half a byte a weight, a byte for each block of 64, and 4
# bytes for each 256 of those blocks.
NF4_BYTES = 1 / 2 + 1 / 64 * (1 + 4 / 256)
# bitsandbytes `Linear8bitLt`: a byte a weight. The 4 bytes for each output are counted by `_base`.
INT8_BYTES = 1
# A block of torch's allocator is larger than what was asked for: rounded to 512 bytes, and not split below 1 MiB.
ROUNDING = 1.01
# Bytes of optimizer states for each trained number. bitsandbytes has 4 more for each block of 256. Paged states lie in
# memory that moves to the host, which torch's allocator does not hold. transformers' SGD has no momentum.
OPTIMIZER_BYTES = {
    "adamw_8bit": 2 + 2 * 4 / 256,
    "adamw_torch": 8,
    "adamw_torch_fused": 8,
    "paged_adamw_8bit": 0,
    "paged_adamw_32bit": 0,
    "sgd": 0,
    "lion_8bit": 1 + 4 / 256,
    "lion_32bit": 4,
    "paged_lion_8bit": 0,
}
# The loss head of unsloth_zoo's `fused_linear.py`: logits of a chunk of rows in 32 bits, or of a tile of rows and
# columns where there are many rows.
FEWEST_LOGITS, MOST_ROWS, CHUNK_BYTES = 512 * 151_936, 4096, 2 * 2**30
TILE_BYTES, TILE_COLUMNS = 256 * 2**20, 16_384
# Bytes for each logit where all of them are computed (transformers' `LabelSmoother`): logits and their gradient in 16
# bits, log-probabilities, their negation, and the gradients of both in 32 bits.
SMOOTHED_LOGIT_BYTES = 2 * 2 + 4 * 4


@dataclass(frozen=True)
class PeakMemory:
    """The parts of a predicted peak, in bytes.

    `temporary`: the larger of one layer's backward pass and the loss head. `fixed`: what libraries keep.
    """

    weights: int
    trained: int
    gradients: int
    optimizer: int
    fixed: int
    activations: int
    temporary: int

    @property
    def held(self) -> int:
        """What does not depend on the number of tokens."""
        return self.weights + self.trained + self.gradients + self.optimizer + self.fixed

    def peak(self, correction: float = 1.0) -> int:
        """The predicted peak. `correction` is the measured share of what grows with the tokens."""
        return self.held + int((self.activations + self.temporary) * correction)


@dataclass(frozen=True)
class MicroBatchSize:
    """One forward and backward pass: its tokens with padding, and which activations are computed again."""

    tokens: int
    recomputation: Recomputation


def bits_of(spec: JobSpec) -> Bits:
    """How many bits a weight of the base has, as the spec says. With `load_in: "auto"` those of the larger choice."""
    model = spec.model
    if model.load_in_4bit or model.load_in_8bit:
        return 4 if model.load_in_4bit else 8
    return 32 if model.dtype == "float32" else 16


def predict(spec: JobSpec, shape: BaseShape, micro_batch: MicroBatchSize, bits: Bits | None = None) -> PeakMemory:
    """Return the predicted memory of a training. `bits` replaces those of the spec."""
    bits = bits or bits_of(spec)
    element = 4 if spec.model.dtype == "float32" else 2
    lora, embeddings = lora_parameters(spec.lora, shape), embedding_parameters(spec.lora, shape)
    sizes = [(lora, 4), (embeddings, 4 if spec.model.dtype == "float16" else element)]
    if spec.model.full_finetuning:
        sizes = [(shape.parameters, 2 if spec.model.dtype in (None, "auto", "bfloat16") else 4)]
    trained = sum(count * each for count, each in sizes)
    activations, temporary = _of_tokens(spec, shape, micro_batch, bits, element)
    return PeakMemory(
        weights=0 if spec.model.full_finetuning else _base(shape, bits),
        trained=trained,
        gradients=trained,
        optimizer=int(sum(count for count, _ in sizes) * _optimizer_bytes(spec)),
        fixed=WORKSPACE_BYTES + shape.positions * shape.head_dim * 2 * 4,  # cosines and sines of RoPE
        activations=int(activations * ROUNDING),
        temporary=int(temporary * ROUNDING),
    )


def saved_bytes(spec: JobSpec, shape: BaseShape) -> tuple[int, int]:
    """Return the bytes of the saved adapter, and of a checkpoint: what is trained, and the optimizer's states of it.

    Tokenizers and the other small files are not counted. A paged optimizer's states are as large as those that are not.
    """
    memory = predict(spec, shape, MicroBatchSize(1, False))
    optim = spec.training.optim.removeprefix("paged_")
    states = OPTIMIZER_BYTES.get(optim, OPTIMIZER_BYTES["adamw_torch"]) if "paged" in spec.training.optim else None
    if states is None:
        return memory.trained, memory.trained + memory.optimizer
    return memory.trained, memory.trained + int(trained_parameters(spec, shape) * states)


def _base(shape: BaseShape, bits: Bits) -> int:
    if shape.is_quantised:
        return shape.weight_bytes
    rest = (shape.parameters - shape.linear) * 2
    if bits == 4:
        return int(shape.linear * NF4_BYTES) + rest
    if bits == 8:
        return int(shape.linear * (INT8_BYTES + 4 / shape.hidden)) + rest
    return shape.parameters * bits // 8


def _optimizer_bytes(spec: JobSpec) -> float:
    """Adafactor keeps a row and a column of each matrix, in 32 bits: less than 8 bytes a row of the longer side."""
    if spec.training.optim != "adafactor":
        return OPTIMIZER_BYTES[spec.training.optim]
    ranks = [spec.lora.r, *(spec.lora.rank_pattern or {}).values()]
    return 0.1 if spec.model.full_finetuning else 8 / min(ranks)


def _of_tokens(
    spec: JobSpec, shape: BaseShape, micro_batch: MicroBatchSize, bits: Bits, element: int
) -> tuple[float, float]:
    """Return the bytes of the kept activations, and of the larger temporary peak."""
    tokens = micro_batch.tokens * spec.method.sequences
    hidden = shape.hidden * element * tokens
    layer, head = tokens * _layer(spec, shape, element), _head(spec, shape, tokens, element) + 3 * hidden
    # The gradients of the MLP's inner state, of its output and input, of the final norm, and the norm's output.
    backward = shape.intermediate * element * tokens + 4 * hidden + _buffers(spec, shape, bits)
    if not micro_batch.recomputation:
        return shape.layers * layer, max(backward, head)
    # Unsloth has two buffers in which the inputs of layers come back from the host (`GPU_BUFFERS`).
    kept = 2 * hidden if micro_batch.recomputation == "unsloth" else (shape.layers + 1) * hidden
    return kept, max(layer + backward, head)


def _layer(spec: JobSpec, shape: BaseShape, element: int) -> float:
    """Bytes that one layer keeps of a token for its backward pass.

    - `Fast_RMS_Layernorm` (twice): its input, and 4 bytes of the variance
    - `LoRA_QKV`: its input. Attention: queries, keys, values, the output, and 4 bytes for each head
    - `LoRA_W` of the output projection: its input, which is a copy of attention's output in SDPA on Hopper
    - `LoRA_MLP`: its input, and the outputs of gate and up; what follows is computed again
    """
    hidden, query, key, inner = shape.hidden, shape.query_width, shape.key_width, shape.intermediate
    numbers = 4 * hidden + 3 * query + 2 * key + 2 * inner
    if spec.model.full_finetuning:  # torch's own linear modules keep the activated gate and the product too
        numbers += 2 * inner
    elif spec.lora.use_dora:  # PEFT's own modules keep both outputs of each projection: an upper bound
        numbers *= 2
    masks = 0
    if spec.lora.lora_dropout > 0 and not spec.model.full_finetuning:
        masks = 5 * hidden + query + inner  # one byte for each input of each projection
    return numbers * element + masks + 4 * shape.heads + 8


def _buffers(spec: JobSpec, shape: BaseShape, bits: Bits) -> int:
    """Two weights in 16 bits: `fast_dequantize` has one buffer of its own, and the backward pass makes another.

    In full fine-tuning in 32 bits, autocast keeps all weights in 16 bits.
    """
    if spec.model.full_finetuning:
        return 2 * shape.parameters if spec.model.dtype == "float16" else 0
    is_quantised = bits < 16 or shape.is_quantised
    largest = max(inputs * outputs for inputs, outputs in shape.projections.values())
    return 2 * 2 * largest + largest // 64 * 4 if is_quantised else 0


def _head(spec: JobSpec, shape: BaseShape, tokens: int, element: int) -> int:
    """Bytes that the loss takes beside hidden states and their gradients."""
    if spec.training.label_smoothing_factor > 0:
        return tokens * shape.vocabulary * SMOOTHED_LOGIT_BYTES
    trains_head = spec.model.full_finetuning or "lm_head" in trained_embeddings(spec.lora)
    gradients = 2 * shape.vocabulary * shape.hidden * element if trains_head else 0
    if tokens >= MOST_ROWS and shape.vocabulary > 2 * TILE_COLUMNS and not trains_head:
        return TILE_BYTES + MOST_ROWS * shape.hidden * 4
    rows = _chunk_rows(shape, tokens)
    return gradients + rows * (shape.vocabulary + shape.hidden) * 4


def _chunk_rows(shape: BaseShape, tokens: int) -> int:
    """`fused_linear_rows`: a power of two at or below tokens x hidden / vocabulary, within bounds."""
    fewest = min(max(_power_of_two(FEWEST_LOGITS // shape.vocabulary), 512), MOST_ROWS)
    rows = min(max(_power_of_two(tokens * shape.hidden // shape.vocabulary), fewest), MOST_ROWS)
    return max(1, min(rows, tokens, max(2, CHUNK_BYTES // (shape.vocabulary * 4))))


def _power_of_two(number: int) -> int:
    """The largest power of two that is not above the number; 1 for 0."""
    return 1 << max(number, 1).bit_length() - 1
