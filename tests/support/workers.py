"""Workers in this process: their own slots, real children, a real database."""

import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.orm import Session

from app.config import Settings
from app.database.connection import Database
from app.jobs import repository
from app.jobs.models import Attempt, Job
from app.jobs.queue import attempts
from app.jobs.states import Stage
from app.jobs.views.metrics import series
from app.scope import EVERY_PROJECT, Scope
from tests.support.jobs import add_job, read
from tests.support.specs import a_body
from tests.support.waiting import wait_for
from worker.supervising.context import WorkerContext
from worker.supervising.lifecycle import Attempted, run_until_idle, take
from worker.supervising.reconciler import Reconciler
from worker.supervising.slots import Slot


class SilentNotifier:
    """Nobody is there to hear it: these workers are told when to work."""

    def notify(self, stage: Stage) -> None:
        pass


def settings_of(home: Path, **values: Any) -> Settings:
    quick = {"heartbeat_seconds": 0.1, "lease_seconds": 30, "grace_seconds": 5, "reconcile_seconds": 0.2}
    stand_in = {
        "trainer_module": "tests.support.stand_in_trainer",
        "verify": "off",
    }  # what it leaves is no real adapter
    return Settings.model_validate({"home": home, **stand_in, **quick, **values})


def a_context(settings: Settings, database: Database, slot: str = "gpu0", name: str = "w1") -> WorkerContext:
    return WorkerContext(
        settings, database, SilentNotifier(), Stage.TRAIN, name, "cpu", Slot.open(settings.slots, slot)
    )


@contextmanager
def slot_acquired(
    settings: Settings, database: Database, slot: str = "gpu0", name: str = "w1"
) -> Iterator[WorkerContext]:
    """One that holds its slot, and lets go of it at the end."""
    context = a_context(settings, database, slot, name)
    Reconciler(context).round()
    assert context.slot_acquired.is_set()
    try:
        yield context
    finally:
        context.slot.release()


@contextmanager
def at_work(context: WorkerContext) -> Iterator[None]:
    """It works in a thread, and is told to stop at the end."""
    thread = threading.Thread(target=run_until_idle, args=(context,))
    thread.start()
    try:
        yield
    finally:
        context.stopping.set()
        thread.join()


def add_training(database: Database, **labels: Any) -> str:
    spec = {**a_body(), "labels": {name: str(value) for name, value in labels.items()}}
    return add_job(database, body=spec)


def reached_step(database: Database, job_id: str, step: int) -> Job:
    def look() -> Job | None:
        job = read(database, job_id)
        return job if job.progress is not None and job.progress["step"] >= step else None

    return wait_for(f"step {step} of {job_id}", look, 30)


QUIET = [pytest.approx(4.0 * 0.9**step) for step in range(1, 9)]


def work(database: Database, home: Path, **settings: Any) -> None:
    """One worker, until nothing waits."""
    with slot_acquired(settings_of(home, **settings), database) as context:
        run_until_idle(context)


def claim_next(context: WorkerContext) -> Attempted:
    """The best waiting job, claimed, and nothing done about it."""
    taken = take(context)
    assert taken is not None
    return taken


def tell(database: Database, wish: Callable[[Session, Scope, str], object], job_id: str) -> None:
    """What a user wants of a job: one of the functions of `termination`, or `ask_for_checkpoint`."""
    with database.writer() as session:
        wish(session, EVERY_PROJECT, job_id)
        session.commit()


def skip_pause(database: Database, job_id: str) -> None:
    with database.writer() as session:
        session.get_one(Job, job_id).run_after = None
        session.commit()


def losses(database: Database, job_id: str) -> list[Any]:
    with database.reader() as session:
        steps = series(session, EVERY_PROJECT, job_id).steps
    assert [point["step"] for point in steps] == list(range(1, len(steps) + 1))
    return [point["loss"] for point in steps]


def attempts_of(database: Database, job_id: str) -> list[Attempt]:
    with database.reader() as session:
        return list(attempts.of_stage(session, job_id, Stage.TRAIN))


def outcomes(database: Database, job_id: str) -> list[str | None]:
    return [attempt.outcome for attempt in attempts_of(database, job_id)]


def check_events(database: Database, job_id: str) -> None:
    with database.reader() as session:
        events = repository.events(session, EVERY_PROJECT, job_id, after=0, limit=10_000)
        job = session.get_one(Job, job_id)
    assert [event.seq for event in events] == list(range(1, job.last_seq + 1))


def processes_of(job_id: str, program: str) -> list[int]:
    """The processes of this host that run the program for the job."""
    found = subprocess.run(["pgrep", "-f", f"{program}.*{job_id}"], capture_output=True, text=True, check=False)
    return [int(pid) for pid in found.stdout.split()]


def trainers_of(job_id: str) -> list[int]:
    """Those that are the stand-in for its trainer."""
    return processes_of(job_id, "stand_in_trainer ")
