"""TRL's SFTTrainer, built by the spec over the rows that the checker made."""

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
    keeper: Checkpointer,
) -> Any:
    """The trainer with every argument of the spec; Unsloth's own where embeddings have their own learning rate."""
    arguments = trainer_arguments(order, hardware, evaluates=evaluation is not None)
    splits = order.spec.training.embedding_learning_rate is not None
    trainer_class, config_class = (UnslothTrainer, UnslothTrainingArguments) if splits else (SFTTrainer, SFTConfig)
    return resumable(trainer_class, keeper)(
        model=model,
        processing_class=tokenizer,
        train_dataset=train,
        eval_dataset=evaluation,
        args=config_class(**arguments),
        callbacks=[CheckpointCallback(keeper), callback],
    )


def read_rows(path: Path) -> Dataset:
    """The checker's rows, mapped into memory: TRL takes them as prepared, and neither renders nor masks them again."""
    disable_caching()  # what is mapped goes to a temporary folder: beside the rows nothing may be written
    return Dataset.from_file(str(path)).select_columns([INPUT_IDS, LABELS])


def report_packing(trainer: Any, train: Dataset, events: EventWriter) -> None:
    """Packed rows are counted in steps; the user counts in rows."""
    if trainer.args.packing:
        packed = {"rows": len(train), "packed_rows": len(trainer.train_dataset)}
        events.write(DataPrepared(report={"packing": packed}))
