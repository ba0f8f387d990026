"""Predicts the seconds of an optimizer step: its arithmetic over a rate of the card, or the launches of its kernels.

Floating point operations of a token, forward and backward:

| of | forward | backward | recomputation |
|---|---|---|---|
| a frozen parameter | 2 | 2 | 2, without the head |
| a trained parameter | 2 | 4 | 2 |
| causal attention, for each layer, token of the row and number of the query | 2 | 4 | 2 |

The gradient of a frozen weight is not computed, and half of a causal score matrix is not either.
"""

import re

from app.contracts.memory_model import MicroBatchSize
from app.contracts.model_shape import BaseShape, trained_parameters
from app.contracts.spec import JobSpec
from app.contracts.step_tokens import StepTokens

# Dense operations in 16 bits a second, in units of 10^12, of NVIDIA's data sheets. The first name that is a word of
# the device's name counts.
CARDS = (
    ("B200", 2250.0),
    ("H200", 989.0),
    ("H100 PCIe", 756.0),
    ("H100", 989.0),
    ("A100", 312.0),
    ("L40S", 362.0),
    ("L40", 181.0),
    ("L4", 121.0),
    ("A10", 125.0),
    ("A10G", 70.0),
    ("RTX 4090", 165.0),
    ("RTX 3090", 71.0),
    ("V100", 125.0),
    ("T4", 65.0),
)
# The share of the data sheet's rate that Unsloth's step reached: 24,300 tokens a second of Llama 3.2 3B with rows of
# 8,192 tokens on an H100, that is 420 of 989.
REACHED = 0.42
# Kernels of a layer's forward and backward pass, and the time to launch one: 4,800 for 28 layers, of 8 to 13 us each.
KERNELS_OF_A_LAYER = 171
LAUNCH_SECONDS = 10e-6


def rate_of(device: str) -> float | None:
    """Operations a second that a training reaches on a card, by its name. None: the card is not known."""
    found = next((rate for name, rate in CARDS if re.search(rf"\b{name}\b", device)), None)
    return found * 1e12 * REACHED if found is not None else None


def operations(spec: JobSpec, shape: BaseShape, tokens: float, context: float, *, recomputes: bool) -> float:
    """Floating point operations of `tokens` tokens in rows of `context` tokens, forward and backward."""
    head, trained = shape.vocabulary * shape.hidden, trained_parameters(spec, shape)
    again = 2 if recomputes else 0
    if spec.model.full_finetuning:
        each = (6 + again) * shape.linear + 6 * head
    else:
        each = (4 + again) * shape.linear + 4 * head + (6 + again) * trained
    attention = (6 + again) * context * shape.query_width * shape.layers
    return tokens * (each + attention)


def step_seconds(spec: JobSpec, shape: BaseShape, rows: StepTokens, micro_batch: MicroBatchSize, rate: float) -> float:
    """Predict the seconds of a mean step that is computed in micro-batches of at most `micro_batch.tokens`."""
    count = max(1, -(-int(rows.mean) // micro_batch.tokens))
    recomputes = bool(micro_batch.recomputation)
    arithmetic = operations(spec, shape, rows.mean, rows.mean_context, recomputes=recomputes) / rate
    launches = KERNELS_OF_A_LAYER * (4 / 3 if recomputes else 1) * LAUNCH_SECONDS * shape.layers
    return max(arithmetic, count * launches)
