"""The API's rules for jobs: which may be submitted, cancelled, paused, resumed and deleted."""

import re
from collections.abc import Sequence
from typing import Any

from sqlalchemy.orm import Session

from app.config import Settings
from app.contracts import no_effect
from app.contracts.order import SourceFile
from app.contracts.records import Record
from app.contracts.spec import SPEC_VERSION, DatasetSpec, FileSource, JobSpec, PathSource, Source
from app.database.connection import Database, utc_now
from app.datasets.check import Place, normalise_file
from app.errors import Conflict, InvalidDataset, InvalidRequest, NotFound
from app.files import repository as files
from app.ids import new_id
from app.jobs import continuing, idempotency, limits, repository
from app.jobs.models import CPU, Job, Worker
from app.jobs.queue import retention, termination
from app.jobs.queue.notifier import JobNotifier
from app.jobs.states import JobStatus, RequestedAction, Stage
from app.sources import invalid, resolve_dataset, resolve_model

# A larger file is read only by the checking stage, not while the client waits.
CHECKED_AT_SUBMIT_BYTES = 64 * 2**20
# PostgreSQL refuses a NUL in a text, so an id is validated before it is used in a query.
JOB_ID = re.compile(r"job-[a-z2-7]{24}")


def check(database: Database, settings: Settings, spec: JobSpec, *, is_dry_run: bool = False) -> None:
    """Check everything in a spec that needs neither the model nor the hub. No connection is held while rows are read.

    Raises InvalidRequest and InvalidDataset, and TooMany before any row is read.
    """
    resolve_model(spec.model.model_name, spec.model.revision, settings.models)
    with database.reader() as session:
        limits.check(session, settings, is_dry_run=is_dry_run)
        check_capabilities(spec, repository.workers(session))
        continuing.check(session, settings, spec)
        files = find_sources(session, settings, spec.dataset)
    for param, file in files.items():
        check_rows(file, spec.dataset_in_force, settings.max_unpacked_bytes, param)


def submit(
    session: Session,
    settings: Settings,
    notifier: JobNotifier,
    spec: JobSpec,
    sent: dict[str, Any],
    *,
    is_dry_run: bool = False,
    key: str | None = None,
) -> Job:
    """Store a checked job and notify the workers.

    Raises InvalidRequest if one of its files was deleted meanwhile, TooMany, and `idempotency.MadeMeanwhile` if another
    request with the same key was first.
    """
    limits.check(session, settings, is_dry_run=is_dry_run)
    find_sources(session, settings, spec.dataset)
    job = new_job(spec, sent, is_dry_run=is_dry_run)
    job.continues = continuing.check(session, settings, spec)
    session.add(job)
    repository.append_event(session, job, "status", {"status": job.status.value}, job.created_at)
    if key is not None and not idempotency.keep(session, key, sent, job):
        raise idempotency.MadeMeanwhile
    session.commit()  # a worker must be able to find the row before it is notified
    notifier.notify(Stage.CHECK)
    return job


def new_job(spec: JobSpec, sent: dict[str, Any], *, is_dry_run: bool = False) -> Job:
    source, eval_source = spec.dataset.source, spec.dataset.eval_source
    return Job(
        id=new_id("job"),
        name=spec.name,
        project=spec.project,
        labels=spec.labels,
        priority=spec.priority,
        spec=sent,
        spec_version=SPEC_VERSION,
        resolved=spec.model_dump(mode="json"),
        file_id=source.file if isinstance(source, FileSource) else None,
        eval_file_id=eval_source.file if isinstance(eval_source, FileSource) else None,
        is_dry_run=is_dry_run,
        status=JobStatus.VALIDATING,
        requested_action=RequestedAction.RUN,
        epoch=0,
        heartbeats=0,
        checkpoints_requested=0,
        last_seq=1,
        notices=[notice.shown() for notice in no_effect.by_spec(spec)],
        created_at=utc_now(),
    )


def check_capabilities(spec: JobSpec, workers: Sequence[Worker]) -> None:
    """Raise InvalidRequest for a spec that no present training worker can run. Without any worker, all are accepted."""
    devices = {worker.device for worker in workers if worker.stage is Stage.TRAIN}
    has_only_cpus = bool(devices) and all(device.startswith(CPU) for device in devices)
    if has_only_cpus and spec.lora.loftq_config is not None:
        found = f"a LoftQ initialisation, and workers on {', '.join(sorted(devices))}"
        raise invalid("lora.loftq_config", "needs_gpu", found, "null, or a worker with a GPU")


def find_sources(session: Session, settings: Settings, dataset: DatasetSpec) -> dict[str, SourceFile]:
    """Return the files that a spec names, by the spec's field. Raises InvalidRequest if one does not exist."""
    sources = {"dataset.source": dataset.source, "dataset.eval_source": dataset.eval_source}
    found = {param: find_source(session, settings, source, param) for param, source in sources.items() if source}
    return {param: file for param, file in found.items() if file is not None}


def check_rows(file: SourceFile, dataset: DatasetSpec, max_unpacked_bytes: int, param: str) -> None:
    """Check every row of a file, unless it is too large to read while the client waits. Raises InvalidDataset."""
    if file.path.stat().st_size > CHECKED_AT_SUBMIT_BYTES:
        return
    name, limit = file.filename, max_unpacked_bytes
    try:
        normalise_file(file.path, dataset, filename=name, max_unpacked_bytes=limit, sink=_discard)
    except InvalidDataset as error:
        error.param = param
        raise


def _discard(record: Record, place: Place) -> None:
    """Rows are only checked here; the checking stage writes them."""


def find_source(session: Session, settings: Settings, source: Source, param: str) -> SourceFile | None:
    """Return the file of a source, or None for the hub. Raises InvalidRequest if there is no such file."""
    match source:
        case FileSource():
            row = files.lock_against_removal(session, source.file)
            if row is None:
                raise invalid(
                    f"{param}.file", "unknown_file", source.file, "the id of a file that POST /files returned"
                )
            return SourceFile(path=settings.file_path(row.id), filename=row.filename)
        case PathSource():
            path = resolve_dataset(source.path, settings.datasets)
            return SourceFile(path=path, filename=path.name)
        case _:
            return None


def cancel(session: Session, job_id: str) -> Job:
    """Cancel a job at once if no worker holds it; otherwise its worker cancels it soon. Cancelling twice is no error.

    Raises NotFound, and Conflict if the job has succeeded or failed.
    """
    find(session, job_id)
    job = termination.end(session, job_id)
    session.commit()
    if job is None:
        known = _find_again(session, job_id)
        if known.status is not JobStatus.CANCELLED:
            raise _has_ended(known, "be cancelled")
        return known
    return job


def pause(session: Session, job_id: str) -> Job:
    """Stop a job after it has saved a checkpoint, from which it can be resumed. Pausing twice is no error.

    Raises NotFound, and Conflict if the job has ended or is being cancelled.
    """
    find(session, job_id)
    job = termination.pause(session, job_id)
    session.commit()
    if job is None:
        raise _has_ended(_find_again(session, job_id), "be paused")
    return job


def resume(session: Session, notifier: JobNotifier, job_id: str) -> Job:
    """Continue a paused job from its newest checkpoint. Resuming a running job changes nothing.

    Raises NotFound, and Conflict if the job has ended or is being cancelled.
    """
    find(session, job_id)
    job = termination.resume(session, job_id)
    session.commit()
    if job is None:
        raise _has_ended(_find_again(session, job_id), "be resumed")
    if job.status is JobStatus.QUEUED:
        notifier.notify(Stage.TRAIN)
    return job


def ask_for_checkpoint(session: Session, job_id: str) -> Job:
    """Request a checkpoint at the next step. Raises NotFound, and Conflict if the job is not running."""
    find(session, job_id)
    job = repository.ask_for_checkpoint(session, job_id)
    if job is not None:
        repository.append_request(session, job, "checkpoint", utc_now())
    session.commit()
    if job is None:
        status = _find_again(session, job_id).status.value
        raise Conflict(f"{job_id} is {status}: only a running job makes checkpoints", code="job_not_running")
    return job


def _has_ended(job: Job, what: str) -> Conflict:
    if job.status is JobStatus.UNKNOWN:
        message = f"{job.id} has a status that only another version of Tunesmith knows: this version can only delete it"
        return Conflict(message, code="job_status_unknown")
    ends = "is being cancelled" if not job.status.is_final else f"has {_ENDS[job.status]}"
    return Conflict(f"{job.id} {ends} and cannot {what}", code="job_has_ended")


_ENDS = {JobStatus.SUCCEEDED: "succeeded", JobStatus.FAILED: "failed", JobStatus.CANCELLED: "been cancelled"}


def find(session: Session, job_id: str) -> Job:
    """Return a job. Raises NotFound, also for a dry run, which only its own request may see."""
    job = repository.get(session, job_id) if JOB_ID.fullmatch(job_id) else None
    if job is None or job.is_dry_run:
        raise unknown_job(job_id)
    return job


def unknown_job(job_id: str) -> NotFound:
    return NotFound(f"there is no job {job_id[:64]!r}", param="job_id", code="unknown_job")


def find_among(session: Session, job_ids: Sequence[str]) -> Sequence[Job]:
    """Return those of the jobs that `find` would return."""
    found = repository.among(session, [job_id for job_id in job_ids if JOB_ID.fullmatch(job_id)])
    return [job for job in found if not job.is_dry_run]


def _find_again(session: Session, job_id: str) -> Job:
    """Read the row again, instead of returning what this session has loaded before."""
    session.expire_all()
    return find(session, job_id)


def delete(session: Session, settings: Settings, job_id: str) -> None:
    """Remove an ended job with its events, logs and checkpoints. Its adapter stays until it is deleted itself.

    Raises NotFound, and Conflict if the job has not ended or another job continues from it.
    """
    find(session, job_id)
    job = repository.lock(session, job_id)  # from here on no new job can continue from it
    if job is None:
        raise unknown_job(job_id)
    if not job.status.is_final:
        raise Conflict(f"{job_id} is {job.status.value}: cancel it before you delete it", code="job_is_alive")
    user = repository.continued_by(session, job_id)
    if user is not None:
        raise Conflict(f"{user} continues from {job_id}: cancel it, or wait for its end", code="job_is_in_use")
    if not retention.remove(session, settings, job_id):
        raise Conflict(f"{job_id} changed meanwhile", code="job_is_alive")


def check_after(session: Session, after: str | None) -> None:
    """Raise InvalidRequest if the parameter `after` of a list names no job."""
    if after is None:
        return
    try:
        find(session, after)
    except NotFound as error:
        raise InvalidRequest(f"after: {error.message}", param="after") from error
