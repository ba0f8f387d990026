"""What a worker does when it is rung: claim, run, conclude, until nothing is left to claim.

claim ──> write the order ──> child under a guardian ──> verdict ──> the job's next status, in one commit
"""

import logging
import shutil
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.adapters.models import Adapter
from app.contracts.events import AdapterSaved, Blame, Failed
from app.contracts.order import BaseRef
from app.contracts.spec import JobSpec
from app.db import utc_now
from app.errors import ServiceError
from app.jobs.claims import Claim, Fenced, claim, finish, give_back
from app.jobs.logs import attempt_dir
from app.jobs.models import Attempt, Job
from app.jobs.states import JobStatus, Stage, after_check
from app.sources import resolve_model
from worker import orders
from worker.attempt import Report, run_child
from worker.child import command, environment
from worker.office import Office
from worker.verdict import Next, Verdict, judge

log = logging.getLogger(__name__)


def attend(office: Office) -> None:
    """Work until there is nothing to claim or the process is to stop."""
    while not office.stopping.is_set():
        job = take(office)
        if job is None:
            return
        held = Claim(job.id, job.epoch, office.stage, office.name, job.is_dry_run)
        log.info("%s: attempt %d of %s began", job.id, job.epoch, office.stage)
        try:
            report = run(office, held, job)
            verdict = judge(report, attempt_number(office, held), office.settings.max_attempts)
            conclude(office, held, report, verdict)
        except Fenced as fenced:
            log.warning("%s", fenced)
            continue
        log.info("%s: attempt %d ended: %s", job.id, job.epoch, verdict.outcome)


def take(office: Office) -> Job | None:
    with office.database.writer() as session:
        job = claim(session, office.stage, office.name, utc_now())
        session.commit()
    return job


def attempt_number(office: Office, held: Claim) -> int:
    """How many attempts of this stage began; those that a stopping worker handed back do not count."""
    with office.database.reader() as session:
        of_stage = (Attempt.job_id == held.job_id, Attempt.stage == held.stage)
        counts = Attempt.outcome.is_(None) | (Attempt.outcome != "worker_stopped")
        return session.scalar(select(func.count()).select_from(Attempt).where(*of_stage, counts)) or 1


def run(office: Office, held: Claim, job: Job) -> Report:
    """Run the attempt's child; a spec whose sources are gone fails without one."""
    folder = attempt_dir(office.settings.job_dir(job.id), job.epoch)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        base = _base_of(office, job)
        order = orders.write(office, job, base, folder)
    except ServiceError as error:
        details = [problem.model_dump(exclude_none=True) for problem in error.details]
        failed = Failed(blame=Blame.USER, code=error.code, message=error.message, param=error.param, details=details)
        return Report(exit_code=0, failed=failed)
    spec = JobSpec.model_validate(job.spec)
    max_seconds = spec.resources.max_seconds if office.stage is Stage.TRAIN else None
    env = environment(office.settings.root / "cache", is_offline=base.is_local and office.stage is Stage.TRAIN)
    return run_child(office, held, command(office.stage, order), env, folder, max_seconds)


def _base_of(office: Office, job: Job) -> BaseRef:
    model = job.resolved["model"]
    return resolve_model(model["model_name"], model["revision"], office.settings.models)


def conclude(office: Office, held: Claim, report: Report, verdict: Verdict) -> None:
    """Store the verdict. Raises Fenced when the job is another's by now."""
    if verdict.next is Next.DROP:
        raise Fenced(f"{held.job_id} was taken over while attempt {held.epoch} ran")
    with office.database.writer() as session:
        _hand_on(session, office, held, report, verdict)
        session.commit()
    if verdict.next is Next.GO_ON and held.stage is Stage.CHECK and not held.is_dry_run:
        office.bell.ring(Stage.TRAIN)


def _hand_on(session: Session, office: Office, held: Claim, report: Report, verdict: Verdict) -> None:
    now = utc_now()
    reason = verdict.failure.message if verdict.failure else None
    match verdict.next:
        case Next.WAIT:
            _wait_again(session, held, verdict, now)
        case Next.CANCEL:
            finish(session, held, JobStatus.CANCELLED, now, outcome=verdict.outcome, reason=None)
        case Next.FAIL:
            error = _error_of(verdict.failure)
            finish(session, held, JobStatus.FAILED, now, outcome=verdict.outcome, reason=reason, error=error)
        case Next.GO_ON if held.stage is Stage.CHECK:
            target = after_check(is_dry_run=held.is_dry_run)
            finish(session, held, target, now, outcome=verdict.outcome, reason=None, run_after=None)
        case Next.GO_ON:
            values = _publish(session, office, held, report)
            finish(session, held, JobStatus.SUCCEEDED, now, outcome=verdict.outcome, reason=None, **values)


def _wait_again(session: Session, held: Claim, verdict: Verdict, now: datetime) -> None:
    """Back to the stage's queue, after a pause where something went wrong."""
    job = session.get(Job, held.job_id)
    after = now + timedelta(seconds=verdict.pause_seconds) if verdict.pause_seconds else None
    reason = verdict.failure.message if verdict.failure else "the worker was stopped"
    if job is None or job.epoch != held.epoch:
        raise Fenced(f"{held.job_id} is not held by attempt {held.epoch} any more")
    if not give_back(session, job, now, outcome=verdict.outcome, reason=reason, run_after=after):
        raise Fenced(f"{held.job_id} was taken over while attempt {held.epoch} ended")


def _error_of(failure: Failed | None) -> dict[str, Any]:
    assert failure is not None, "a verdict that fails a job names the failure"
    return {"category": failure.blame.value, **failure.model_dump(mode="json", exclude={"kind", "at", "blame"})}


def _publish(session: Session, office: Office, held: Claim, report: Report) -> dict[str, Any]:
    """Move the bundle to where adapters live and make its row; the commit that follows makes it known."""
    saved, finished = report.adapter, report.finished
    assert saved is not None, "a finished training has an adapter"
    assert finished is not None, "a finished training said so"
    adapter_id = held.job_id.replace("job-", "adapter-", 1)
    target = office.settings.adapter_dir(adapter_id, saved.version)
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        shutil.rmtree(target)
    shutil.move(saved.path, target)
    job = session.get_one(Job, held.job_id)
    session.add(_row(adapter_id, job, saved, str(target)))
    result = {
        "adapter": f"{adapter_id}@{saved.version}",
        "steps": finished.steps,
        "train_seconds": finished.train_seconds,
        "final_loss": finished.final_loss,
        "tokens": finished.tokens,
        "adapter_bytes": saved.bytes,
        "trainable_parameters": saved.trainable_parameters,
    }
    return {"adapter_id": adapter_id, "result": result}


def _row(adapter_id: str, job: Job, saved: AdapterSaved, path: str) -> Adapter:
    return Adapter(
        id=adapter_id,
        version=saved.version,
        job_id=job.id,
        kind=saved.adapter_kind,
        base_model=job.resolved["model"]["model_name"],
        base_source=saved.base_model,
        base_is_local=saved.base_model.startswith("/"),
        base_revision=saved.base_revision,
        path=path,
        bytes=saved.bytes,
        rank=saved.rank,
        created_at=utc_now(),
    )
