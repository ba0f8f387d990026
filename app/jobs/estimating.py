"""Predicts what a checked training would need and take, on each known training worker."""

import math
import re
from dataclasses import asdict, replace

from sqlalchemy.orm import Session

from app.config import Settings
from app.contracts.devices import CPU
from app.contracts.layout_choice import (
    CONTEXT_BYTES,
    ChosenLayout,
    TrainingCase,
    TrainingDevice,
    choose,
    whole_step_bytes,
)
from app.contracts.memory_model import saved_bytes
from app.contracts.model_card import ModelCard
from app.contracts.model_shape import BaseShape, shape_of, trained_parameters
from app.contracts.no_effect import steps_of
from app.contracts.plan import JobPlan
from app.contracts.rows import BASE_CARD
from app.contracts.spec import JobSpec
from app.contracts.step_time import rate_of
from app.contracts.step_tokens import StepTokens
from app.contracts.stored import read, read_json
from app.contracts.tokens import TokenReport
from app.jobs import repository
from app.jobs.measurements import measured
from app.jobs.models import Job, Worker
from app.jobs.schemas import JobError
from app.jobs.states import JobStatus, Stage
from app.jobs.stored import read_plan
from app.jobs.views.estimate_schemas import Estimate, LayoutView, MemoryParts, TrainingTokens, WorkerEstimate

# `NVIDIA H200, 143771 MiB`: how a worker describes its GPU.
MEMORY = re.compile(r", (\d+) MiB$")
# More memory than any device has.
UNLIMITED_BYTES = 2**60


def estimate(session: Session, settings: Settings, job: Job) -> Estimate:
    """Return the estimate of a job whose check has ended."""
    found = Estimate(valid=job.status is JobStatus.SUCCEEDED, error=read(JobError, job.error))
    plan, report = read_plan(job), read(TokenReport, (job.data_report or {}).get("train"))
    if not found.valid or plan is None or report is None:
        return found
    rows = StepTokens.of_spread(report.row_tokens, plan)
    tokens = _tokens(plan, report, rows)
    shape = _shape(settings, job)
    if shape is None:
        return found.model_copy(update={"tokens": tokens})
    case = TrainingCase(plan, shape, rows.shared(plan.resources.gpus))
    adapter, checkpoint = saved_bytes(plan, shape)
    seen = [worker for worker in repository.workers(session) if worker.stage is Stage.TRAIN]
    values = {
        "tokens": tokens,
        "trained_parameters": trained_parameters(plan, shape),
        "adapter_bytes": adapter,
        "checkpoint_bytes": checkpoint,
        "least_memory_bytes": choose(case, TrainingDevice(0)).needed_bytes + CONTEXT_BYTES,
        "most_memory_bytes": whole_step_bytes(case),
        "workers": [_on_worker(session, worker, case, tokens.steps) for worker in seen],
    }
    return found.model_copy(update=values)


def _tokens(plan: JobPlan, report: TokenReport, rows: StepTokens) -> TrainingTokens:
    """Count what is trained on. Packed rows are about as many as fill whole sequences."""
    training, packed = plan.training, math.ceil(report.tokens / plan.model.max_seq_length)
    steps = steps_of(plan, packed if training.packing else report.rows)
    total = steps * rows.mean if training.max_steps else report.tokens * (training.num_train_epochs or 1.0)
    return TrainingTokens(
        rows=report.rows,
        longest_row=report.row_tokens.largest,
        mean_step=round(rows.mean, 1),
        steps=steps,
        total=round(total),
    )


def _shape(settings: Settings, job: Job) -> BaseShape | None:
    """Return the sizes of the base, which the check left beside the rows. None: they are not known."""
    try:
        card = read_json(ModelCard, settings.files.text(settings.data_dir(job.id), BASE_CARD))
    except OSError:
        return None
    return shape_of(card) if card is not None else None


def _on_worker(session: Session, worker: Worker, case: TrainingCase, steps: int) -> WorkerEstimate:
    known = measured(session, worker.device, case.shape.key)
    found = MEMORY.search(worker.device)
    device_bytes = int(found[1]) * 2**20 if found is not None else None
    spec = _on_cpu(case.spec) if worker.device.startswith(CPU) else case.spec
    free = device_bytes - CONTEXT_BYTES if device_bytes is not None else UNLIMITED_BYTES
    device = TrainingDevice(free, known.rate or rate_of(worker.device))
    chosen = choose(replace(case, spec=spec, correction=known.correction), device)
    has_gpus, is_known = worker.gpus >= case.spec.resources.gpus, device_bytes is not None
    return WorkerEstimate(
        worker=worker.name,
        device=worker.device,
        device_bytes=device_bytes,
        fits=has_gpus and (chosen.fits if is_known else None),
        reason=_reason(worker, case.spec, chosen, device_bytes),
        layout=_layout(chosen),
        memory_bytes=chosen.predicted_bytes,
        memory_with_margin_bytes=chosen.needed_bytes,
        memory=MemoryParts(**asdict(chosen.memory)),
        correction=known.correction,
        step_seconds=chosen.seconds,
        seconds=None if chosen.seconds is None else steps * chosen.seconds,
    )


def _reason(worker: Worker, spec: JobSpec, chosen: ChosenLayout, device_bytes: int | None) -> str:
    if worker.gpus < spec.resources.gpus:
        return f"it needs {spec.resources.gpus} GPUs of one host, and this worker has no more than {worker.gpus}"
    if device_bytes is None:
        return f"the memory of {worker.device} is not known, so nothing is held against it"
    return chosen.reason


def _layout(chosen: ChosenLayout) -> LayoutView:
    tokens, recomputation = chosen.micro_batch_tokens, chosen.recomputation
    return LayoutView(micro_batch_tokens=tokens, recomputation=recomputation, bits=chosen.bits)


def _on_cpu(spec: JobSpec) -> JobSpec:
    """Unsloth loads 16 bits on a CPU, whatever the spec says."""
    model = spec.model.model_copy(update={"load_in": None, "load_in_4bit": False, "load_in_8bit": False})
    return spec.model_copy(update={"model": model})
