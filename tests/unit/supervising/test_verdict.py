"""What the end of a child process means for its job, and then the proof of the adapter that it left."""

import signal

import pytest

from app.contracts.events import AdapterSaved, AttemptInterrupted, Blame, Failed, Finished
from app.contracts.probe import Proof, Unproved
from worker.supervising.attempt import Report, StopReason
from worker.supervising.checks import CheckRunner
from worker.supervising.proving import EngineAway, NoAnswer, not_proved
from worker.supervising.runners import is_done
from worker.supervising.trainings import TrainingRunner
from worker.supervising.transfers import store_is_away
from worker.supervising.verdict import ENGINE_PAUSE_SECONDS, Next, Verdict, decide

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
PROVED, REFUSED = Proof(proved=True), Proof(proved=False, reason="it changes nothing", difference=0.7)
TOO_LARGE = NoAnswer("engine_out_of_memory", "the engine could not verify the adapter", "it needs more memory")
BROKEN = NoAnswer("engine_failed", "the engine could not verify the adapter", "its log tells more")


def verdict_of(report: Report, faults: int = 1, max_attempts: int = 3) -> Verdict:
    """That of an attempt at a training."""
    return decide(report, faults, max_attempts, is_done=is_done(TrainingRunner(), report))


def test_a_check_is_done_once_its_last_event_says_so() -> None:
    assert is_done(CheckRunner(), Report(0, is_checked=True))
    assert not is_done(CheckRunner(), Report(0))
    assert not is_done(CheckRunner(), Report(1, is_checked=True))


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        (Report(0, finished=FINISHED, adapter=ADAPTER), Next.GO_ON),
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
    assert verdict_of(report).next is expected


@pytest.mark.parametrize("report", [Report(137), Report(1, failed=SYSTEM)])
def test_a_system_fault_fails_the_job_when_the_attempts_are_used_up(report: Report) -> None:
    assert verdict_of(report, faults=3).next is Next.FAIL


def test_a_job_that_the_engine_left_no_room_is_tried_again_at_once_however_often_it_failed() -> None:
    verdict = verdict_of(Report(1, failed=CROWDED), faults=3)

    assert (verdict.next, verdict.pause_seconds) == (Next.WAIT, 0.0)


def test_pauses_between_attempts_grow() -> None:
    pauses = [verdict_of(Report(137), attempt, max_attempts=99).pause_seconds for attempt in (0, 1, 2, 3, 50)]

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
    verdict = verdict_of(report)

    assert verdict.outcome == code
    assert verdict.failure is not None


def finished(**values: object) -> Report:
    """A training that went well and whose adapter has to be proved."""
    report = Report(0, finished=FINISHED, adapter=ADAPTER, needs_proof=True)
    for name, value in values.items():
        setattr(report, name, value)
    return report


@pytest.mark.parametrize(
    ("report", "expected", "outcome"),
    [
        (finished(proof=PROVED), Next.GO_ON, "finished"),
        (finished(needs_proof=False), Next.GO_ON, "finished"),
        (finished(failed=not_proved(REFUSED)), Next.FAIL, "adapter_not_proved"),
        (finished(failed=EngineAway("away").failure), Next.WAIT, "engine_unavailable"),
        (finished(failed=store_is_away("away")), Next.WAIT, "store_unavailable"),
        (finished(failed=BROKEN.failure), Next.WAIT, "engine_failed"),
        (finished(stopped=StopReason.CANCELLED), Next.CANCEL, "cancelled"),
        (finished(stopped=StopReason.PAUSED), Next.PAUSE, "paused"),
        (finished(stopped=StopReason.SHUTDOWN), Next.WAIT, "worker_stopped"),
    ],
)
def test_only_a_proved_adapter_lets_its_job_go_on(report: Report, expected: Next, outcome: str) -> None:
    verdict = verdict_of(report)

    assert (verdict.next, verdict.outcome) == (expected, outcome)


def test_an_engine_that_is_away_never_fails_a_job() -> None:
    verdict = verdict_of(finished(failed=EngineAway("away").failure), faults=99)

    assert (verdict.next, verdict.pause_seconds) == (Next.WAIT, ENGINE_PAUSE_SECONDS)


@pytest.mark.parametrize("none", [BROKEN, TOO_LARGE])
def test_an_engine_that_breaks_at_it_fails_the_job_in_the_end(none: NoAnswer) -> None:
    verdict = verdict_of(finished(failed=none.failure), faults=3)

    assert (verdict.next, verdict.outcome) == (Next.FAIL, none.failure.code)


def test_memory_has_time_to_be_freed_before_it_is_tried_again() -> None:
    verdict = verdict_of(finished(failed=TOO_LARGE.failure))

    assert (verdict.next, verdict.pause_seconds) == (Next.WAIT, 300.0)


@pytest.mark.parametrize("cause", Unproved)
def test_only_a_diverged_training_is_the_users_fault(cause: Unproved) -> None:
    failure = not_proved(REFUSED.model_copy(update={"cause": cause}))

    is_users = cause is Unproved.TRAINING_DIVERGED
    assert (failure.blame is Blame.USER, failure.param) == (is_users, "training.learning_rate" if is_users else None)
    assert failure.details[0]["cause"] == cause
    assert failure.hint is not None


def test_the_failure_of_an_unproved_adapter_has_its_figures() -> None:
    failure = not_proved(REFUSED)

    assert (failure.blame, failure.details[0]["difference"]) == ("system_error", 0.7)
    assert "it changes nothing" in failure.message
