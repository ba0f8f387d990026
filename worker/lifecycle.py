"""What a worker does when it is rung: claim, run, conclude, until nothing is left to claim.

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
from app.db import AWAY, utc_now
from app.disk_faults import is_full
from app.environments import Process
from app.errors import ServiceError
from app.jobs import attempts
from app.jobs.claims import Claim, Fenced, claim, finish, leave, lock, record, tell
from app.jobs.logs import attempt_dir
from app.jobs.models import Job
from app.jobs.states import Desire, JobStatus, Stage, after_check, given_back
from app.jobs.stored import is_understood
from app.sources import base_of
from worker import orders
from worker.attempt import EVENTS_NAME, Errand, Report, StopReason, run_child
from worker.checkpoints import DiskFullFault
from worker.child import TRAINER, command, environment, fetch_command
from worker.failures import SystemFault
from worker.office import Office
from worker.persistence import insist
from worker.proving import NoAnswer, ask, not_proved
from worker.publishing import adapter_row, place_bundle, publish, take_bundle_back
from worker.resuming import Start, choose_start, finished_before, read_left_over, tidy
from worker.sharing import Arbiter, Training, blame_sharing, training_of, wait_for_room
from worker.verdict import Next, Verdict, is_done, judge

WHY_IT_WAITS = {
    "worker_stopped": "the worker was stopped",
    "interrupted": "the worker could not reach the database in time",
    "paused": "it was resumed before it had paused",
}
log = logging.getLogger(__name__)


def attend(office: Office) -> None:
    """Work until there is nothing to claim or the process is to stop."""
    while office.seated.is_set() and not office.stopping.is_set():
        try:
            job = take(office)
            if job is None:
                return
            work_on(office, Claim(job.id, job.epoch, office.stage, office.name, job.is_dry_run), job)
        except Fenced as fenced:
            log.warning("%s", fenced)
        except AWAY as error:  # the reconciler rings again once it is back
            log.warning("the database is away: %s", office.database.why_away(error))
            return


def take(office: Office) -> Job | None:
    """The best waiting job that this version understands. The claim of another is not committed: it costs no attempt,
    and keeps no job behind it from being taken."""
    while True:
        with office.database.writer() as session:
            job = claim(session, office.stage, office.name, office.slot.key, utc_now())
            if job is None or is_understood(job):
                session.commit()
                return job
            job_id = job.id
            session.rollback()
            leave(session, job_id)
            session.commit()
        log.warning("%s has a spec that this version does not understand: it is left to a newer worker", job_id)


def work_on(office: Office, held: Claim, job: Job) -> None:
    """One attempt, from its claim to its end. Raises Fenced, and one of AWAY when the process is to stop."""
    log.info("%s: attempt %d of %s began", job.id, job.epoch, office.stage)
    try:
        report = run(office, held, job)
    except (Fenced, *AWAY):
        raise
    except Exception as error:
        log.exception("%s: attempt %d could not be run", job.id, job.epoch)
        report = Report(exit_code=1, failed=_unforeseen(error))
    try:
        verdict = insist(lambda: conclude(office, held, report), office.stopping)
    except (Fenced, *AWAY):
        raise
    except Exception as error:  # what it has come to cannot be stored; that it failed can be
        log.exception("%s: the end of attempt %d could not be stored", job.id, job.epoch)
        broken = Report(exit_code=report.exit_code, stopped=report.stopped, failed=_unforeseen(error))
        verdict = insist(lambda: conclude(office, held, broken), office.stopping)
    log.info("%s: attempt %d ended: %s", job.id, job.epoch, verdict.outcome)


def run(office: Office, held: Claim, job: Job) -> Report:
    """Run the attempt's child; one whose user changed his mind, whose result is there, or whose sources are gone, ends
    without one."""
    if job.desired is Desire.CANCEL or (job.desired is Desire.PAUSE and held.stage is Stage.TRAIN):
        stopped = StopReason.CANCELLED if job.desired is Desire.CANCEL else StopReason.PAUSED
        return Report(exit_code=0, stopped=stopped)
    insist(lambda: read_left_over(office, held), office.stopping)
    done = insist(lambda: finished_before(office, held), office.stopping)
    report = done if done is not None else _run_child(office, held, job)
    is_over = report.stopped in (StopReason.FENCED, StopReason.CANCELLED) or not is_done(report)
    if is_over or held.stage is not Stage.TRAIN or office.settings.verify == "off":
        return report
    return verify(office, held, job, report)


def verify(office: Office, held: Claim, job: Job, report: Report) -> Report:
    """The report of a finished training, with the engine's proof of its adapter, or with what stands against it.

    What is not proved goes back to the folder of its attempt. Raises Fenced.
    """
    began, saved = time.monotonic(), report.adapter
    assert saved is not None, "a finished training has an adapter"
    report = replace(report, stopped=None, needs_proof=True)
    _tell(office, held, PhaseStarted(phase=Phase.VERIFY))
    place_bundle(office.settings, job.id, saved)
    row = adapter_row(office.settings, job, saved)
    try:
        found = ask(
            office.settings.engine,
            ProofOrder(base=row.base(office.settings), adapter=row.ref(office.settings)),
            lambda: _beat(office, held),
            office.settings.heartbeat_seconds,
        )
    except NoAnswer as none:
        report.failed = none.failure
    else:
        _take_answer(report, found)
    if report.proof is None:
        insist(lambda: _withdraw(office, held, saved), office.stopping)
    else:
        _tell(office, held, Verified(proof=report.proof, seconds=round(time.monotonic() - began, 3)))
    return report


def _withdraw(office: Office, held: Claim, saved: AdapterSaved) -> None:
    """Raises Fenced, and leaves the bundle where it is: whoever holds the job by now may have published it."""
    with office.database.writer() as session:
        lock(session, held)
        try:
            take_bundle_back(office.settings, held.job_id, saved)
        except OSError as error:  # it is found there too
            log.warning("%s: its adapter stays where it is not served: %s", held.job_id, error)


def _take_answer(report: Report, found: Proof | StopReason) -> None:
    match found:
        case StopReason():
            report.stopped = found
        case Proof(proved=True):
            report.proof = found
        case Proof():
            report.failed = not_proved(found)


def _tell(office: Office, held: Claim, event: AttemptEvent) -> None:
    def write() -> None:
        with office.database.writer() as session:
            tell(session, held, event)
            session.commit()

    insist(write, office.stopping)


def _beat(office: Office, held: Claim) -> StopReason | None:
    """One heartbeat without a child; what its answer asks for. Raises Fenced."""
    try:
        with office.database.writer() as session:
            wish = record(session, held, (), 0)
            session.commit()
    except AWAY as error:
        log.warning("%s: the database is away: %s", held.job_id, office.database.why_away(error))
        return StopReason.SHUTDOWN if office.stopping.is_set() else None
    if wish.desired is Desire.CANCEL:
        return StopReason.CANCELLED
    if wish.desired is Desire.PAUSE:
        return StopReason.PAUSED
    return StopReason.SHUTDOWN if office.stopping.is_set() else None


def _run_child(office: Office, held: Claim, job: Job) -> Report:
    folder = attempt_dir(office.settings.job_dir(job.id), job.epoch)
    folder.mkdir(parents=True, exist_ok=True)
    spec, is_training = JobSpec.model_validate(job.spec), held.stage is Stage.TRAIN
    start = insist(lambda: choose_start(office, held, spec), office.stopping) if is_training else Start(0, None)
    try:
        base = _base_of(office, job)
        order = orders.write(office, job, base, folder, start)
    except ServiceError as error:
        details = [problem.model_dump(exclude_none=True) for problem in error.details]
        failed = Failed(blame=Blame.USER, code=error.code, message=error.message, param=error.param, details=details)
        return Report(exit_code=0, failed=failed)
    cache = office.settings.root / "cache"
    errand = Errand(
        command=command(office.stage, order, office.settings.trainer_module),
        env=environment(Process.TRAIN if is_training else Process.CHECK, cache),
        folder=folder,
        max_seconds=spec.resources.max_seconds if is_training else None,
        checkpoints_asked=job.checkpoints_asked,
    )
    if not is_training:
        return run_child(office, held, errand)
    if not base.is_local and office.settings.trainer_module == TRAINER:  # a stand-in loads nothing
        report = _fetch(office, held, errand, order)
        if report.exit_code != 0 or report.stopped is not None:
            return report
        errand = replace(errand, events_before=(folder / EVENTS_NAME).stat().st_size)
    report = _run_beside_engine(office, held, errand, training_of(office, job))
    if report.exit_code != 0 and report.stopped is not StopReason.FENCED:
        insist(lambda: tidy(office, held), office.stopping)
    return report


def _fetch(office: Office, held: Claim, training: Errand, order: Path) -> Report:
    """Have the base of a hub model on this host, by a process of its own: the one that loads it gets no token."""
    env = environment(Process.FETCH, office.settings.root / "cache")
    return run_child(office, held, replace(training, command=fetch_command(order), env=env))


def _run_beside_engine(office: Office, held: Claim, errand: Errand, training: Training) -> Report:
    settings = office.settings
    with Arbiter(settings.engine, settings.gpu_sharing, training, settings.lease_seconds) as arbiter:
        stopped = wait_for_room(arbiter, lambda: _beat(office, held), settings.heartbeat_seconds)
        if stopped is not None:
            return Report(exit_code=0, stopped=stopped)
        if not arbiter.is_settled:
            message = "the engine did not let go of its memory in time: the training runs beside it"
            _tell(office, held, Noticed(code="engine_stayed", message=message))
        report = run_child(office, held, errand)
    return blame_sharing(report, arbiter)


def _base_of(office: Office, job: Job) -> BaseRef:
    return base_of(job.resolved["model"], office.settings.models)


def conclude(office: Office, held: Claim, report: Report) -> Verdict:
    """Store what the attempt came to. It may be repeated. Raises Fenced when the job is another's by now."""
    with office.database.writer() as session:
        lock(session, held)
        verdict = judge(report, attempts.faults(session, held.job_id, held.epoch), office.settings.max_attempts)
    if verdict.next is Next.DROP:
        raise Fenced(f"{held.job_id} was taken over while attempt {held.epoch} ran")
    if verdict.next is Next.GO_ON and report.adapter is not None:
        place_bundle(office.settings, held.job_id, report.adapter)
    with office.database.writer() as session:
        job = _hand_on(session, office, held, report, verdict)
        session.commit()
    _ring(office, job)
    return verdict


def _ring(office: Office, job: Job) -> None:
    """Somebody can go on with it at once."""
    stage = next((stage for stage in Stage if stage.waiting is job.status), None)
    if stage is not None and job.run_after is None:
        office.bell.ring(stage)


def _hand_on(session: Session, office: Office, held: Claim, report: Report, verdict: Verdict) -> Job:
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
        case Next.PAUSE if failure is not None and job.desired is not Desire.CANCEL and held.stage is Stage.TRAIN:
            error = _error_of(failure)
            return finish(session, held, JobStatus.PAUSED, now, **ends, desired=Desire.PAUSE, error=error)
        case Next.GO_ON if held.stage is Stage.CHECK:
            target = after_check(job.desired, is_dry_run=held.is_dry_run)
            return finish(session, held, target, now, **ends, run_after=None)
        case Next.GO_ON:
            values = publish(session, office.settings, job, report)
            return finish(session, held, JobStatus.SUCCEEDED, now, **ends, **values)
    target = given_back(held.stage, job.desired)
    if target is not held.stage.waiting:
        return finish(session, held, target, now, **ends)
    ends["reason"] = ends["reason"] or WHY_IT_WAITS.get(verdict.outcome)
    return finish(session, held, target, now, **ends, run_after=_after(now, verdict))


def _after(now: datetime, verdict: Verdict) -> datetime | None:
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
