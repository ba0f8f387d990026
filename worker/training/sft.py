"""The trainer of the methods `sft` and `cpt`: TRL's, or Unsloth's if embeddings have their own learning rate."""

from trl import SFTConfig, SFTTrainer
from unsloth import UnslothTrainer, UnslothTrainingArguments

from app.contracts.order import TrainingOrder
from worker.training.arguments import sft_arguments
from worker.training.parts import TrainerParts


def trainer_parts(order: TrainingOrder) -> TrainerParts:
    splits = order.spec.training.embedding_learning_rate is not None
    trainer_class, config_class = (UnslothTrainer, UnslothTrainingArguments) if splits else (SFTTrainer, SFTConfig)
    return TrainerParts(trainer_class, config_class, sft_arguments(order.spec), is_planned=True)
