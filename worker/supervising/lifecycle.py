"""What a worker does when it is notified: claim a job, run an attempt, conclude it, until no job is left to claim.

claim ──> what earlier attempts left ──> order ──> child under a guardian ──> proof ──> verdict ──> next status, in one
commit
"""

import logging
import time
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from app.contracts.events import AdapterSaved, AttemptEvent, Blame, Failed, Noticed, Phase, PhaseStarted, Verified
from app.contracts.order import BaseRef
from app.contracts.probe import Proof, ProofOrder
from app.contracts.spec import JobSpec
from app.database.connection import AWAY, utc_now
from app.disk_faults import is_full
from app.errors import ServiceError
from app.jobs.models import Job
from app.jobs.queue import attempts
from app.jobs.queue.claims import Claim, Fenced, claim, finish, leave, lock, record, record_event
from app.jobs.states import JobStatus, RequestedAction, Stage, after_check, given_back
from app.jobs.stored import is_understood
from app.jobs.views.logs import attempt_dir
from app.processes.environments import Process
from app.sources import base_of
from worker.checkpoints import DiskFullFault
from worker.child import TRAINER, command, environment, fetch_command
from worker.failures import SystemFault
from worker.supervising import orders
from worker.supervising.attempt import EVENTS_NAME, ChildCommand, Report, StopReason, run_child
from worker.supervising.context import WorkerContext
from worker.supervising.gpu_sharing import GpuLease, Training, blame_sharing, training_of, wait_for_room
from worker.supervising.proving import NoAnswer, ask, not_proved
from worker.supervising.publishing import adapter_row, place_bundle, publish, take_bundle_back
from worker.supervising.resuming import Start, choose_start, finished_before, read_left_over, tidy
from worker.supervising.retries import retry_until_stored
from worker.supervising.verdict import Next, Verdict, decide, is_done

WHY_IT_WAITS = {
    "worker_stopped": "the worker was stopped",
    "interrupted": "the worker could not reach the database in time",
    "paused": "it was resumed before it had paused",
}
log = logging.getLogger(__name__)


def run_until_idle(context: WorkerContext) -> None:
    """Work on waiting jobs until there is none to claim or the process is to stop."""
    while context.slot_acquired.is_set() and not context.stopping.is_set():
        try:
            job = take(context)
            if job is None:
                return
            work_on(context, Claim(job.id, job.epoch, context.stage, context.name, job.is_dry_run), job)
        except Fenced as fenced:
            log.warning("%s", fenced)
        except AWAY as error:  # the reconciler notifies again once the database is back
            log.warning("the database is unavailable: %s", context.database.why_away(error))
            return


def take(context: WorkerContext) -> Job | None:
    """Claim the best waiting job that this version understands, or return None if there is none.

    The claim of a job that it does not understand is rolled back, so it costs no attempt, and the next job is tried.
    """
    while True:
        with context.database.writer() as session:
            job = claim(session, context.stage, context.name, context.slot.key, utc_now())
            if job is None or is_understood(job):
                session.commit()
                return job
            job_id = job.id
            session.rollback()
            leave(session, job_id)
            session.commit()
        log.warning("%s has a spec that this version does not understand; a newer worker has to run it", job_id)


def work_on(context: WorkerContext, held: Claim, job: Job) -> None:
    """Run one attempt, from its claim to its end.

    Raises Fenced if another attempt owns the job, and one of AWAY if the process is to stop without the database.
    """
    log.info("%s: attempt %d of %s began", job.id, job.epoch, context.stage)
    try:
        report = run(context, held, job)
    except (Fenced, *AWAY):
        raise
    except Exception as error:
        log.exception("%s: attempt %d could not be run", job.id, job.epoch)
        report = Report(exit_code=1, failed=_unforeseen(error))
    try:
        verdict = retry_until_stored(lambda: conclude(context, held, report), context.stopping)
    except (Fenced, *AWAY):
        raise
    except Exception as error:  # the result cannot be stored, but the failure can
        log.exception("%s: the end of attempt %d could not be stored", job.id, job.epoch)
        broken = Report(exit_code=report.exit_code, stopped=report.stopped, failed=_unforeseen(error))
        verdict = retry_until_stored(lambda: conclude(context, held, broken), context.stopping)
    log.info("%s: attempt %d ended: %s", job.id, job.epoch, verdict.outcome)


def run(context: WorkerContext, held: Claim, job: Job) -> Report:
    """Run the attempt's child process, and have the adapter of a finished training verified.

    No process is started if the job was cancelled or paused, already has its result, or its file is gone.
    """
    if job.requested_action is RequestedAction.CANCEL or (
        job.requested_action is RequestedAction.PAUSE and held.stage is Stage.TRAIN
    ):
        stopped = StopReason.CANCELLED if job.requested_action is RequestedAction.CANCEL else StopReason.PAUSED
        return Report(exit_code=0, stopped=stopped)
    retry_until_stored(lambda: read_left_over(context, held), context.stopping)
    done = retry_until_stored(lambda: finished_before(context, held), context.stopping)
    report = done if done is not None else _run_child(context, held, job)
    is_over = report.stopped in (StopReason.FENCED, StopReason.CANCELLED) or not is_done(report)
    if is_over or held.stage is not Stage.TRAIN or context.settings.verify == "off":
        return report
    return verify(context, held, job, report)


def verify(context: WorkerContext, held: Claim, job: Job, report: Report) -> Report:
    """Have the engine verify the adapter of a finished training.

    Returns the report with the proof, or with the failure; in that case the adapter is moved back to its attempt's
    folder. Raises Fenced.
    """
    began, saved = time.monotonic(), report.adapter
    assert saved is not None, "a finished training has an adapter"
    report = replace(report, stopped=None, needs_proof=True)
    _store_event(context, held, PhaseStarted(phase=Phase.VERIFY))
    place_bundle(context.settings, job.id, saved)
    row = adapter_row(context.settings, job, saved)
    try:
        found = ask(
            context.settings.engine,
            ProofOrder(base=row.base(context.settings), adapter=row.ref(context.settings)),
            lambda: _heartbeat(context, held),
            context.settings.heartbeat_seconds,
        )
    except NoAnswer as none:
        report.failed = none.failure
    else:
        _apply_result(report, found)
    if report.proof is None:
        retry_until_stored(lambda: _withdraw(context, held, saved), context.stopping)
    else:
        _store_event(context, held, Verified(proof=report.proof, seconds=round(time.monotonic() - began, 3)))
    return report


def _withdraw(context: WorkerContext, held: Claim, saved: AdapterSaved) -> None:
    """If another attempt owns the job, this raises Fenced and does not move the bundle: that attempt may have published
    it."""
    with context.database.writer() as session:
        lock(session, held)
        try:
            take_bundle_back(context.settings, held.job_id, saved)
        except OSError as error:  # a later attempt finds it there too
            log.warning("%s: its adapter could not be moved back, and is not served: %s", held.job_id, error)


def _apply_result(report: Report, found: Proof | StopReason) -> None:
    match found:
        case StopReason():
            report.stopped = found
        case Proof(proved=True):
            report.proof = found
        case Proof():
            report.failed = not_proved(found)


def _store_event(context: WorkerContext, held: Claim, event: AttemptEvent) -> None:
    def write() -> None:
        with context.database.writer() as session:
            record_event(session, held, event)
            session.commit()

    retry_until_stored(write, context.stopping)


def _heartbeat(context: WorkerContext, held: Claim) -> StopReason | None:
    """One heartbeat while no child runs. Returns why the attempt is to stop, or None. Raises Fenced."""
    try:
        with context.database.writer() as session:
            requested = record(session, held, (), 0)
            session.commit()
    except AWAY as error:
        log.warning("%s: the database is unavailable: %s", held.job_id, context.database.why_away(error))
        return StopReason.SHUTDOWN if context.stopping.is_set() else None
    if requested.requested_action is RequestedAction.CANCEL:
        return StopReason.CANCELLED
    if requested.requested_action is RequestedAction.PAUSE:
        return StopReason.PAUSED
    return StopReason.SHUTDOWN if context.stopping.is_set() else None


def _run_child(context: WorkerContext, held: Claim, job: Job) -> Report:
    folder = attempt_dir(context.settings.job_dir(job.id), job.epoch)
    folder.mkdir(parents=True, exist_ok=True)
    spec, is_training = JobSpec.model_validate(job.spec), held.stage is Stage.TRAIN
    start = (
        retry_until_stored(lambda: choose_start(context, held, spec), context.stopping)
        if is_training
        else Start(0, None)
    )
    try:
        base = _base_of(context, job)
        order = orders.write(context, job, base, folder, start)
    except ServiceError as error:
        details = [problem.model_dump(exclude_none=True) for problem in error.details]
        failed = Failed(blame=Blame.USER, code=error.code, message=error.message, param=error.param, details=details)
        return Report(exit_code=0, failed=failed)
    cache = context.settings.root / "cache"
    child_command = ChildCommand(
        command=command(context.stage, order, context.settings.trainer_module),
        env=environment(Process.TRAIN if is_training else Process.CHECK, cache),
        folder=folder,
        max_seconds=spec.resources.max_seconds if is_training else None,
        checkpoints_requested=job.checkpoints_requested,
    )
    if not is_training:
        return run_child(context, held, child_command)
    if not base.is_local and context.settings.trainer_module == TRAINER:  # a test's trainer loads no base
        report = _fetch(context, held, child_command, order)
        if report.exit_code != 0 or report.stopped is not None:
            return report
        child_command = replace(child_command, events_before=(folder / EVENTS_NAME).stat().st_size)
    report = _run_beside_engine(context, held, child_command, training_of(context, job))
    if report.exit_code != 0 and report.stopped is not StopReason.FENCED:
        retry_until_stored(lambda: tidy(context, held), context.stopping)
    return report


def _fetch(context: WorkerContext, held: Claim, training: ChildCommand, order: Path) -> Report:
    """Download the base in a separate process, because the process that loads it gets no hub token."""
    env = environment(Process.FETCH, context.settings.root / "cache")
    return run_child(context, held, replace(training, command=fetch_command(order), env=env))


def _run_beside_engine(context: WorkerContext, held: Claim, child_command: ChildCommand, training: Training) -> Report:
    settings = context.settings
    with GpuLease(settings.engine, settings.gpu_sharing, training, settings.lease_seconds) as gpu_lease:
        stopped = wait_for_room(gpu_lease, lambda: _heartbeat(context, held), settings.heartbeat_seconds)
        if stopped is not None:
            return Report(exit_code=0, stopped=stopped)
        if not gpu_lease.is_settled:
            message = "the engine did not free its GPU memory in time: the training runs beside it"
            _store_event(context, held, Noticed(code="engine_stayed", message=message))
        report = run_child(context, held, child_command)
    return blame_sharing(report, gpu_lease)


def _base_of(context: WorkerContext, job: Job) -> BaseRef:
    return base_of(job.resolved["model"], context.settings.models)


def conclude(context: WorkerContext, held: Claim, report: Report) -> Verdict:
    """Store the result of the attempt; this is safe to repeat. Raises Fenced if another attempt owns the job."""
    with context.database.writer() as session:
        lock(session, held)
        verdict = decide(report, attempts.faults(session, held.job_id, held.epoch), context.settings.max_attempts)
    if verdict.next is Next.DROP:
        raise Fenced(f"{held.job_id} was taken over while attempt {held.epoch} ran")
    if verdict.next is Next.GO_ON and report.adapter is not None:
        place_bundle(context.settings, held.job_id, report.adapter)
    with context.database.writer() as session:
        job = _store_verdict(session, context, held, report, verdict)
        session.commit()
    _notify(context, job)
    return verdict


def _notify(context: WorkerContext, job: Job) -> None:
    """Notify the workers of the job's next stage, unless the job has to wait first."""
    stage = next((stage for stage in Stage if stage.waiting is job.status), None)
    if stage is not None and job.run_after is None:
        context.notifier.notify(stage)


def _store_verdict(session: Session, context: WorkerContext, held: Claim, report: Report, verdict: Verdict) -> Job:
    now, job = utc_now(), lock(session, held)
    failure = verdict.failure
    ends: dict[str, Any] = {
        "outcome": verdict.outcome,
        "reason": failure.message if failure else None,
        "exit_code": report.exit_code,
    }
    match verdict.next:
        case Next.CANCEL:
            return finish(session, held, JobStatus.CANCELLED, now, **ends)
        case Next.FAIL:
            return finish(session, held, JobStatus.FAILED, now, **ends, error=_error_of(failure))
        case Next.PAUSE if (
            failure is not None and job.requested_action is not RequestedAction.CANCEL and held.stage is Stage.TRAIN
        ):
            error = _error_of(failure)
            return finish(
                session, held, JobStatus.PAUSED, now, **ends, requested_action=RequestedAction.PAUSE, error=error
            )
        case Next.GO_ON if held.stage is Stage.CHECK:
            target = after_check(job.requested_action, is_dry_run=held.is_dry_run)
            return finish(session, held, target, now, **ends, run_after=None)
        case Next.GO_ON:
            values = publish(session, context.settings, job, report)
            return finish(session, held, JobStatus.SUCCEEDED, now, **ends, **values)
    target = given_back(held.stage, job.requested_action)
    if target is not held.stage.waiting:
        return finish(session, held, target, now, **ends)
    ends["reason"] = ends["reason"] or WHY_IT_WAITS.get(verdict.outcome)
    return finish(session, held, target, now, **ends, run_after=_run_after(now, verdict))


def _run_after(now: datetime, verdict: Verdict) -> datetime | None:
    return now + timedelta(seconds=verdict.pause_seconds) if verdict.pause_seconds else None


def _error_of(failure: Failed | None) -> dict[str, Any]:
    assert failure is not None, "a verdict that fails a job names the failure"
    return {"category": failure.blame.value, **failure.model_dump(mode="json", exclude={"kind", "at", "blame"})}


def _unforeseen(error: Exception) -> Failed:
    if isinstance(error, SystemFault):
        return error.failure
    if is_full(error):
        return DiskFullFault("the disk has no room for the files of an attempt").failure
    message = f"the worker could not run the attempt ({type(error).__name__})"
    return Failed(blame=Blame.SYSTEM, code="internal_error", message=message, hint="the worker's log has the trace")
