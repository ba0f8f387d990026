"""Tests, before the first step, that rows in one sequence do not attend to each other.

Packed and padding-free batches hold several rows in one sequence, and only the attention separates them. The test uses
the model itself: the loss of a later row must not change when the tokens of the first row do.
"""

import math
from typing import Any

import torch

from app.contracts.rows import IGNORED, INPUT_IDS, LABELS
from worker.failures import UserError
from worker.training.micro_batches.tensors import SEQ_LENGTHS

ROWS_LOOKED_AT = 64
LONGEST_PROBE_TOKENS = 4096
# Both runs have the same shapes and so the same kernels. Only atomic operations may cause a difference up to this.
TOLERANCE = 1e-5


def check_packing_boundaries(trainer: Any) -> None:
    """Raises UserError if a row can attend to another row. Does nothing if every row has a sequence of its own."""
    if not may_pack(trainer):
        return
    examples = _examples(trainer)
    if examples is None:
        return
    first = _first_length(examples)
    plain, changed = (_loss(trainer, _probe(examples, first, shift)) for shift in (0, 1))
    if math.isfinite(plain) and abs(plain - changed) > TOLERANCE * abs(plain):
        raise UserError(
            "rows_leak",
            f"rows of one sequence attend to each other in this model: the loss of a row changed from {plain} "
            f"to {changed} when the row before it was changed",
            hint="train with packing false and per_device_train_batch_size 1, and report this model",
            param="training.packing",
        )


def may_pack(trainer: Any) -> bool:
    """Whether the trainer's sequences may hold several rows: those that TRL packs, or all that Unsloth allows."""
    return bool(trainer.args.packing or getattr(trainer.args, "padding_free", False))


def _examples(trainer: Any) -> list[dict[str, list[int]]] | None:
    """Examples that the collator puts into one sequence. Returns None if every sequence of the data holds one row."""
    rows = [dict(trainer.train_dataset[index]) for index in range(min(ROWS_LOOKED_AT, len(trainer.train_dataset)))]
    if trainer.args.packing:
        return next(([row] for row in rows if len(row.get(SEQ_LENGTHS, ())) > 1), None)
    short = [row for row in rows if len(row[INPUT_IDS]) <= LONGEST_PROBE_TOKENS // 2]
    return short[:2] if len(short) > 1 else None


def _first_length(examples: list[dict[str, list[int]]]) -> int:
    return examples[0][SEQ_LENGTHS][0] if len(examples) == 1 else len(examples[0][INPUT_IDS])


def _probe(examples: list[dict[str, list[int]]], first: int, shift: int) -> list[dict[str, list[int]]]:
    """The same rows with no labels in the first one, and with its tokens in reverse order if `shift` is 1.

    Its own tokens are certain to be in the vocabulary.
    """
    ids, labels = list(examples[0][INPUT_IDS]), list(examples[0][LABELS])
    if shift:
        ids[:first] = ids[:first][::-1]
    labels[:first] = [IGNORED] * first
    if all(label == IGNORED for label in labels) and len(examples) == 1:
        labels[first:] = ids[first:]
    return [{**examples[0], INPUT_IDS: ids, LABELS: labels}, *examples[1:]]


def _loss(trainer: Any, examples: list[dict[str, list[int]]]) -> float:
    """The loss of one batch, from the trainer's own collator, model and loss."""
    batch = trainer.data_collator(examples)
    was_training = trainer.model.training
    trainer.model.eval()
    with torch.no_grad():
        loss = trainer.compute_loss(trainer.model, trainer._prepare_inputs(batch))
    trainer.model.train(was_training)
    return float(loss)
