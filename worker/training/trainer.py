"""Builds TRL's SFTTrainer from the spec and the rows that the checker made."""

from pathlib import Path
from typing import Any

from datasets import Dataset, disable_caching
from transformers import PreTrainedTokenizerBase
from trl import SFTConfig, SFTTrainer
from unsloth import UnslothTrainer, UnslothTrainingArguments

from app.contracts.events import DataPrepared
from app.contracts.order import TrainingOrder
from app.contracts.rows import INPUT_IDS, LABELS
from worker.events import EventWriter
from worker.training.arguments import Hardware, trainer_arguments
from worker.training.callback import EventCallback
from worker.training.checkpointing import CheckpointCallback, Checkpointer, resumable


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
    """The trainer with all arguments of the spec. It is Unsloth's if embeddings have their own learning rate."""
    arguments = trainer_arguments(order, hardware, evaluates=evaluation is not None)
    splits = order.spec.training.embedding_learning_rate is not None
    trainer_class, config_class = (UnslothTrainer, UnslothTrainingArguments) if splits else (SFTTrainer, SFTConfig)
    return resumable(trainer_class, checkpointer)(
        model=model,
        processing_class=tokenizer,
        train_dataset=train,
        eval_dataset=evaluation,
        args=config_class(**arguments),
        callbacks=[CheckpointCallback(checkpointer), callback],
    )


def read_rows(path: Path) -> Dataset:
    """The checker's rows, mapped into memory. They have ids and labels, so TRL neither renders nor masks them again."""
    disable_caching()  # datasets then writes to a temporary folder: the rows' folder may not be written
    return Dataset.from_file(str(path)).select_columns([INPUT_IDS, LABELS])


def report_packing(trainer: Any, train: Dataset, events: EventWriter) -> None:
    """Report how many packed rows the user's rows became, since steps count packed rows."""
    if trainer.args.packing:
        packed = {"rows": len(train), "packed_rows": len(trainer.train_dataset)}
        events.write(DataPrepared(report={"packing": packed}))
