"""What the fault harness reads off the trainers' journal: a harness that is blind would find every service sound."""

from importlib import import_module
from operator import attrgetter
from typing import get_args

import pytest

from app.contracts.events import AttemptEvent
from bench.chaos.faults_of_processes import CRASH_POINTS
from bench.chaos.figures import next_step
from bench.chaos.injected import Injected
from bench.chaos.injection import CHECKPOINT_FUNCTIONS, FUNCTIONS
from bench.chaos.journal import NO_SLOT, Entry, lives, overlaps, repeated_steps

KINDS = {kind.model_fields["kind"].default for kind in get_args(get_args(AttemptEvent)[0])}


def a_life(job: str, epoch: int, *, slot: str = "a", steps: range, began: float) -> list[Entry]:
    """A process that is born at `began` and takes a step a second."""
    born = Entry("born", job, epoch, slot, 100 + epoch, 0, began, began)
    taken = [
        Entry("step", job, epoch, slot, 100 + epoch, step, began + n, began + n + 1) for n, step in enumerate(steps)
    ]
    return [born, *taken]


def test_attempts_one_after_another_do_not_overlap() -> None:
    entries = a_life("job-1", 1, steps=range(1, 4), began=0.0) + a_life("job-1", 2, steps=range(3, 6), began=3.0)

    assert list(overlaps(lives(entries))) == []
    assert repeated_steps(lives(entries)) == 1


LONG = a_life("job-1", 1, slot="a", steps=range(1, 20), began=0.0)
# What runs beside the long life, and how many overlaps are seen.
BESIDE = {
    "the same job in another slot": (a_life("job-1", 2, slot="b", steps=range(1, 3), began=4.5), 1),
    "another job in the same slot": (a_life("job-2", 2, slot="a", steps=range(1, 3), began=4.5), 1),
    "another job in another slot": (a_life("job-2", 2, slot="b", steps=range(1, 3), began=4.5), 0),
    "two lives, one after the other": (
        a_life("job-1", 2, slot="b", steps=range(1, 2), began=2.0)
        + a_life("job-1", 3, slot="c", steps=range(1, 2), began=10.0),
        2,
    ),
}


@pytest.mark.parametrize(("beside", "seen"), BESIDE.values(), ids=BESIDE)
def test_two_processes_of_one_job_or_in_one_slot_at_once_are_seen(beside: list[Entry], seen: int) -> None:
    assert len(list(overlaps(lives(LONG + beside)))) == seen


def test_processes_without_a_slot_share_none() -> None:
    entries = a_life("job-1", 1, slot=NO_SLOT, steps=range(1, 9), began=0.0)
    entries += a_life("job-2", 2, slot=NO_SLOT, steps=range(1, 9), began=1.0)

    assert list(overlaps(lives(entries))) == []


def test_the_cost_of_a_fault_is_the_wait_for_the_next_step_and_the_steps_taken_again() -> None:
    entries = a_life("job-1", 1, steps=range(1, 8), began=0.0) + a_life("job-1", 2, steps=range(6, 9), began=20.0)

    cost = next_step(Injected("worker_kill", 7.5, "job-1", pid=101), lives(entries))

    assert cost == (13.5, 2)


def test_every_crash_point_is_at_a_function_that_there_is() -> None:
    """A process dies only at the windows that the injection makes: a renamed function would make none."""
    paths = [(module, path) for module, names in FUNCTIONS.items() for path in names]
    paths += [("worker.checkpoints", path) for path in CHECKPOINT_FUNCTIONS]
    names = {path.rpartition(".")[2] for _, path in paths}

    assert all(callable(attrgetter(path)(import_module(module))) for module, path in paths)
    assert {point.split(".")[1] for point in CRASH_POINTS if not point.startswith("event.")} <= names
    assert {point.split(".")[1] for point in CRASH_POINTS if point.startswith("event.")} <= KINDS
