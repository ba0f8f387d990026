"""What an attempt takes over from earlier attempts: unread events, a result that was not published, and the checkpoint
to resume from."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError
from sqlalchemy.orm import Session

from app.contracts.checkpoints import age, by_age, outline
from app.contracts.events import ATTEMPT_EVENT, AttemptEvent, CheckpointRemoved, CheckpointSaved, Noticed
from app.contracts.spec import JobSpec
from app.jobs import repository
from app.jobs.models import Attempt
from app.jobs.queue import attempts
from app.jobs.queue.claims import Claim, lock, record, record_event
from app.jobs.states import Stage
from app.jobs.views.logs import attempt_dir
from app.scope import EVERY_PROJECT
from worker import checkpoints
from worker.supervising.attempt import EVENTS_NAME, Report
from worker.supervising.context import WorkerContext
from worker.supervising.publishing import find_bundle
from worker.supervising.tail import EventTail

Result = TypeVar("Result")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Start:
    """Where a training begins: at the checkpoint of `step`, or at the first step if there is none."""

    step: int
    checkpoint: Path | None


def read_left_over(context: WorkerContext, held: Claim) -> bool:
    """Store the events that earlier attempts of the stage wrote but no worker stored.

    Returns whether there were earlier attempts, so that the job may have changed since it was claimed. Raises Fenced.
    """
    with context.database.reader() as session:
        earlier = [one for one in attempts.of_stage(session, held.job_id, held.stage) if one.epoch < held.epoch]
    for attempt in earlier:
        tail = EventTail(_folder(context, attempt) / EVENTS_NAME, attempt.events_offset)
        while _store_next(context, held, attempt, tail):
            log.info("%s: stored unread events of attempt %d", held.job_id, attempt.epoch)
    return bool(earlier)


def _store_next(context: WorkerContext, held: Claim, attempt: Attempt, tail: EventTail) -> bool:
    events, offset = tail.peek()
    if events:
        _write(context, lambda session: record(session, held, events, offset, of_epoch=attempt.epoch))
        tail.advance(offset)
    return bool(events)


def finished_before(context: WorkerContext, held: Claim) -> Report | None:
    """The report of an earlier attempt that finished training, but whose adapter was not proved or published.

    Returns None if there is none or its bundle is gone. Raises Fenced.
    """
    if held.stage is not Stage.TRAIN:
        return None
    with context.database.reader() as session:
        newest_first = reversed(attempts.of_stage(session, held.job_id, held.stage))
        reports = [_closing_report(session, attempt) for attempt in newest_first]
    done = next((one for one in reports if one.finished and one.adapter and not one.failed), None)
    if done is None or done.finished is None or done.adapter is None:
        return None
    if find_bundle(context.settings, held.job_id, done.adapter) is None:
        return None
    _set_resume_step(context, held, done.finished.steps)
    return done


def _closing_report(session: Session, attempt: Attempt) -> Report:
    report = Report(exit_code=0)
    stored = attempts.closing_events(session, attempt.job_id, attempt.epoch)
    read = [_read_event({**one.payload, "kind": one.kind, "at": one.at}) for one in stored]
    report.take([event for event in read if event is not None])
    return report


def _read_event(stored: dict[str, Any]) -> AttemptEvent | None:
    """Returns None for an event that this version cannot read; its work is then done again."""
    try:
        return ATTEMPT_EVENT.validate_python(stored, extra="ignore")
    except ValidationError:
        return None


def choose_start(context: WorkerContext, held: Claim, spec: JobSpec) -> Start:
    """Choose the newest intact checkpoint, or the one to continue from, and store its step on the attempt.

    The folder decides: a process that was killed may have written a checkpoint for which there is no event. Raises
    Fenced, and LookupError if the checkpoint of another job to continue from is gone or damaged.
    """
    folder = context.settings.checkpoints_dir(held.job_id)
    checkpoints.sweep(folder)
    _unlist_missing(context, held)
    _list_unlisted(context, held)
    found = checkpoints.newest(folder)
    if found.skipped:
        names = ", ".join(path.name for path in found.skipped)
        message = f"damaged checkpoints were skipped: {names}"
        notice = Noticed(code="checkpoint_damaged", message=message)
        _write(context, lambda session: record_event(session, held, notice))
    start = Start(found.step, found.path) if found.path is not None else _start_of_origin(context, spec)
    _set_resume_step(context, held, start.step)
    return start


def _set_resume_step(context: WorkerContext, held: Claim, step: int) -> None:
    """Store on the attempt the step from which it resumes: failures after the same step are counted together."""

    def store(session: Session) -> None:
        lock(session, held)
        attempts.set_resume_step(session, held.job_id, held.epoch, step)

    _write(context, store)
    log.info("%s: attempt %d resumes after step %d", held.job_id, held.epoch, step)


def tidy(context: WorkerContext, held: Claim) -> None:
    """Remove what a stopped trainer left half written or half deleted.

    Raises Fenced, and removes nothing, if another attempt owns the job: its trainer may be writing there.
    """
    with context.database.writer() as session:
        lock(session, held)
        checkpoints.sweep(context.settings.checkpoints_dir(held.job_id))
    _unlist_missing(context, held)


def _unlist_missing(context: WorkerContext, held: Claim) -> None:
    """Remove missing checkpoints from the list: a trainer may have died between a removal and its event."""
    with context.database.reader() as session:
        listed = repository.checkpoints(session, EVERY_PROJECT, held.job_id)
    gone = [one for one in listed if outline(context.settings.locate(one.path)) is None]

    def unlist(session: Session) -> None:
        for one in gone:
            record_event(session, held, CheckpointRemoved(step=one.step, path=one.path))

    if gone:
        _write(context, unlist)


def _list_unlisted(context: WorkerContext, held: Claim) -> None:
    """Add the checkpoints whose event was never written to the list. How long saving them took is unknown."""
    folder = context.settings.checkpoints_dir(held.job_id)
    with context.database.reader() as session:
        listed = {(one.step, one.epoch) for one in repository.checkpoints(session, EVERY_PROJECT, held.job_id)}
    complete = [found for path in by_age(folder) if age(path) not in listed and (found := outline(path)) is not None]

    def enlist(session: Session) -> None:
        for one in complete:
            saved = CheckpointSaved(step=one.step, path=str(one.path), bytes=one.bytes, sha256=one.sha256, seconds=0.0)
            record_event(session, held, saved, of_epoch=one.attempt)

    if complete:
        _write(context, enlist)


def _start_of_origin(context: WorkerContext, spec: JobSpec) -> Start:
    """The checkpoint of another job from which this job continues, otherwise the first step."""
    origin = spec.continue_from
    if origin is None or origin.job is None:
        return Start(0, None)
    with context.database.reader() as session:
        found = repository.checkpoint(session, EVERY_PROJECT, origin.job, origin.step)
    path = None if found is None else context.settings.locate(found.path)
    if found is None or path is None or checkpoints.verify(path) is None:
        raise LookupError(f"the checkpoint of {origin.job} is gone, or was changed")
    return Start(found.step, path)


def _folder(context: WorkerContext, attempt: Attempt) -> Path:
    return attempt_dir(context.settings.job_dir(attempt.job_id), attempt.epoch)


def _write(context: WorkerContext, work: Callable[[Session], Result]) -> Result:
    with context.database.writer() as session:
        result = work(session)
        session.commit()
    return result
