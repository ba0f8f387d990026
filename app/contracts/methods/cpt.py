"""Continued pretraining: the same trainer as supervised fine-tuning, with loss on every token of every row."""

from typing import Literal

from app.contracts.methods.method import TrainingMethod
from app.contracts.training_args import TrainingArgs


class CptArgs(TrainingArgs):
    """Arguments of a continued pretraining. They are those of trl's `SFTConfig`."""

    method: Literal["cpt"] = "cpt"


LEARNS_ALL = '"cpt", which learns every token'
CPT = TrainingMethod(
    "cpt",
    CptArgs,
    forced={"train_on": "all", "instruction_part": None, "response_part": None},
    refused={"response_part": LEARNS_ALL},
)
