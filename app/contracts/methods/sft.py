"""Supervised fine-tuning: loss on the answers of chats and of prompts, or on whole texts (TRL's `SFTTrainer`)."""

from typing import Literal

from app.contracts.methods.method import TrainingMethod
from app.contracts.training_args import TrainingArgs


class SftArgs(TrainingArgs):
    """Arguments of trl's `SFTConfig`."""

    method: Literal["sft"] = "sft"


SFT = TrainingMethod("sft", SftArgs)
