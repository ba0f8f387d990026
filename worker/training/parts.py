"""What a training method trains with."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pkgutil import resolve_name
from typing import Any

from app.contracts.order import TrainingOrder


@dataclass(frozen=True)
class TrainerParts:
    """The trainer of a method. `arguments` are those of its config that other methods do not have.

    `is_planned`: its loss is the mean over the trained tokens of a step's rows, so that the rows may be laid out in any
    micro-batches.
    """

    trainer_class: type[Any]
    config_class: type[Any]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    is_planned: bool = False


def parts_of(order: TrainingOrder) -> TrainerParts:
    make_parts: Callable[[TrainingOrder], TrainerParts] = resolve_name(order.spec.method.trainer)
    return make_parts(order)


def is_planned(order: TrainingOrder) -> bool:
    """Whether the steps of this training may be laid out anew. NEFTune's noise depends on a sequence's length."""
    return parts_of(order).is_planned and order.spec.training.neftune_noise_alpha is None
