"""Decides how a training computes its steps on this device, before the model is loaded."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from datasets import Dataset

from app.contracts.events import SpecPinned
from app.contracts.layout_choice import (
    CONTEXT_BYTES,
    ChosenLayout,
    TrainingCase,
    TrainingDevice,
    choose,
    given_micro_batch,
    pinned_values,
)
from app.contracts.layout_events import decided, layout_event
from app.contracts.memory_model import Recomputation
from app.contracts.model_shape import shape_of
from app.contracts.order import TrainingOrder
from app.contracts.plan import JobPlan
from app.contracts.step_time import rate_of
from app.contracts.step_tokens import StepTokens
from app.contracts.stored import with_values
from worker.events import EventWriter
from worker.memory import host_bytes
from worker.training.micro_batches.layout import shares
from worker.training.parts import is_planned
from worker.training.progress import read_progress
from worker.training.row_order import row_lengths

# A training without a GPU leaves the other processes of its host this share of the memory.
SHARE_OF_HOST = 0.5
MOST_STEPS_TRIED = 2000


@dataclass(frozen=True)
class Plan:
    """`tokens`: the most tokens of a micro-batch. `case`, `chosen`: what they were predicted from; None: unknown sizes.

    `may_record`: whether recorded graphs have room for activations of their own beside those of other shapes.
    """

    recomputation: Recomputation
    tokens: int
    case: TrainingCase | None = None
    chosen: ChosenLayout | None = None
    may_record: bool = False


def plan_steps(order: TrainingOrder, rows: Dataset, events: EventWriter) -> tuple[Plan, TrainingOrder]:
    """The plan for a job's rows, and the order with the precision that was chosen. Reports both as events."""
    spec, lengths = order.spec, row_lengths(rows)
    steps = StepTokens.of_steps(_largest_share(step, order.ranks) for step in _some_steps(spec, lengths))
    shape = shape_of(order.card) if order.card is not None else None
    if shape is None:
        micro_batch = given_micro_batch(spec, steps)
        return Plan(micro_batch.recomputation, micro_batch.tokens), order
    given = spec if is_planned(order) else JobPlan(**with_values(spec.model_dump(), {"training.layout": "as_given"}))
    case, device = TrainingCase(given, shape, steps, order.memory_correction), _device(order)
    chosen = choose(case, device)
    pinned = pinned_values(spec, chosen)
    if pinned:
        events.write(SpecPinned(values=pinned))
    before = _layout_of(order.resume_from)
    tokens, recomputation = before or (chosen.micro_batch_tokens, chosen.recomputation)
    events.write(layout_event(chosen))
    activations = chosen.memory.activations + chosen.memory.temporary
    may_record = given.training.layout == "auto" and chosen.needed_bytes + activations <= device.free_bytes
    plan = Plan(recomputation, tokens, case, chosen, may_record)
    return plan, order.model_copy(update={"spec": decided(spec, chosen)})


def _device(order: TrainingOrder) -> TrainingDevice:
    if not torch.cuda.is_available():
        return TrainingDevice(int(host_bytes() * SHARE_OF_HOST), order.operations_per_second)
    free, _ = torch.cuda.mem_get_info()
    if order.memory_limit_bytes is not None:
        free = min(free, order.memory_limit_bytes - CONTEXT_BYTES)
    return TrainingDevice(free, order.operations_per_second or rate_of(torch.cuda.get_device_name(0)))


def _largest_share(step: Sequence[int], ranks: int) -> list[int]:
    """The lengths of the rows of the rank that computes the most tokens of a step."""
    return max(([step[row] for row in share] for share in shares(step, ranks)), key=sum)


def _some_steps(spec: JobPlan, lengths: Sequence[int]) -> Iterator[list[int]]:
    """The lengths of the rows of some steps, drawn as the sampler draws them, though not in its order."""
    training = spec.training
    count = training.per_device_train_batch_size * training.gradient_accumulation_steps
    if training.packing:
        yield [max(spec.model.max_seq_length, *lengths)] * count
        return
    shuffled = list(lengths)
    if training.train_sampling_strategy == "group_by_length":
        shuffled.sort()
    elif training.train_sampling_strategy == "random":
        random.Random(training.seed).shuffle(shuffled)
    for start in range(0, min(len(shuffled), MOST_STEPS_TRIED * count), count):
        yield shuffled[start : start + count]


def _layout_of(checkpoint: Path | None) -> tuple[int, Recomputation] | None:
    """How the steps before a checkpoint were computed. A resumed training rounds as an uninterrupted one does."""
    if checkpoint is None:
        return None
    try:
        progress = read_progress(checkpoint)
    except (OSError, ValueError, TypeError):
        return None  # the checkpointer refuses it
    return None if progress.micro_batch_tokens is None else (progress.micro_batch_tokens, progress.recomputation)
