"""Runs one attempt: starts a child process under a guardian and watches it until it has ended.

At every heartbeat the worker stores the child's new events, and the result of that write says what the user wants of
the job. While the database is unavailable the events wait in their file. Only a committed heartbeat renews the child's
lease, so the child of a frozen or disconnected worker ends before another worker takes the job over.
"""

import logging
import math
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from app.contracts.events import (
    AdapterSaved,
    ArtifactSaved,
    AttemptEvent,
    AttemptInterrupted,
    Blame,
    Failed,
    Finished,
    Phase,
    PhaseStarted,
    SourcesChecked,
)
from app.contracts.probe import Proof
from app.database.connection import AWAY
from app.errors import ServiceError
from app.jobs.models import Job
from app.jobs.queue.claims import Claim, Fenced, RequestedState, record
from app.jobs.states import RequestedAction, Stage
from app.jobs.views.logs import LOG_NAME, attempt_dir
from app.processes.guardian import KILL_WAIT_SECONDS, Guarded, spawn
from app.processes.log_masking import MaskedFile
from app.processes.log_rotation import rotate, rotated_log
from app.redaction import Redactor
from worker.confinement.process import temporary_folder
from worker.memory import oom_kills
from worker.supervising.context import WorkerContext
from worker.supervising.slots import remove_orphans
from worker.supervising.spare import OOM_SCORE, Spare, lease_of
from worker.supervising.tail import EventTail
from worker.supervising.uploads import Uploads

EVENTS_NAME = "events.jsonl"
PULSE_NAME = "pulse"
# How long a cancelled training may take to finish its step before it is killed: nobody needs a checkpoint of it.
CANCEL_GRACE_SECONDS = 3.0
log = logging.getLogger(__name__)


class StopReason(StrEnum):
    """Why the worker stopped its child."""

    CANCELLED = "cancelled"
    PAUSED = "paused"
    TIME_LIMIT = "time_limit"
    SHUTDOWN = "shutdown"
    HUNG = "hung"
    FENCED = "fenced"


@dataclass
class Report:
    """What is known of an attempt after its child has ended.

    `is_cut_off`: the lease ran out. `needs_proof`: the attempt is complete only once `proof` is set.
    """

    exit_code: int | None = None
    stopped: StopReason | None = None
    failed: Failed | None = None
    finished: Finished | None = None
    adapter: AdapterSaved | None = None
    artifacts: list[ArtifactSaved] = field(default_factory=list)
    interrupted: AttemptInterrupted | None = None
    is_checked: bool = False
    is_training: bool = False
    is_out_of_memory: bool = False
    is_cut_off: bool = False
    needs_proof: bool = False
    proof: Proof | None = None

    def take(self, events: Sequence[AttemptEvent]) -> None:
        for event in events:
            self._take(event)

    def _take(self, event: AttemptEvent) -> None:
        match event:
            case Failed():
                self.failed = event
            case Finished():
                self.finished = event
            case AdapterSaved():
                self.adapter = event
            case ArtifactSaved():
                self.artifacts.append(event)
            case AttemptInterrupted():
                self.interrupted = event
            case SourcesChecked():
                self.is_checked = True
            case PhaseStarted():
                self.is_training = event.phase in (Phase.TRAIN, Phase.EVAL)


@dataclass(frozen=True)
class ChildCommand:
    """The command to run and its limits.

    `order`: the training's order, which a warm spare may be given in place of the command; None: no spare can do it.
    `events_before`: bytes of the events file that an earlier child wrote. `secrets`: those in its environment, which
    are masked in what it writes.
    """

    command: Sequence[str]
    env: dict[str, str]
    folder: Path
    max_seconds: float | None
    order: Path | None = None
    checkpoints_requested: int = 0
    events_before: int = 0
    secrets: Sequence[str] = ()


class ChildWatch:
    """The loop around a running child."""

    def __init__(self, context: WorkerContext, claim: Claim, child_command: ChildCommand) -> None:
        self._context, self._claim, self._child_command = context, claim, child_command
        self._redactor = redactor = Redactor(child_command.secrets)
        self._tail = EventTail(child_command.folder / EVENTS_NAME, child_command.events_before, redactor)
        self._masked = [MaskedFile(child_command.folder / name, redactor) for name in (LOG_NAME, EVENTS_NAME)]
        self._unconfirmed_batch: tuple[list[AttemptEvent], int] | None = None
        self._checkpoints_requested = child_command.checkpoints_requested
        self._started = self._alive_at = self._renewed_at = time.monotonic()
        self._last_modified: tuple[int, ...] = ()
        self._killed_by = math.inf
        self._uploads = Uploads(context.settings, claim, child_command.folder)
        self.report = Report()

    def until_gone(self, child: Guarded) -> Report:
        with self._uploads:
            self._watch(child)
            self._finish_uploads(child)
        return self.report

    def _watch(self, child: Guarded) -> None:
        kills_before = oom_kills()
        while self.report.exit_code is None:
            self.report.exit_code = self._wait(child)
            self.report.is_cut_off = self._is_cut_off()
            self._heartbeat(child)
        while not self._is_read() and self.report.stopped is not StopReason.FENCED:
            if not self._heartbeat(child):
                self._context.stopping.wait(self._context.settings.heartbeat_seconds)
        self.report.is_out_of_memory = (oom_kills() or 0) > (kills_before or 0)

    def _finish_uploads(self, child: Guarded) -> None:
        """Wait until the checkpoints and the log are in the store, with heartbeats, unless nobody needs them."""
        self._uploads.finish()
        while self._uploads.is_busy and self.report.stopped not in (StopReason.FENCED, StopReason.CANCELLED):
            self._uploads.wait(self._context.settings.heartbeat_seconds)
            self._heartbeat(child)

    def _is_read(self) -> bool:
        """Whether all events are stored. When the worker stops, the next attempt reads those that are not."""
        return (self._unconfirmed_batch is None and not self._tail.peek()[0]) or self._context.stopping.is_set()

    def _wait(self, child: Guarded) -> int | None:
        if time.monotonic() > self._killed_by:  # the guardian is frozen; once it is killed, the kernel kills the child
            child.abandon()
        try:
            return child.wait(self._context.settings.heartbeat_seconds)
        except subprocess.TimeoutExpired:
            return None

    def _heartbeat(self, child: Guarded) -> bool:
        """Store new events and act on what the user wants. Returns False if the database was unavailable."""
        began = time.monotonic()
        self._mask()
        batch = self._unconfirmed_batch or self._tail.peek()
        try:
            requested = self._store(*batch)
        except AWAY as error:
            self._unconfirmed_batch = batch  # it may have been stored nevertheless: send exactly the same batch again
            reason = self._context.database.why_away(error)
            log.warning("%s: the database is unavailable (%s); events stay in their file", self._claim.job_id, reason)
            return False
        except Fenced:
            self.report.stopped = StopReason.FENCED
            child.kill()
            return True
        self._unconfirmed_batch = None
        self._renewed_at = began
        child.renew(began)
        self.report.take(batch[0])
        self._uploads.take(batch[0])
        self._tail.advance(batch[1])
        log_file = self._child_command.folder / LOG_NAME
        if rotate(log_file):
            MaskedFile(rotated_log(log_file), self._redactor).mask()  # what was printed since it was masked
        if self.report.exit_code is None:
            self._apply_request(child, requested)
        return True

    def _mask(self) -> None:
        for file in self._masked:
            file.mask()

    def _store(self, events: Sequence[AttemptEvent], offset: int) -> RequestedState:
        with self._context.database.writer() as session:
            requested = record(session, self._claim, events, offset)
            session.commit()
        return requested

    def _apply_request(self, child: Guarded, requested: RequestedState) -> None:
        reason = self._reason_to_stop(requested.requested_action)
        stopped = self.report.stopped
        if reason is not None and (stopped is None or (reason is StopReason.CANCELLED and stopped is not reason)):
            self._stop(child, reason)
        elif requested.checkpoints_requested > self._checkpoints_requested and self.report.is_training:
            self._checkpoints_requested = requested.checkpoints_requested
            child.checkpoint()

    def _stop(self, child: Guarded, reason: StopReason) -> None:
        """Ask the child to end. A cancelled child gets less time, even if it is already stopping."""
        grace = self._context.settings.grace_seconds
        if reason is StopReason.CANCELLED:
            grace = min(grace, CANCEL_GRACE_SECONDS)
        self.report.stopped = reason
        self._killed_by = min(self._killed_by, time.monotonic() + grace + KILL_WAIT_SECONDS)
        child.stop(grace)

    def _reason_to_stop(self, requested_action: RequestedAction) -> StopReason | None:
        now, limit = time.monotonic(), self._child_command.max_seconds
        if requested_action is RequestedAction.CANCEL:
            return StopReason.CANCELLED
        if requested_action is RequestedAction.PAUSE and self._claim.stage is not Stage.CHECK:
            return StopReason.PAUSED
        if limit is not None and now - self._started > limit:
            return StopReason.TIME_LIMIT
        if self._is_silent(now):
            return StopReason.HUNG
        return StopReason.SHUTDOWN if self._context.stopping.is_set() else None

    def _is_cut_off(self) -> bool:
        """Whether the lease is so old that the guardian stops the child in any case."""
        return time.monotonic() - self._renewed_at > self._context.settings.term_after_seconds

    def _is_silent(self, now: float) -> bool:
        """Whether for too long the child has written no event, finished no step and printed nothing."""
        names = (EVENTS_NAME, PULSE_NAME, LOG_NAME)
        paths = (self._child_command.folder / name for name in names)
        modified = tuple(path.stat().st_mtime_ns for path in paths if path.exists())
        if modified != self._last_modified:
            self._last_modified, self._alive_at = modified, now
        return now - self._alive_at > self._context.settings.silence_seconds


def attempt_folder(context: WorkerContext, job: Job) -> Path:
    """Return the folder of the attempt that the row names, made if it is not there."""
    folder = attempt_dir(context.settings.job_dir(job.id), job.epoch)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def refused(error: ServiceError) -> Report:
    """Return the report of an attempt that cannot begin, because something that the spec names is gone."""
    details = [problem.model_dump(exclude_none=True) for problem in error.details]
    failed = Failed(blame=Blame.USER, code=error.code, message=error.message, param=error.param, details=details)
    return Report(exit_code=0, failed=failed)


def run_child(context: WorkerContext, claim: Claim, child_command: ChildCommand) -> Report:
    """Run the command in the attempt's folder until it has ended. When this returns, none of its processes is left."""
    if context.spare is None or child_command.order is None:
        return _run_cold(context, claim, child_command)
    with context.spare.training(child_command.order, child_command.env) as spare:
        report = _run_spare(context, claim, child_command, spare) if spare is not None else None
        return report or _run_cold(context, claim, child_command)


def _run_spare(context: WorkerContext, claim: Claim, child_command: ChildCommand, spare: Spare) -> Report | None:
    """Watch the spare that was given the training. Returns None if it did not begin, and nobody wanted it to stop."""
    report = _watch(context, claim, child_command, spare.child)
    refusal = spare.refusal()
    if refusal is None or report.stopped is not None or report.is_cut_off:
        return report
    log.info("%s: a cold process trains, because the warm spare did not: %s", claim.job_id, refusal)
    return None


def _run_cold(context: WorkerContext, claim: Claim, child_command: ChildCommand) -> Report:
    settings = context.settings
    with temporary_folder() as temporary:
        child = spawn(
            child_command.command,
            env={**child_command.env, "TMPDIR": str(temporary)},
            cwd=child_command.folder,
            output=child_command.folder / LOG_NAME,
            grace_seconds=settings.grace_seconds,
            pass_fds=[context.slot.fd, *context.further_gpus.descriptors],
            lease=lease_of(settings),
            oom_score_adj=OOM_SCORE if claim.stage is Stage.TRAIN else None,
        )
        return _watch(context, claim, child_command, child)


def _watch(context: WorkerContext, claim: Claim, child_command: ChildCommand, child: Guarded) -> Report:
    with child:
        report = ChildWatch(context, claim, child_command).until_gone(child)
    if claim.stage is Stage.TRAIN and (report.exit_code or 0) < 0:
        remove_orphans(context.slot, patience_seconds=0)  # the guardian was killed before it could kill the child
    return report
