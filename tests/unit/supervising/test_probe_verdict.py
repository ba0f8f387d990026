"""What becomes of a job whose training went well and whose adapter has to be proved."""

import pytest

from app.contracts.events import AdapterSaved, Blame, Finished
from app.contracts.probe import Proof, Unproved
from worker.supervising.attempt import Report, StopReason
from worker.supervising.proving import EngineAway, NoAnswer, not_proved
from worker.supervising.verdict import ENGINE_PAUSE_SECONDS, Next, decide

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
PROVED, REFUSED = Proof(proved=True), Proof(proved=False, reason="it changes nothing", difference=0.7)
TOO_LARGE = NoAnswer("engine_out_of_memory", "the engine could not verify the adapter", "it needs more memory")
BROKEN = NoAnswer("engine_failed", "the engine could not verify the adapter", "its log tells more")


def finished(**values: object) -> Report:
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
        (finished(failed=BROKEN.failure), Next.WAIT, "engine_failed"),
        (finished(stopped=StopReason.CANCELLED), Next.CANCEL, "cancelled"),
        (finished(stopped=StopReason.PAUSED), Next.PAUSE, "paused"),
        (finished(stopped=StopReason.SHUTDOWN), Next.WAIT, "worker_stopped"),
    ],
)
def test_only_a_proved_adapter_lets_its_job_go_on(report: Report, expected: Next, outcome: str) -> None:
    verdict = decide(report, faults=1, max_attempts=3)

    assert (verdict.next, verdict.outcome) == (expected, outcome)


def test_an_engine_that_is_away_never_fails_a_job() -> None:
    verdict = decide(finished(failed=EngineAway("away").failure), faults=99, max_attempts=3)

    assert (verdict.next, verdict.pause_seconds) == (Next.WAIT, ENGINE_PAUSE_SECONDS)


@pytest.mark.parametrize("none", [BROKEN, TOO_LARGE])
def test_an_engine_that_breaks_at_it_fails_the_job_in_the_end(none: NoAnswer) -> None:
    verdict = decide(finished(failed=none.failure), faults=3, max_attempts=3)

    assert (verdict.next, verdict.outcome) == (Next.FAIL, none.failure.code)


def test_memory_has_time_to_be_freed_before_it_is_tried_again() -> None:
    verdict = decide(finished(failed=TOO_LARGE.failure), faults=1, max_attempts=3)

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
