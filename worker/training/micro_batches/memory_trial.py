"""Computes the largest micro-batch of a training before its first step, and measures the peak of the GPU's memory.

If it does not fit, the layout is made smaller before anything is trained (`memory_ladder`). What it measures corrects
the predictions for later jobs.
"""

from typing import Any

import torch

from app.contracts.layout_events import memory_event
from worker.events import EventWriter
from worker.training.micro_batches.layout import StepLayout
from worker.training.micro_batches.planning import Plan
from worker.training.micro_batches.tensors import StepRows, lay_out
from worker.training.random_state import RandomState
from worker.training.row_order import row_lengths


class MemoryTrial:
    """Called once, with the trainer and the model. Does nothing without a GPU."""

    def __init__(self, plan: Plan, events: EventWriter) -> None:
        self._plan, self._events = plan, events

    def __call__(self, trainer: Any, model: Any) -> None:
        if not torch.cuda.is_available():
            return
        before = RandomState()
        while True:
            step = _largest(trainer, trainer.layout)
            try:
                self._measure(trainer, model, step)
                break
            except torch.OutOfMemoryError as error:
                model.zero_grad()
                trainer.make_room(trainer, step, error)
        before.restore()

    def _measure(self, trainer: Any, model: Any, step: StepRows) -> None:
        """Compute a step's gradient, beside memory for the states that the optimizer makes in its first step."""
        plan = self._plan
        missing = plan.chosen.memory.optimizer if plan.chosen is not None and not trainer.optimizer.state else 0
        reserved = torch.empty(missing, dtype=torch.uint8, device=trainer.args.device)
        torch.cuda.reset_peak_memory_stats()
        targets = torch.ones((), device=trainer.args.device)
        micro_batches = lay_out(step, trainer.layout)
        for micro_batch in micro_batches:
            trainer.compute_gradient(model, micro_batch, targets)
        model.zero_grad()
        torch.cuda.synchronize()
        del reserved
        self._report(trainer, max(one.ids.numel() for one in micro_batches))

    def _report(self, trainer: Any, tokens: int) -> None:
        plan = self._plan
        if plan.case is not None and plan.chosen is not None and trainer.recomputation == plan.chosen.recomputation:
            peak = torch.cuda.max_memory_allocated()
            self._events.write(memory_event(plan.case, plan.chosen, tokens, peak))


def _largest(trainer: Any, layout: StepLayout) -> StepRows:
    """The longest rows that share a micro-batch."""
    rows, lengths = trainer.train_dataset, row_lengths(trainer.train_dataset)
    longest_first = sorted(range(len(lengths)), key=lambda row: -lengths[row])[: trainer.args.train_batch_size]
    chosen = longest_first[:1]
    for row in longest_first[1:]:
        tokens = layout.length(sum(lengths[one] for one in (*chosen, row)))
        if not layout.packs:
            tokens = (len(chosen) + 1) * layout.length(lengths[chosen[0]])
        if tokens > layout.tokens:
            break
        chosen.append(row)
    return StepRows.collate([rows[row] for row in chosen])
