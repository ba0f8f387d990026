"""What a trainer reports of its layout is what the next prediction needs."""

from app.contracts.layout_choice import TrainingCase, TrainingDevice, choose
from app.contracts.layout_events import decided, layout_event, memory_event, speed_event
from app.contracts.memory_model import MicroBatchSize
from app.contracts.plan import plan_of
from app.contracts.step_time import rate_of, step_seconds
from app.contracts.step_tokens import StepTokens
from tests.support.shapes import LLAMA_3B
from tests.support.specs import a_spec

GIB = 2**30
ROWS = StepTokens(longest=8192, largest=8192, mean=8192.0, mean_context=8192.0)
PLAN = plan_of(a_spec(model={"load_in": "auto"}))
CASE = TrainingCase(PLAN, LLAMA_3B, ROWS, correction=1.2)
CHOSEN = choose(CASE, TrainingDevice(100 * GIB, rate_of("NVIDIA H200")))


def test_a_choice_is_reported_as_it_is_used() -> None:
    event = layout_event(CHOSEN)

    assert (event.micro_batch_tokens, event.recomputation, event.bits) == (8192, False, 16)
    assert (event.predicted_bytes, event.predicted_seconds) == (CHOSEN.predicted_bytes, CHOSEN.seconds)


def test_a_decided_plan_leaves_nothing_to_choose() -> None:
    plan = decided(PLAN, CHOSEN)

    assert (plan.model.load_in, plan.model.load_in_4bit) == (None, False)
    assert plan.model_copy(update={"model": PLAN.model}) == PLAN
    assert choose(TrainingCase(plan, LLAMA_3B, ROWS), TrainingDevice(5 * GIB)).bits == 16


def test_a_peak_is_held_against_the_uncorrected_prediction_of_the_tokens_that_were_computed() -> None:
    event = memory_event(CASE, CHOSEN, 4096, 20 * GIB)

    assert event.measured_bytes == 20 * GIB
    assert event.held_bytes == CHOSEN.memory.held
    assert event.held_bytes < event.predicted_bytes < CHOSEN.memory.peak() < CHOSEN.predicted_bytes


def test_a_speed_that_is_as_predicted_is_the_rate_of_the_prediction() -> None:
    rate = rate_of("NVIDIA H200") or 0.0
    seconds = step_seconds(PLAN, LLAMA_3B, ROWS, MicroBatchSize(8192, False), rate)

    event = speed_event(CASE, CHOSEN, 10 * 8192, 10 * seconds)

    assert round((event.operations_per_second or 0) / rate, 6) == 1.0
    assert event.measured_bytes is None
