"""Builds the trainer of the spec's method from the rows that the checker made."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from datasets import Dataset, disable_caching
from transformers import PreTrainedTokenizerBase

from app.contracts.events import DataPrepared
from app.contracts.methods import TrainingMethod
from app.contracts.order import TrainingOrder
from app.contracts.rows import INPUT_IDS, LABELS
from worker.events import EventWriter
from worker.training.arguments import Hardware, trainer_arguments
from worker.training.callback import EventCallback
from worker.training.checkpointing import CheckpointCallback, Checkpointer, resumable


@dataclass(frozen=True)
class TrainerParts:
    """What a training method trains with. `arguments` are those of its config that other methods do not have."""

    trainer_class: type[Any]
    config_class: type[Any]
    arguments: Mapping[str, Any] = field(default_factory=dict)


def build_trainer(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    train: Dataset,
    evaluation: Dataset | None,
    order: TrainingOrder,
    hardware: Hardware,
    callback: EventCallback,
    checkpointer: Checkpointer,
) -> Any:
    """The trainer of the spec's method, with all arguments of the spec."""
    make_parts: Callable[[TrainingOrder], TrainerParts] = resolve_name(order.spec.method.trainer)
    parts = make_parts(order)
    arguments = trainer_arguments(order, hardware, evaluates=evaluation is not None)
    return resumable(parts.trainer_class, checkpointer)(
        model=model,
        processing_class=tokenizer,
        train_dataset=train,
        eval_dataset=evaluation,
        args=parts.config_class(**{**arguments, **parts.arguments}),
        callbacks=[CheckpointCallback(checkpointer), callback],
    )


def read_rows(path: Path | None, method: TrainingMethod) -> Dataset | None:
    """The checker's rows, mapped into memory. They have ids and labels, so TRL neither renders nor masks them again."""
    if path is None:
        return None
    disable_caching()  # datasets then writes to a temporary folder: the rows' folder may not be written
    return Dataset.from_file(str(path)).select_columns([INPUT_IDS, LABELS, *method.columns])


def report_packing(trainer: Any, train: Dataset, events: EventWriter) -> None:
    """Report how many packed rows the user's rows became, since steps count packed rows."""
    if trainer.args.packing:
        packed = {"rows": len(train), "packed_rows": len(trainer.train_dataset)}
        events.write(DataPrepared(report={"packing": packed}))
