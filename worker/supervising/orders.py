"""Writes the order of a child process: one JSON file in the attempt's folder."""

from pathlib import Path

from app.contracts.model_card import ModelCard
from app.contracts.model_shape import shape_of
from app.contracts.order import BaseRef, CheckOrder, SourceFile, TrainingOrder
from app.contracts.plan import JobPlan
from app.contracts.rows import EVAL_ROWS, TOKENIZER, TRAIN_ROWS
from app.contracts.spec import Source
from app.contracts.stored import read
from app.jobs import lineage as adapters
from app.jobs import repository
from app.jobs.measurements import Measured, measured
from app.jobs.models import Job
from app.jobs.stored import StoredPlan
from app.jobs.trainings import check_trackers, find_source
from app.scope import EVERY_PROJECT
from worker.confinement.allowed import is_confined
from worker.supervising.attempt import EVENTS_NAME, PULSE_NAME
from worker.supervising.context import WorkerContext
from worker.supervising.predicting import base_card
from worker.supervising.resuming import Start

ORDER_NAME = "order.json"
TRACKING = "tracking"


def write_check(context: WorkerContext, job: Job, plan: JobPlan, base: BaseRef, folder: Path) -> Path:
    """Write the order of a check into the attempt's folder and return its path.

    Raises InvalidRequest if a source file is gone, and NotFound if the adapter to continue from is gone.
    """

    def file_of(source: Source | None, param: str) -> SourceFile | None:
        with context.database.reader() as session:
            return find_source(session, EVERY_PROJECT, context.settings, source, param) if source is not None else None

    order = CheckOrder(
        job_id=job.id,
        epoch=job.epoch,
        spec=plan,
        base=base,
        train_file=file_of(plan.dataset.source, "dataset.source"),
        eval_file=file_of(plan.dataset.eval_source, "dataset.eval_source"),
        origin_revision=_origin_revision(context, plan),
        max_unpacked_bytes=context.settings.max_unpacked_bytes,
        max_hub_bytes=context.settings.max_hub_bytes,
        data_dir=context.settings.data_dir(job.id),
        cache_dir=context.settings.root / "cache",
        max_cache_bytes=context.settings.max_cache_bytes,
        events=folder / EVENTS_NAME,
        is_confined=is_confined(context.settings.confinement, loads_unsloth=plan.model.chat_template is not None),
    )
    return _write(order, folder)


def write_training(context: WorkerContext, job: Job, plan: JobPlan, base: BaseRef, folder: Path, start: Start) -> Path:
    """Write the order of a training into the attempt's folder and return its path.

    Raises NotFound if the adapter to continue from is gone, and InvalidRequest for a tracker's server that is not
    allowed here.
    """
    check_trackers(plan, context.settings.tracker_hosts)
    data = context.settings.data_dir(job.id)
    eval_rows = data / EVAL_ROWS
    work_dir = folder / "work"
    work_dir.mkdir(exist_ok=True)
    checkpoints = context.settings.checkpoints_dir(job.id)
    checkpoints.mkdir(exist_ok=True)
    card = base_card(data)
    known = _measured(context, card)
    order = TrainingOrder(
        job_id=job.id,
        epoch=job.epoch,
        spec=plan,
        base=base,
        train_rows=data / TRAIN_ROWS,
        eval_rows=eval_rows if eval_rows.exists() else None,
        tokenizer=data / TOKENIZER,
        events=folder / EVENTS_NAME,
        work_dir=work_dir,
        adapter_dir=folder / "adapter",
        checkpoints=checkpoints,
        resume_from=start.checkpoint,
        start_from=_adapter(context, plan) if start.checkpoint is None else None,
        cache_dir=context.settings.root / "cache",
        card=card,
        memory_correction=known.correction,
        operations_per_second=known.rate,
        ranks=plan.resources.gpus,
        devices=context.further_gpus.devices,
        tracking=context.settings.job_dir(job.id) / TRACKING if plan.training.report_to else None,
        pulse=folder / PULSE_NAME,
        max_hub_bytes=context.settings.max_hub_bytes,
        is_confined=is_confined(context.settings.confinement, loads_unsloth=True),
        is_fetching_confined=is_confined(context.settings.confinement, loads_unsloth=False),
    )
    return _write(order, folder)


def limit_memory(folder: Path, most_bytes: int) -> None:
    """Write into the order of a training how much of the GPU it may take, because the engine uses the GPU too."""
    path = folder / ORDER_NAME
    order = TrainingOrder.model_validate_json(path.read_bytes())
    _write(order.model_copy(update={"memory_limit_bytes": most_bytes}), folder)


def _write(order: CheckOrder | TrainingOrder, folder: Path) -> Path:
    path = folder / ORDER_NAME
    path.write_text(order.model_dump_json(indent=1))
    return path


def _measured(context: WorkerContext, card: ModelCard | None) -> Measured:
    """What earlier trainings of this shape of base measured on this device."""
    shape = shape_of(card) if card is not None else None
    if shape is None:
        return Measured()
    with context.database.reader() as session:
        return measured(session, context.device, shape.key)


def _origin_revision(context: WorkerContext, plan: JobPlan) -> str | None:
    """The base revision on which `continue_from` was trained. Returns None if it was not stored or cannot be read."""
    origin = plan.continue_from
    if origin is None:
        return None
    with context.database.reader() as session:
        if origin.adapter is not None:
            return adapters.find(session, EVERY_PROJECT, origin.adapter, "continue_from.adapter").base_revision
        job = repository.get(session, EVERY_PROJECT, origin.job) if origin.job is not None else None
        origin_plan = read(StoredPlan, job.plan) if job is not None else None
        return origin_plan.model.revision if origin_plan is not None else None


def _adapter(context: WorkerContext, plan: JobPlan) -> Path | None:
    """The folder of the adapter from which the job continues. Raises NotFound if it was deleted meanwhile."""
    if plan.continue_from is None or plan.continue_from.adapter is None:
        return None
    with context.database.reader() as session:
        path = adapters.find(session, EVERY_PROJECT, plan.continue_from.adapter, "continue_from.adapter").path
    return context.settings.locate(path)
