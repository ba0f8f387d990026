"""The metrics of what is stored, and of the parts of the service, as it is when it is asked."""

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from app.contracts.generation import EngineHealth
from app.database.connection import AWAY, Database, utc_now
from app.jobs.models import Total
from app.jobs.queue import totals
from app.jobs.queue.figures import QueueFigures, WorkerFigures, queue_figures, worker_figures
from app.system.readiness import WORKER_IS_AWAY_AFTER, ServiceState

PARTS = ("database", "disk", "broker", "engine", "checkers", "trainers")
# Of a training, by the field of its progress.
TRAINING = {
    "step": ("tunesmith_training_step", "The optimizer step that the running training has taken"),
    "total_steps": ("tunesmith_training_steps_planned", "All optimizer steps of the running training"),
    "loss": ("tunesmith_training_loss", "Loss of the running training"),
    "tokens_per_second": ("tunesmith_training_tokens_per_second", "Tokens that the running training learns a second"),
    "memory_bytes": (
        "tunesmith_training_memory_bytes",
        "Peak memory of the running training: the GPU's if it has one",
    ),
}
GPU = {
    "memory_used_bytes": ("tunesmith_gpu_memory_used_bytes", "Memory of the GPU that is used, by whomever"),
    "memory_total_bytes": ("tunesmith_gpu_memory_total_bytes", "Memory of the GPU"),
    "utilization": ("tunesmith_gpu_utilization_ratio", "Share of the last moments in which the GPU computed"),
    "temperature_celsius": ("tunesmith_gpu_temperature_celsius", "Temperature of the GPU"),
    "power_watts": ("tunesmith_gpu_power_watts", "Power that the GPU draws"),
}


@dataclass(frozen=True)
class StoredState:
    """What one look at the database has found."""

    queue: QueueFigures
    totals: Iterable[Total]
    workers: list[WorkerFigures]


def look_at_state(database: Database) -> StoredState | None:
    """Return None if the database is not available."""
    try:
        with database.reader() as session:
            queue, workers = queue_figures(session, utc_now()), worker_figures(session, WORKER_IS_AWAY_AFTER)
            return StoredState(queue, totals.all_of(session), workers)
    except AWAY:
        return None


def families_of_service(service: ServiceState, home: Path) -> Iterator[Metric]:
    ok = GaugeMetricFamily("tunesmith_part_ok", "1: this part works; 0: GET /readyz says why not", labels=["part"])
    for part in PARTS:
        ok.add_metric([part], float(part not in service.problems))
    yield ok
    if service.disk_free_bytes is not None:
        yield GaugeMetricFamily("tunesmith_disk_free_bytes", "Free bytes of the home's disk", service.disk_free_bytes)
        size = shutil.disk_usage(home).total
        yield GaugeMetricFamily("tunesmith_disk_size_bytes", "Size of the home's disk", size)


def families_of_engines(engines: Mapping[str, EngineHealth]) -> Iterator[Metric]:
    """Of the engines that answer, by their names."""
    for name, meaning, value_of in ENGINE_GAUGES:
        values = {engine: value_of(health) for engine, health in engines.items()}
        family = GaugeMetricFamily(name, meaning, labels=["engine"])
        for engine, value in values.items():
            if value is not None:
                family.add_metric([engine], float(value))
        if family.samples:
            yield family


ENGINE_GAUGES: tuple[tuple[str, str, Callable[[EngineHealth], float | None]], ...] = (
    ("tunesmith_engine_waiting_requests", "Requests that wait in the engine", lambda engine: engine.waiting),
    ("tunesmith_engine_busy", "1: the engine computes an answer", lambda engine: engine.is_busy),
    (
        "tunesmith_engine_stepped_aside",
        "1: it has given its memory to a training",
        lambda engine: engine.stepped_aside is not None,
    ),
    ("tunesmith_engine_models", "Models in the engine's memory", lambda engine: len(engine.in_memory)),
    ("tunesmith_engine_adapters", "Adapters on the models that are loaded", lambda engine: len(engine.loaded_adapters)),
    (
        "tunesmith_engine_memory_bytes",
        "Memory of the GPU that the engine uses for models",
        lambda engine: engine.memory_bytes,
    ),
    (
        "tunesmith_engine_cache_bytes",
        "Size of the engine's cache of keys and values",
        lambda engine: engine.cache_bytes,
    ),
)


def families_of_jobs(queue: QueueFigures, ended: Iterable[Total]) -> Iterator[Metric]:
    alive = GaugeMetricFamily("tunesmith_jobs", "Jobs that have not ended", labels=["status", "kind"])
    for (status, kind), jobs in sorted(queue.alive.items()):
        alive.add_metric([status, kind], jobs)
    waiting = GaugeMetricFamily("tunesmith_jobs_waiting", "Jobs that a worker could claim now", labels=["stage"])
    age = GaugeMetricFamily(
        "tunesmith_queue_age_seconds", "How long the oldest of these jobs has waited; 0: none waits", labels=["stage"]
    )
    for stage, jobs_of_stage in queue.waiting.items():
        waiting.add_metric([stage], jobs_of_stage.jobs)
        age.add_metric([stage], jobs_of_stage.oldest_seconds)
    yield from (alive, waiting, age)
    jobs_ended = CounterMetricFamily("tunesmith_jobs_ended", "Jobs that have ended", labels=["kind", "status"])
    attempts = CounterMetricFamily("tunesmith_attempts", "Attempts that have ended", labels=["stage", "outcome"])
    for total in ended:
        (jobs_ended if total.subject == totals.JOBS else attempts).add_metric([total.part, total.outcome], total.count)
    yield from (jobs_ended, attempts)


def families_of_workers(workers: Iterable[WorkerFigures]) -> Iterator[Metric]:
    of_worker = ["worker", "stage"]
    alive = GaugeMetricFamily("tunesmith_worker_alive", "1: it was seen within 30 seconds", labels=of_worker)
    problem = GaugeMetricFamily(
        "tunesmith_worker_problem", "1: it takes no job, GET /workers says why", labels=of_worker
    )
    busy = GaugeMetricFamily("tunesmith_worker_busy", "1: it works on a job", labels=of_worker)
    trainings, gpus = _Gauges(TRAINING, ["worker"]), _Gauges(GPU, ["worker", "gpu"])
    step = GaugeMetricFamily(
        "tunesmith_training_step_seconds", "Mean seconds of a step of the running training", labels=["worker"]
    )
    for worker in workers:
        names = [worker.name, worker.stage]
        alive.add_metric(names, float(worker.is_alive))
        problem.add_metric(names, float(worker.problem is not None))
        busy.add_metric(names, float(worker.is_busy))
        if worker.progress is not None:
            trainings.add([worker.name], worker.progress)
            seconds, steps = worker.progress.get("seconds"), worker.progress.get("step")
            if _is_number(seconds) and _is_number(steps) and steps:
                step.add_metric([worker.name], seconds / steps)
        for reading in worker.gpu_readings:
            gpus.add([worker.name, str(reading.get("gpu"))], reading)
    yield from (alive, problem, busy, step, *trainings.families(), *gpus.families())


class _Gauges:
    """Gauges of the fields of stored documents. What a document does not have as a number has no sample."""

    def __init__(self, names: Mapping[str, tuple[str, str]], labels: list[str]) -> None:
        self._gauges = {field: GaugeMetricFamily(*name, labels=labels) for field, name in names.items()}

    def add(self, labels: list[str], document: Mapping[str, Any]) -> None:
        for field, gauge in self._gauges.items():
            value = document.get(field)
            if _is_number(value):
                gauge.add_metric(labels, value)

    def families(self) -> Iterable[Metric]:
        return self._gauges.values()


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)
