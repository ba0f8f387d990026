"""What operators watch of the queue: the jobs that have not ended, how long the oldest one waits, and what each worker
does. The figures are those of all projects, and name no job.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.jobs.kinds import KINDS
from app.jobs.models import Job, Worker
from app.jobs.repository import silent_workers, workers
from app.jobs.states import ALIVE, JobStatus, Stage

# The jobs of a status are counted up to this number.
MOST_COUNTED = 10_000
# Kinds that this version does not know are counted together.
UNKNOWN = "unknown"


@dataclass(frozen=True)
class WaitingJobs:
    """The jobs that a worker of a stage could claim now. `oldest_seconds`: how long the first of them has waited."""

    jobs: int = 0
    oldest_seconds: float = 0.0

    def and_one(self, seconds: float) -> "WaitingJobs":
        return WaitingJobs(self.jobs + 1, max(self.oldest_seconds, seconds))


@dataclass(frozen=True)
class QueueFigures:
    """`alive`: the jobs that have not ended, by status and kind."""

    alive: dict[tuple[JobStatus, str], int]
    waiting: dict[Stage, WaitingJobs]


def queue_figures(session: Session, now: datetime) -> QueueFigures:
    """Count without temporary jobs, which wait as long as a request only."""
    alive = Counter({(status, kind): 0 for status in ALIVE for kind, known in KINDS.items() if not known.is_temporary})
    waiting = {stage: WaitingJobs() for stage in Stage}
    for status in sorted(ALIVE):
        columns = (Job.kind, Job.worker, Job.run_after, Job.waiting_since, Job.created_at)
        query = select(*columns).where(Job.status == status, ~Job.is_temporary).order_by(Job.created_at)
        for job in session.execute(query.limit(MOST_COUNTED)):
            kind = KINDS.get(job.kind)
            alive[status, kind.name if kind is not None else UNKNOWN] += 1
            stage = kind.stage_of(status) if kind is not None else None
            is_due = job.run_after is None or job.run_after <= now
            if stage is not None and status is stage.waiting and job.worker is None and is_due:
                since = max(filter(None, (job.waiting_since or job.created_at, job.run_after)))
                waiting[stage] = waiting[stage].and_one(max(0.0, (now - since).total_seconds()))
    return QueueFigures(dict(alive), waiting)


@dataclass(frozen=True)
class WorkerFigures:
    """A worker that was seen lately. `progress` is that of the training on which it works."""

    name: str
    stage: str
    is_alive: bool
    problem: str | None
    is_busy: bool
    gpu_readings: Sequence[dict[str, Any]]
    progress: dict[str, Any] | None


def worker_figures(session: Session, silence: timedelta) -> list[WorkerFigures]:
    """Return all known workers. One that was not seen for `silence` is not alive, and neither are its readings."""
    silent = set(silent_workers(session, silence))
    held = select(Job.worker, Job.progress).where(Job.worker.is_not(None), Job.status == JobStatus.RUNNING)
    progress = {row.worker: row.progress for row in session.execute(held)}
    return [_figures_of(worker, worker.name not in silent, progress.get(worker.name)) for worker in workers(session)]


def _figures_of(worker: Worker, is_alive: bool, progress: dict[str, Any] | None) -> WorkerFigures:
    return WorkerFigures(
        name=worker.name,
        stage=str(worker.stage),
        is_alive=is_alive,
        problem=worker.problem,
        is_busy=is_alive and worker.job_id is not None,
        gpu_readings=[one for one in worker.gpu_readings or [] if is_alive and isinstance(one, dict)],
        progress=progress if is_alive else None,
    )
