"""What the API checks of a training's spec before it is queued, and what it stores."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy.orm import Session

from app.config import Settings
from app.contracts import no_effect
from app.contracts.devices import CPU
from app.contracts.order import SourceFile
from app.contracts.plan import JobPlan, plan_of
from app.contracts.records import Record
from app.contracts.spec import DatasetSpec, FileSource, JobSpec, PathSource, Source
from app.contracts.trackers import host_of, read_hosts
from app.database.connection import Database
from app.datasets.check import Place, check_kind, normalise_file
from app.errors import InvalidDataset
from app.files import repository as files
from app.jobs import continuing, repository, secret_references, stored
from app.jobs.models import Job, Worker
from app.jobs.states import Stage
from app.scope import Scope
from app.sources import invalid, resolve_dataset, resolve_model

# A larger file is read only by the checking stage, not while the client waits.
CHECKED_AT_SUBMIT_BYTES = 64 * 2**20


class TrainingSubmission:
    """The `app.jobs.kinds.Submission` of trainings, and of specs that are only checked."""

    def check(self, database: Database, scope: Scope, settings: Settings, spec: JobSpec) -> None:
        """Check everything in a spec that needs neither the model nor the hub.

        No connection is held while rows are read. Raises InvalidRequest and InvalidDataset.
        """
        resolve_model(spec.model.model_name, spec.model.revision, settings.models)
        check_trackers(spec, settings.tracker_hosts)
        with database.reader() as session:
            check_capabilities(spec, repository.workers(session))
            continuing.check(session, scope, settings, spec)
            secret_references.check(session, scope, spec)
            found = find_sources(session, scope, settings, spec.dataset)
        for param, file in found.items():
            bring_source(settings, file)
            check_rows(file, spec, settings.max_unpacked_bytes, param)

    def columns(self, session: Session, scope: Scope, settings: Settings, spec: JobSpec) -> dict[str, Any]:
        """Return the columns of the row. Its files cannot be deleted until the session ends.

        Raises InvalidRequest if a file, or what the job continues from, was deleted meanwhile.
        """
        find_sources(session, scope, settings, spec.dataset)
        return {**training_columns(spec), "continues": continuing.check(session, scope, settings, spec)}

    def read_plan(self, job: Job) -> JobPlan | None:
        return stored.read_plan(job)


def training_columns(spec: JobSpec) -> dict[str, Any]:
    """Return the columns that follow from the spec alone."""
    plan = plan_of(spec)
    source, eval_source = spec.dataset.source, spec.dataset.eval_source
    return {
        "plan": plan.model_dump(mode="json"),
        "gpus": plan.resources.gpus,
        "file_id": source.file if isinstance(source, FileSource) else None,
        "eval_file_id": eval_source.file if isinstance(eval_source, FileSource) else None,
        "notices": [notice.shown() for notice in no_effect.by_spec(plan)],
    }


def check_capabilities(spec: JobSpec, workers: Sequence[Worker]) -> None:
    """Raise InvalidRequest for a spec that no present training worker can run. Without any worker, all are accepted."""
    trainers = [worker for worker in workers if worker.stage is Stage.TRAIN]
    most_gpus = max((worker.gpus for worker in trainers), default=spec.resources.gpus)
    if spec.resources.gpus > most_gpus:
        expected = f"at most {most_gpus}: no worker sees more GPUs"
        raise invalid("resources.gpus", "needs_gpus", str(spec.resources.gpus), expected)
    devices = {worker.device for worker in trainers}
    has_only_cpus = bool(devices) and all(device.startswith(CPU) for device in devices)
    if has_only_cpus and spec.lora.loftq_config is not None:
        found = f"a LoftQ initialisation, and workers on {', '.join(sorted(devices))}"
        raise invalid("lora.loftq_config", "needs_gpu", found, "null, or a worker with a GPU")


def check_trackers(spec: JobSpec, allowed: str) -> None:
    """Raise InvalidRequest for a tracker's server that the operator does not allow."""
    hosts = read_hosts(allowed)
    for name, url in spec.training.tracker_urls.items():
        if host_of(url).lower() not in hosts:
            known = f"one of TUNESMITH_TRACKER_HOSTS ({', '.join(sorted(hosts))})" if hosts else "none"
            expected = (
                f"{known}: an operator allows a server by TUNESMITH_TRACKER_HOSTS={host_of(url)} for API and workers; "
                f"without a URL {name} writes files, which are an artifact of the job"
            )
            raise invalid(f"training.tracker_urls.{name}", "tracker_not_allowed", host_of(url), expected)


def find_sources(session: Session, scope: Scope, settings: Settings, dataset: DatasetSpec) -> dict[str, SourceFile]:
    """Return the files that a spec names, by the spec's field. Raises InvalidRequest if one does not exist."""
    sources = {"dataset.source": dataset.source, "dataset.eval_source": dataset.eval_source}
    found = {param: find_source(session, scope, settings, source, param) for param, source in sources.items() if source}
    return {param: file for param, file in found.items() if file is not None}


def bring_source(settings: Settings, file: SourceFile | None) -> None:
    """Have an uploaded file on this host. Raises StoreAway."""
    if file is not None and file.path.parent == settings.root / "files":
        settings.files.bring(file.path)


def check_rows(file: SourceFile, spec: JobSpec, max_unpacked_bytes: int, param: str) -> None:
    """Check every row of a file, unless it is too large to read while the client waits. Raises InvalidDataset."""
    if file.path.stat().st_size > CHECKED_AT_SUBMIT_BYTES:
        return
    name, limit = file.filename, max_unpacked_bytes

    def check(record: Record, place: Place) -> None:  # rows are only checked here; the checking stage writes them
        check_kind(record, place, spec.method)

    try:
        normalise_file(file.path, spec.dataset_in_force, filename=name, max_unpacked_bytes=limit, sink=check)
    except InvalidDataset as error:
        error.param = param
        raise


def find_source(session: Session, scope: Scope, settings: Settings, source: Source, param: str) -> SourceFile | None:
    """Return the file of a source, or None for the hub. Raises InvalidRequest if there is no such file."""
    match source:
        case FileSource():
            row = files.lock_against_removal(session, scope, source.file)
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
