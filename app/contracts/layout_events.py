"""What follows of a chosen layout: the precision in the plan, and the events about it, its memory and its speed."""

from app.contracts.events import LayoutChosen, MemoryMeasured
from app.contracts.layout_choice import ChosenLayout, TrainingCase, pinned_values
from app.contracts.memory_model import MicroBatchSize, predict
from app.contracts.plan import JobPlan
from app.contracts.step_time import operations
from app.contracts.stored import with_values


def decided(plan: JobPlan, chosen: ChosenLayout) -> JobPlan:
    """Return the plan with the precision of the choice. The event `SpecPinned` of `pinned_values` tells the worker."""
    return JobPlan.model_validate(with_values(plan.model_dump(), pinned_values(plan, chosen)))


def layout_event(chosen: ChosenLayout) -> LayoutChosen:
    return LayoutChosen(
        micro_batch_tokens=chosen.micro_batch_tokens,
        recomputation=chosen.recomputation,
        bits=chosen.bits,
        predicted_bytes=chosen.predicted_bytes,
        predicted_seconds=chosen.seconds,
        reason=chosen.reason,
    )


def memory_event(case: TrainingCase, chosen: ChosenLayout, tokens: int, peak: int) -> MemoryMeasured:
    """`tokens`: of the largest micro-batch that was computed, with padding. `peak`: what the allocator handed out."""
    memory = predict(case.spec, case.shape, MicroBatchSize(tokens, chosen.recomputation), chosen.bits)
    return MemoryMeasured(
        shape=case.shape.key, held_bytes=memory.held, predicted_bytes=memory.peak(), measured_bytes=peak
    )


def speed_event(case: TrainingCase, chosen: ChosenLayout, tokens: int, seconds: float) -> MemoryMeasured:
    """`tokens`: without padding, that were trained on in so many seconds of steps."""
    recomputes = bool(chosen.recomputation)
    needed = operations(case.spec, case.shape, tokens, case.rows.mean_context, recomputes=recomputes)
    return MemoryMeasured(
        shape=case.shape.key,
        held_bytes=chosen.memory.held,
        predicted_bytes=chosen.memory.peak(),
        operations_per_second=needed / max(seconds, 1e-9),
    )
