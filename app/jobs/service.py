"""The rules of jobs on the API's side: what may be submitted, cancelled and deleted."""

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
from app.jobs.states import Desire, JobStatus, Stage
from app.sources import invalid, resolve_dataset, resolve_model

# A larger file is read once, by the checking stage, and not while the client waits.
CHECKED_AT_SUBMIT_BYTES = 64 * 2**20
# PostgreSQL takes no NUL in a text, so an id is looked at before the database is asked.
JOB_ID = re.compile(r"job-[a-z2-7]{24}")


def check(database: Database, settings: Settings, spec: JobSpec, *, is_dry_run: bool = False) -> None:
    """All that can be said of a spec without its model and without the hub. No connection is held while rows are read.

    Raises InvalidRequest and InvalidDataset, and TooMany before anything is read.
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
    """Store a checked job and tell the workers.

    Raises InvalidRequest when a file of it was deleted meanwhile, TooMany, and `idempotency.MadeMeanwhile`.
    """
    limits.check(session, settings, is_dry_run=is_dry_run)
    find_sources(session, settings, spec.dataset)
    job = new_job(spec, sent, is_dry_run=is_dry_run)
    job.continues = continuing.check(session, settings, spec)
    session.add(job)
    repository.append_event(session, job, "status", {"status": job.status.value}, job.created_at)
    if key is not None and not idempotency.keep(session, key, sent, job):
        raise idempotency.MadeMeanwhile
    session.commit()  # a worker must be able to find the row before it hears the bell
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
        desired=Desire.RUN,
        epoch=0,
        beats=0,
        checkpoints_asked=0,
        last_seq=1,
        notices=[notice.shown() for notice in no_effect.by_spec(spec)],
        created_at=utc_now(),
    )


def check_capabilities(spec: JobSpec, workers: Sequence[Worker]) -> None:
    """Refuse what no training worker here can do. Workers that are yet to come may; so without any, all is accepted."""
    devices = {worker.device for worker in workers if worker.stage is Stage.TRAIN}
    has_only_cpus = bool(devices) and all(device.startswith(CPU) for device in devices)
    if has_only_cpus and spec.lora.loftq_config is not None:
        found = f"a LoftQ initialisation, and workers on {', '.join(sorted(devices))}"
        raise invalid("lora.loftq_config", "needs_gpu", found, "null, or a worker with a GPU")


def find_sources(session: Session, settings: Settings, dataset: DatasetSpec) -> dict[str, SourceFile]:
    """The files that a spec names, by its fields. Raises InvalidRequest."""
    sources = {"dataset.source": dataset.source, "dataset.eval_source": dataset.eval_source}
    found = {param: find_source(session, settings, source, param) for param, source in sources.items() if source}
    return {param: file for param, file in found.items() if file is not None}


def check_rows(file: SourceFile, dataset: DatasetSpec, max_unpacked_bytes: int, param: str) -> None:
    """Every row of a file, unless it is too large to read while the client waits. Raises InvalidDataset."""
    if file.path.stat().st_size > CHECKED_AT_SUBMIT_BYTES:
        return
    name, limit = file.filename, max_unpacked_bytes
    try:
        normalise_file(file.path, dataset, filename=name, max_unpacked_bytes=limit, sink=_discard)
    except InvalidDataset as error:
        error.param = param
        raise


def _discard(record: Record, place: Place) -> None:
    """The form is checked here; the checking stage writes the rows."""


def find_source(session: Session, settings: Settings, source: Source, param: str) -> SourceFile | None:
    """The file that a source means; None for the hub. Raises InvalidRequest when there is no such file."""
    match source:
        case FileSource():
            row = files.lock_against_removal(session, source.file)
            if row is None:
                raise invalid(
                    f"{param}.file", "unknown_file", source.file, "the id of a file that POST /files answered"
                )
            return SourceFile(path=settings.file_path(row.id), filename=row.filename)
        case PathSource():
            path = resolve_dataset(source.path, settings.datasets)
            return SourceFile(path=path, filename=path.name)
        case _:
            return None


def cancel(session: Session, job_id: str) -> Job:
    """Cancel at once what no worker holds; ask the worker for the rest. Cancelling twice is the same as once."""
    find(session, job_id)
    job = termination.end(session, job_id)
    session.commit()
    if job is None:
        known = _find_anew(session, job_id)
        if known.status is not JobStatus.CANCELLED:
            raise _has_ended(known, "be cancelled")
        return known
    return job


def pause(session: Session, job_id: str) -> Job:
    """Stop a job behind a checkpoint, to be resumed there. Pausing twice is the same as once."""
    find(session, job_id)
    job = termination.pause(session, job_id)
    session.commit()
    if job is None:
        raise _has_ended(_find_anew(session, job_id), "be paused")
    return job


def resume(session: Session, notifier: JobNotifier, job_id: str) -> Job:
    """Let a paused job go on from its newest checkpoint. Resuming one that runs changes nothing."""
    find(session, job_id)
    job = termination.resume(session, job_id)
    session.commit()
    if job is None:
        raise _has_ended(_find_anew(session, job_id), "be resumed")
    if job.status is JobStatus.QUEUED:
        notifier.notify(Stage.TRAIN)
    return job


def ask_for_checkpoint(session: Session, job_id: str) -> Job:
    """Ask a training for a checkpoint at its next step."""
    find(session, job_id)
    job = repository.ask_for_checkpoint(session, job_id)
    if job is not None:
        repository.append_request(session, job, "checkpoint", utc_now())
    session.commit()
    if job is None:
        status = _find_anew(session, job_id).status.value
        raise Conflict(f"{job_id} is {status}: only a running job makes checkpoints", code="job_not_running")
    return job


def _has_ended(job: Job, what: str) -> Conflict:
    if job.status is JobStatus.UNKNOWN:
        message = f"{job.id} has a status that only another version of Tunesmith knows: here it can only be deleted"
        return Conflict(message, code="job_status_unknown")
    ends = "is being cancelled" if not job.status.is_final else f"has {_ENDS[job.status]}"
    return Conflict(f"{job.id} {ends} and cannot {what}", code="job_has_ended")


_ENDS = {JobStatus.SUCCEEDED: "succeeded", JobStatus.FAILED: "failed", JobStatus.CANCELLED: "been cancelled"}


def find(session: Session, job_id: str) -> Job:
    """Raises NotFound, also for a dry run: nobody but the request that waits for it knows it."""
    job = repository.get(session, job_id) if JOB_ID.fullmatch(job_id) else None
    if job is None or job.is_dry_run:
        raise unknown_job(job_id)
    return job


def unknown_job(job_id: str) -> NotFound:
    return NotFound(f"there is no job {job_id[:64]!r}", param="job_id", code="unknown_job")


def find_among(session: Session, job_ids: Sequence[str]) -> Sequence[Job]:
    """Those of them that `find` finds."""
    found = repository.among(session, [job_id for job_id in job_ids if JOB_ID.fullmatch(job_id)])
    return [job for job in found if not job.is_dry_run]


def _find_anew(session: Session, job_id: str) -> Job:
    """The row as it is now, and not as this session has seen it before."""
    session.expire_all()
    return find(session, job_id)


def delete(session: Session, settings: Settings, job_id: str) -> None:
    """Remove an ended job with its events, files and checkpoints. Its adapter stays until it is deleted itself."""
    find(session, job_id)
    job = repository.lock(session, job_id)  # nobody can go on from it from here on
    if job is None:
        raise unknown_job(job_id)
    if not job.status.is_final:
        raise Conflict(f"{job_id} is {job.status.value}: cancel it before you delete it", code="job_is_alive")
    user = repository.continued_by(session, job_id)
    if user is not None:
        raise Conflict(f"{user} goes on from {job_id}: cancel it, or wait for its end", code="job_is_in_use")
    if not retention.remove(session, settings, job_id):
        raise Conflict(f"{job_id} changed meanwhile", code="job_is_alive")


def check_after(session: Session, after: str | None) -> None:
    if after is None:
        return
    try:
        find(session, after)
    except NotFound as error:
        raise InvalidRequest(f"after: {error.message}", param="after") from error
