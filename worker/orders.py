"""What a child process is told: its order, one JSON file in the attempt's folder."""

from pathlib import Path

from app.contracts.order import BaseRef, CheckOrder, SourceFile, TrainingOrder
from app.contracts.rows import EVAL_ROWS, TOKENIZER, TRAIN_ROWS
from app.contracts.spec import JobSpec, Source
from app.jobs import service
from app.jobs.models import Job
from app.jobs.states import Stage
from worker.office import Office


def write(office: Office, job: Job, base: BaseRef, folder: Path) -> Path:
    """Write the order of an attempt into its folder and return its path. Raises InvalidRequest for lost sources."""
    order = _check(office, job, base, folder) if office.stage is Stage.CHECK else _train(office, job, base, folder)
    path = folder / "order.json"
    path.write_text(order.model_dump_json(indent=1))
    return path


def _check(office: Office, job: Job, base: BaseRef, folder: Path) -> CheckOrder:
    spec = JobSpec.model_validate(job.spec)

    def file_of(source: Source | None, param: str) -> SourceFile | None:
        with office.database.reader() as session:
            return service.find_source(session, office.settings, source, param) if source is not None else None

    return CheckOrder(
        job_id=job.id,
        epoch=job.epoch,
        spec=spec,
        base=base,
        train_file=file_of(spec.dataset.source, "dataset.source"),
        eval_file=file_of(spec.dataset.eval_source, "dataset.eval_source"),
        max_unpacked_bytes=office.settings.max_unpacked_bytes,
        data_dir=office.settings.data_dir(job.id),
        cache_dir=office.settings.root / "cache",
        max_cache_bytes=office.settings.max_cache_bytes,
        events=folder / "events.jsonl",
    )


def _train(office: Office, job: Job, base: BaseRef, folder: Path) -> TrainingOrder:
    data = office.settings.data_dir(job.id)
    eval_rows = data / EVAL_ROWS
    work_dir = folder / "work"
    work_dir.mkdir(exist_ok=True)
    return TrainingOrder(
        job_id=job.id,
        epoch=job.epoch,
        spec=JobSpec.model_validate(job.spec),
        base=base,
        train_rows=data / TRAIN_ROWS,
        eval_rows=eval_rows if eval_rows.exists() else None,
        tokenizer=data / TOKENIZER,
        events=folder / "events.jsonl",
        work_dir=work_dir,
        adapter_dir=folder / "adapter",
    )
