"""A checker that finds what a test says: it claims, reports and concludes by the worker's own functions."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from app.config import Settings
from app.contracts.devices import CPU
from app.contracts.events import AttemptEvent, Blame, Failed
from app.database.connection import Database, utc_now
from app.jobs.models import Job, Worker
from app.jobs.queue import claims
from app.jobs.queue.notifier import JobNotifier
from app.jobs.states import Stage
from tests.support.learned_text import Parts, chat_parts, write_data
from worker.supervising import lifecycle
from worker.supervising.attempt import Report
from worker.supervising.context import WorkerContext
from worker.supervising.slots import Slot

NAME = "checker@here"


class RecordingNotifier(JobNotifier):
    def __init__(self) -> None:
        self.notified: list[Stage] = []

    def notify(self, stage: Stage) -> None:
        self.notified.append(stage)


@dataclass(frozen=True)
class Findings:
    """What a check reports, and what it leaves in the data folder."""

    events: Sequence[AttemptEvent] = ()
    rows: dict[int, Parts] = field(default_factory=lambda: {1: chat_parts("q1", "a1"), 2: chat_parts("q2", "a2")})
    failed: Failed | None = None


def a_failure(code: str, message: str = "m") -> Findings:
    return Findings(rows={}, failed=Failed(blame=Blame.USER, code=code, message=message))


Check = Callable[[Job], Findings]


@dataclass
class Checker:
    """`checked` has the ids of the jobs that it took."""

    settings: Settings
    database: Database
    check: Check
    notifier: RecordingNotifier = field(default_factory=RecordingNotifier)
    checked: list[str] = field(default_factory=list)
    stopping: threading.Event = field(default_factory=threading.Event)

    @property
    def context(self) -> WorkerContext:
        slot = Slot.open(self.settings.slots, NAME)
        return WorkerContext(
            self.settings, self.database, self.notifier, Stage.CHECK, NAME, CPU, slot, stopping=self.stopping
        )

    def show_up(self) -> None:
        with self.database.writer() as session:
            row = Worker(name=NAME, stage=Stage.CHECK, host="h", device=CPU, started_at=utc_now(), last_seen=utc_now())
            claims.record_worker(session, row)
            session.commit()

    def work(self) -> None:
        """Until it is told to stop."""
        while not self.stopping.wait(0.05):
            taken = lifecycle.take(self.context)
            if taken is not None:
                self.conclude(taken)

    def conclude(self, taken: lifecycle.Attempted) -> None:
        job, held = taken.job, taken.held
        self.checked.append(job.id)
        found = self.check(job)
        if found.rows:
            write_data(self.data_of(job.id), train=found.rows)
        with self.database.writer() as session:
            claims.record(session, held, found.events, 1)
            session.commit()
        report = Report(exit_code=0, failed=found.failed, is_checked=found.failed is None)
        lifecycle.conclude(self.context, taken, report)

    def data_of(self, job_id: str) -> Path:
        return self.settings.job_dir(job_id) / "data"


@contextmanager
def a_checker(settings: Settings, database: Database, check: Check = lambda _: Findings()) -> Iterator[Checker]:
    """One that is seen and works, in a thread."""
    checker = Checker(settings, database, check)
    checker.show_up()
    thread = threading.Thread(target=checker.work)
    thread.start()
    try:
        yield checker
    finally:
        checker.stopping.set()
        thread.join()
