"""The rules of jobs on the API's side: what may be submitted, cancelled and deleted."""

import re
import shutil
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any

from sqlalchemy.orm import Session

from app.config import Settings
from app.contracts.order import SourceFile
from app.contracts.records import Record
from app.contracts.spec import DatasetSpec, FileSource, JobSpec, PathSource, Source
from app.db import Database, utc_now
from app.errors import Conflict, InvalidDataset, InvalidRequest, NotFound
from app.files import repository as files
from app.files.check import Place, normalise_file
from app.ids import new_id
from app.jobs import repository
from app.jobs.models import CPU, Job, Worker
from app.jobs.queue import Doorbell
from app.jobs.states import Desire, JobStatus, Stage
from app.sources import invalid, resolve_dataset, resolve_model

# A larger file is read once, by the checking stage, and not while the client waits.
CHECKED_AT_SUBMIT_BYTES = 64 * 2**20
# An answer is read from an ended dry run within moments; whose request is gone is swept after so long.
DRY_RUN_IS_READ_WITHIN = timedelta(minutes=1)
DRY_RUN_IS_ABANDONED_AFTER = timedelta(hours=1)
# PostgreSQL takes no NUL in a text, so an id is looked at before the database is asked.
JOB_ID = re.compile(r"job-[a-z2-7]{24}")


def check(database: Database, settings: Settings, spec: JobSpec) -> None:
    """All that can be said of a spec without its model and without the hub. No connection is held while rows are read.

    Raises InvalidRequest and InvalidDataset.
    """
    resolve_model(spec.model.model_name, spec.model.revision, settings.models)
    with database.reader() as session:
        check_capabilities(spec, repository.workers(session))
        files = find_sources(session, settings, spec.dataset)
    for param, file in files.items():
        check_rows(file, spec.dataset, settings.max_unpacked_bytes, param)


def submit(
    session: Session,
    settings: Settings,
    bell: Doorbell,
    spec: JobSpec,
    sent: dict[str, Any],
    *,
    is_dry_run: bool = False,
) -> Job:
    """Store a checked job and tell the workers. Raises InvalidRequest when a file of it was deleted meanwhile."""
    find_sources(session, settings, spec.dataset)
    job = new_job(spec, sent, is_dry_run=is_dry_run)
    session.add(job)
    repository.append_event(session, job, "status", {"status": job.status.value}, job.created_at)
    session.commit()  # a worker must be able to find the row before it hears the bell
    bell.ring(Stage.CHECK)
    return job


def new_job(spec: JobSpec, sent: dict[str, Any], *, is_dry_run: bool = False) -> Job:
    source, eval_source = spec.dataset.source, spec.dataset.eval_source
    return Job(
        id=new_id("job"),
        name=spec.name,
        labels=spec.labels,
        priority=spec.priority,
        spec=sent,
        resolved=spec.model_dump(mode="json"),
        file_id=source.file if isinstance(source, FileSource) else None,
        eval_file_id=eval_source.file if isinstance(eval_source, FileSource) else None,
        is_dry_run=is_dry_run,
        status=JobStatus.VALIDATING,
        desired=Desire.RUN,
        epoch=0,
        beats=0,
        last_seq=1,
        notices=[],
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
            row = files.get(session, source.file)
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
    job = _end(session, job_id)
    session.commit()
    if job is None:
        known = find(session, job_id)
        if known.status is not JobStatus.CANCELLED:
            raise Conflict(f"{job_id} has {known.status.value} and cannot be cancelled", code="job_has_ended")
        return known
    return job


def _end(session: Session, job_id: str) -> Job | None:
    job = repository.move(session, job_id, JobStatus.CANCELLED, utc_now(), Job.worker.is_(None), desired=Desire.CANCEL)
    return job or repository.request_cancel(session, job_id)


def find(session: Session, job_id: str) -> Job:
    """Raises NotFound, also for a dry run: nobody but the request that waits for it knows it."""
    job = repository.get(session, job_id) if JOB_ID.fullmatch(job_id) else None
    if job is None or job.is_dry_run:
        raise NotFound(f"there is no job {job_id[:64]!r}", param="job_id", code="unknown_job")
    return job


def delete(session: Session, settings: Settings, job_id: str) -> None:
    """Remove an ended job with its events and files. Its adapter stays until it is deleted itself."""
    job = find(session, job_id)
    if not job.status.is_final:
        raise Conflict(f"{job_id} is {job.status.value}: cancel it before you delete it", code="job_is_alive")
    if not _remove(session, settings, job_id):
        raise Conflict(f"{job_id} changed meanwhile", code="job_is_alive")


def _remove(session: Session, settings: Settings, job_id: str) -> bool:
    """Rows and folder of an ended job. False, and nothing was done, when it is not there or has not ended."""
    if not repository.remove(session, job_id):
        session.rollback()
        return False
    folder = settings.job_dir(job_id)
    aside = folder.with_name(f".deleted-{job_id}")
    with suppress(FileNotFoundError):  # it may never have had a folder
        folder.rename(aside)
    session.commit()
    shutil.rmtree(aside, ignore_errors=True)
    return True


def end_dry_run(session: Session, settings: Settings, job_id: str) -> None:
    """Nobody waits for its answer: it is removed, or ended by the checker that holds it and swept afterwards."""
    job = _end(session, job_id)
    session.commit()
    if job is None or job.status.is_final:
        _remove(session, settings, job_id)


def sweep_dry_runs(database: Database, settings: Settings) -> None:
    """Remove the dry runs whose requests are gone. Safe to run anywhere, any number of times."""
    now = utc_now()
    with database.reader() as session:
        ended = repository.ended_dry_runs(session, now - DRY_RUN_IS_READ_WITHIN)
        abandoned = repository.old_dry_runs(session, now - DRY_RUN_IS_ABANDONED_AFTER)
    for job_id in (*ended, *abandoned):
        with database.writer() as session:
            end_dry_run(session, settings, job_id)


def check_after(session: Session, after: str | None) -> None:
    if after is None:
        return
    try:
        find(session, after)
    except NotFound as error:
        raise InvalidRequest(f"after: {error.message}", param="after") from error
