"""What a training method says about itself."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from app.contracts.training_args import TrainingArgs

# The kinds of `app.contracts.records.Record`.
ALL_RECORDS = frozenset({"chat", "completion", "text"})


@dataclass(frozen=True)
class TrainingMethod:
    """One training method.

    Code that needs a tokenizer or torch is named as `module:function`, and imported by the process that needs it.
    """

    name: str
    # A subclass of TrainingArgs whose `method` is the name, with the arguments that only this method has.
    arguments: type[TrainingArgs]
    # (record, renderer, learned, work) -> TokenRow. It raises RowRefused.
    tokenise: str = "worker.rendering.rows:tokenise"
    # (order) -> worker.training.parts.TrainerParts.
    trainer: str = "worker.training.sft:trainer_parts"
    # The kinds of records that it can train on. Others are refused by their number.
    records: frozenset[str] = ALL_RECORDS
    # Fields of the dataset group that this method decides.
    forced: Mapping[str, Any] = field(default_factory=dict)
    # Fields of the dataset group that may not be sent with this method, and what to say after the method's name.
    refused: Mapping[str, str] = field(default_factory=dict)
    # Columns of a row in addition to those of `app.contracts.rows`, with their Arrow types, such as "float32".
    columns: Mapping[str, str] = field(default_factory=dict)
    # Names that the trainer logs in addition to loss, learning rate and gradient norm, and what they mean.
    metrics: Mapping[str, str] = field(default_factory=dict)
    # How many token sequences of a row are on the device at once. The activations take that many times the memory.
    sequences: int = 1
