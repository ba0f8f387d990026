"""Decides how a training computes its steps on this hardware, before the model is loaded."""

from dataclasses import dataclass

from datasets import Dataset

from app.contracts.order import TrainingOrder
from worker.training.arguments import Recomputation
from worker.training.row_order import row_lengths


@dataclass(frozen=True)
class Plan:
    """`tokens`: the most tokens of a micro-batch."""

    recomputation: Recomputation
    tokens: int


def plan_steps(order: TrainingOrder, rows: Dataset) -> Plan:
    """The plan for a job's rows."""
    training, lora = order.spec.training, order.spec.lora
    longest = max(row_lengths(rows))
    given = training.per_device_train_batch_size * longest
    if training.layout == "as_given":
        return Plan(lora.use_gradient_checkpointing, given)
    return Plan(False, given * training.gradient_accumulation_steps)
