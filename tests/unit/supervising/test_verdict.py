"""What the end of a child process means for its job."""

import signal

import pytest

from app.contracts.events import AdapterSaved, AttemptInterrupted, Blame, Failed, Finished
from worker.supervising.attempt import Report, StopReason
from worker.supervising.verdict import Next, decide

FINISHED = Finished(steps=1, train_seconds=1.0, final_loss=1.0, tokens=1)
ADAPTER = AdapterSaved(
    path="/a",
    version="v",
    bytes=1,
    base_model="b",
    base_revision=None,
    adapter_kind="lora",
    rank=8,
    trainable_parameters=1,
)
USER = Failed(blame=Blame.USER, code="bad_data", message="bad")
INTERRUPTED = AttemptInterrupted(step=3)
CROWDED = Failed(blame=Blame.SYSTEM, code="no_room_beside_engine", message="too little")
SYSTEM = Failed(blame=Blame.SYSTEM, code="hub_unreachable", message="away")


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        (Report(0, finished=FINISHED, adapter=ADAPTER), Next.GO_ON),
        (Report(0, is_checked=True), Next.GO_ON),
        (Report(0, finished=FINISHED), Next.WAIT),
        (Report(1, finished=FINISHED, adapter=ADAPTER), Next.WAIT),
        (Report(0), Next.WAIT),
        (Report(137), Next.WAIT),
        (Report(-9), Next.WAIT),
        (Report(1, failed=USER), Next.FAIL),
        (Report(1, failed=SYSTEM), Next.WAIT),
        (Report(143, stopped=StopReason.CANCELLED), Next.CANCEL),
        (Report(143, stopped=StopReason.TIME_LIMIT), Next.FAIL),
        (Report(143, stopped=StopReason.SHUTDOWN), Next.WAIT),
        (Report(0, stopped=StopReason.SHUTDOWN, finished=FINISHED, adapter=ADAPTER), Next.GO_ON),
        (Report(137, stopped=StopReason.FENCED), Next.DROP),
        (Report(75, stopped=StopReason.PAUSED, interrupted=INTERRUPTED), Next.PAUSE),
        (Report(137, stopped=StopReason.PAUSED), Next.PAUSE),
        (Report(0, stopped=StopReason.PAUSED, finished=FINISHED, adapter=ADAPTER), Next.GO_ON),
        (Report(0, stopped=StopReason.CANCELLED, finished=FINISHED, adapter=ADAPTER), Next.CANCEL),
        (Report(75, interrupted=INTERRUPTED), Next.WAIT),
        (Report(143, stopped=StopReason.HUNG), Next.WAIT),
        (Report(1, failed=Failed(blame=Blame.SYSTEM, code="disk_full", message="full")), Next.PAUSE),
        (Report(1, failed=CROWDED), Next.WAIT),
        (Report(128 + signal.SIGPROF), Next.FAIL),
    ],
)
def test_each_way_to_end_has_its_consequence(report: Report, expected: Next) -> None:
    assert decide(report, faults=1, max_attempts=3).next is expected


@pytest.mark.parametrize("report", [Report(137), Report(1, failed=SYSTEM)])
def test_a_system_fault_fails_the_job_when_the_attempts_are_used_up(report: Report) -> None:
    assert decide(report, faults=3, max_attempts=3).next is Next.FAIL


def test_a_job_that_the_engine_left_no_room_is_tried_again_at_once_however_often_it_failed() -> None:
    verdict = decide(Report(1, failed=CROWDED), faults=3, max_attempts=3)

    assert (verdict.next, verdict.pause_seconds) == (Next.WAIT, 0.0)


def test_pauses_between_attempts_grow() -> None:
    pauses = [decide(Report(137), attempt, max_attempts=99).pause_seconds for attempt in (0, 1, 2, 3, 50)]

    assert pauses == [5.0, 5.0, 10.0, 20.0, 600.0]


@pytest.mark.parametrize(
    ("report", "code"),
    [
        (Report(137), "process_killed"),
        (Report(-9), "process_killed"),
        (Report(2), "process_crashed"),
        (Report(139), "process_crashed"),
        (Report(142), "process_killed"),
        (Report(137, is_out_of_memory=True), "host_out_of_memory"),
        (Report(143, stopped=StopReason.HUNG), "hung"),
        (Report(1, failed=SYSTEM), "hub_unreachable"),
    ],
)
def test_reasons_to_end_are_told_apart(report: Report, code: str) -> None:
    verdict = decide(report, 1, 3)

    assert verdict.outcome == code
    assert verdict.failure is not None
