"""One attempt: a child process under a guardian, watched until it is gone.

The worker stores what the child reports at every heartbeat, and the answer to that write tells it what the user wants
of the job. A database that is away costs nothing: the events stay in their file until it is back.
"""

import logging
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from sqlalchemy.exc import OperationalError

from app.contracts.events import AdapterSaved, AttemptEvent, Failed, Finished, SourcesChecked
from app.guardian import Guarded, spawn
from app.jobs.claims import Claim, Fenced, record
from app.jobs.logs import LOG_NAME
from app.jobs.states import Desire
from worker.office import Office
from worker.tail import EventTail

GRACE_SECONDS = 5.0
log = logging.getLogger(__name__)


class StopReason(StrEnum):
    """Why the worker ended its child."""

    CANCELLED = "cancelled"
    TIME_LIMIT = "time_limit"
    SHUTDOWN = "shutdown"
    FENCED = "fenced"


@dataclass
class Report:
    """What is known of an attempt once its child is gone."""

    exit_code: int | None = None
    stopped: StopReason | None = None
    failed: Failed | None = None
    finished: Finished | None = None
    adapter: AdapterSaved | None = None
    is_checked: bool = False

    def take(self, events: Sequence[AttemptEvent]) -> None:
        for event in events:
            match event:
                case Failed():
                    self.failed = event
                case Finished():
                    self.finished = event
                case AdapterSaved():
                    self.adapter = event
                case SourcesChecked():
                    self.is_checked = True


@dataclass
class Watch:
    """The loop around a running child."""

    office: Office
    claim: Claim
    tail: EventTail
    max_seconds: float | None
    report: Report = field(default_factory=Report)
    started: float = field(default_factory=time.monotonic)

    def until_gone(self, child: Guarded) -> Report:
        while self.report.exit_code is None:
            self.report.exit_code = self._wait(child)
            self._beat(child)
        while self.report.stopped is not StopReason.FENCED and self.tail.peek()[0]:
            self._beat(child)
        return self.report

    def _wait(self, child: Guarded) -> int | None:
        try:
            return child.wait(self.office.settings.heartbeat_seconds)
        except subprocess.TimeoutExpired:
            return None

    def _beat(self, child: Guarded) -> None:
        events, offset = self.tail.peek()
        try:
            desired = self._store(events, offset)
        except OperationalError as error:
            log.warning("%s could not be stored, its events wait: %s", self.claim.job_id, type(error.orig).__name__)
            return
        except Fenced:
            self.report.stopped = StopReason.FENCED
            child.kill()
            return
        self.report.take(events)
        self.tail.advance(offset)
        reason = self._reason_to_stop(desired)
        if reason is not None and self.report.stopped is None and self.report.exit_code is None:
            self.report.stopped = reason
            child.stop()

    def _store(self, events: Sequence[AttemptEvent], offset: int) -> Desire:
        with self.office.database.writer() as session:
            desired = record(session, self.claim, events, offset)
            session.commit()
        return desired

    def _reason_to_stop(self, desired: Desire) -> StopReason | None:
        if desired is Desire.CANCEL:
            return StopReason.CANCELLED
        if self.max_seconds is not None and time.monotonic() - self.started > self.max_seconds:
            return StopReason.TIME_LIMIT
        return StopReason.SHUTDOWN if self.office.stopping.is_set() else None


def run_child(
    office: Office, claim: Claim, command: Sequence[str], env: dict[str, str], folder: Path, max_seconds: float | None
) -> Report:
    """Run the command in the attempt's folder until it is gone; no process of it is left when this returns."""
    tail = EventTail(folder / "events.jsonl")
    with spawn(command, env=env, cwd=folder, output=folder / LOG_NAME, grace_seconds=GRACE_SECONDS) as child:
        return Watch(office, claim, tail, max_seconds).until_gone(child)
