"""A job's own trainer: `worker.training` on an order as the worker writes it, with the page's arguments."""

import sys
import time
from itertools import pairwise

import worker.training.recipe  # noqa: F401  # imports what a training needs; Unsloth comes first
from app.contracts.events import ATTEMPT_EVENT, AttemptEvent, Failed, Phase, StepLogged
from app.contracts.order import BaseRef, TrainingOrder
from app.contracts.plan import plan_of
from app.contracts.spec import JobSpec
from bench.training.contracts import MeasuredStep, RunOrder, RunResult
from bench.training.meter import StepMeter
from worker.model_card import read_card
from worker.training.__main__ import main as run_attempt

MICROSECOND = 1e-6
# The kinds of events that say what a training chose.
REPORTS = ("notice", "layout", "memory_measured")


def train(order: RunOrder, meter: StepMeter) -> RunResult:
    called_at, job = time.time(), training_order(order)
    path = order.folder / "order.json"
    path.write_text(job.model_dump_json())
    sys.argv = ["worker.training", str(path)]
    code = run_attempt()
    events = [ATTEMPT_EVENT.validate_json(line) for line in job.events.read_text().splitlines()]
    failures = [event.message for event in events if isinstance(event, Failed)]
    if failures or code:
        return RunResult(failed=f"exit code {code}: {'; '.join(failures)}")
    return figures(events, meter, called_at)


def training_order(order: RunOrder) -> TrainingOrder:
    """The order is not confined: its libraries were imported before, which has started threads."""
    work = order.workload
    folders = {name: order.folder / name for name in ("work_dir", "adapter_dir", "checkpoints", "pulse")}
    (order.folder / "work_dir").mkdir()
    return TrainingOrder(
        job_id="job-bench",
        epoch=1,
        spec=plan_of(spec_of(order)),
        base=BaseRef(source=str(work.model), is_local=True),
        train_rows=work.rows,
        eval_rows=None,
        tokenizer=work.model,
        events=order.folder / "events.jsonl",
        cache_dir=order.cache,
        card=read_card(work.model),
        is_confined=False,
        ranks=order.gpus,
        devices=order.devices,
        **folders,
    )


def spec_of(order: RunOrder) -> JobSpec:
    """The page's job."""
    layout = {} if order.rival.layout is None else {"layout": order.rival.layout}
    return JobSpec.model_validate(
        {
            "model": {
                "model_name": "bench",
                "max_seq_length": order.workload.max_tokens,
                "load_in_4bit": order.rival.bits == 4,
            },
            "dataset": {"source": {"path": "bench.jsonl"}},
            "training": {
                "max_steps": order.workload.steps,
                "per_device_train_batch_size": order.micro_batch,
                "gradient_accumulation_steps": order.accumulation,
                "optim": "adamw_8bit",
                "save_steps": None,
                **layout,
            },
            "resources": {"gpus": order.gpus},
        }
    )


def figures(events: list[AttemptEvent], meter: StepMeter, called_at: float) -> RunResult:
    """From the events. Times are the meter's, unless the steps ran in other processes."""
    steps = [event for event in events if isinstance(event, StepLogged)]
    began_at = next(e.at for e in events if e.kind == "phase" and e.phase == Phase.TRAIN).timestamp()
    first_step_at = meter.first_step_at or steps[0].at.timestamp()
    measured = meter.seconds
    if len(measured) != len(steps) - 1:
        measured = [max(later.seconds - sooner.seconds, MICROSECOND) for sooner, later in pairwise(steps)]
    return RunResult(
        load_seconds=began_at - called_at,
        first_step_seconds=first_step_at - began_at,
        first_step_tokens=steps[0].tokens,
        first_loss=steps[0].loss,
        steps=[
            MeasuredStep(seconds=seconds, tokens=step.tokens - before.tokens, loss=step.loss)
            for seconds, (before, step) in zip(measured, pairwise(steps), strict=True)
        ],
        reserved_bytes=steps[-1].gpu_memory_bytes,
        reports=[event.model_dump(mode="json", exclude={"at"}) for event in events if event.kind in REPORTS],
    )
