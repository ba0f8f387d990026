"""TRL's SFTTrainer, built by the spec over rows that are tokenised already."""

from collections.abc import Sequence
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase
from trl import SFTConfig, SFTTrainer
from unsloth import UnslothTrainer, UnslothTrainingArguments

from app.contracts.order import TrainingOrder
from worker.training.arguments import Hardware, trainer_arguments
from worker.training.callback import EventCallback
from worker.training.dataset import Row


def build_trainer(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    train: Sequence[Row],
    evaluation: Sequence[Row],
    order: TrainingOrder,
    hardware: Hardware,
    callback: EventCallback,
) -> Any:
    """The trainer with every argument of the spec; Unsloth's own where embeddings have their own learning rate."""
    arguments = trainer_arguments(order, hardware, evaluates=bool(evaluation))
    splits = order.spec.training.embedding_learning_rate is not None
    trainer_class, config_class = (UnslothTrainer, UnslothTrainingArguments) if splits else (SFTTrainer, SFTConfig)
    return counting(trainer_class, callback)(
        model=model,
        processing_class=tokenizer,
        train_dataset=as_dataset(train),
        eval_dataset=as_dataset(evaluation) if evaluation else None,
        args=config_class(**arguments),
        callbacks=[callback],
    )


def counting(trainer_class: type[Any], callback: EventCallback) -> type[Any]:
    """The trainer, telling the callback how many tokens it was given: on the device, so that no step waits for it."""

    class CountingTrainer(trainer_class):  # type: ignore[misc]
        def training_step(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
            mask = inputs.get("attention_mask")
            callback.count(inputs["input_ids"].numel() if mask is None else mask.sum())
            return super().training_step(model, inputs, *args, **kwargs)

    return CountingTrainer


def as_dataset(rows: Sequence[Row]) -> Dataset:
    """Columns that TRL takes as already prepared: it neither renders nor masks them again."""
    columns = {"input_ids": [row.input_ids for row in rows], "labels": [row.labels for row in rows]}
    return Dataset.from_dict(columns)
