"""What `GET /jobs/{id}` shows: the job, its attempts and its place in the queue, read for many jobs at once."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from sqlalchemy.orm import Session

from app.database.connection import utc_now
from app.jobs import repository, service
from app.jobs.kinds import stage_of
from app.jobs.models import Attempt, Job
from app.jobs.queue import order, project_quotas
from app.jobs.queue.claims import LONGEST_PAUSE
from app.jobs.schemas import JobDetail, QueueView, detail
from app.jobs.states import Stage
from app.scope import Scope

WORKER_IS_AWAY_AFTER = timedelta(seconds=30)


def detail_of(session: Session, scope: Scope, job: Job) -> JobDetail:
    return _details(session, scope, [job])[job.id]


def read_details(session: Session, scope: Scope, job_ids: Sequence[str]) -> dict[str, JobDetail]:
    """Return details by id, without jobs that `service.find` does not find. It takes as many queries as for one job."""
    return _details(session, scope, service.find_among(session, scope, job_ids))


def _details(session: Session, scope: Scope, jobs: Sequence[Job]) -> dict[str, JobDetail]:
    attempts: defaultdict[str, list[Attempt]] = defaultdict(list)
    for attempt in repository.attempts_of(session, scope, [job.id for job in jobs]):
        attempts[attempt.job_id].append(attempt)
    trained = [job.id for job in jobs if job.progress is not None]
    started = repository.newest_of_kind(session, scope, trained, "started") if trained else {}
    queues: dict[str, QueueView] = {}
    for (stage, spec_version), waiting in _waiting(jobs).items():
        queues |= _queues(session, stage, spec_version, waiting, attempts)
    return {job.id: detail(job, queues.get(job.id), attempts[job.id], started.get(job.id)) for job in jobs}


def _waiting(jobs: Sequence[Job]) -> dict[tuple[Stage, int], list[Job]]:
    """Group the waiting jobs by the stage and the spec version that their worker must have."""
    found: defaultdict[tuple[Stage, int], list[Job]] = defaultdict(list)
    for job in jobs:
        stage = stage_of(job)
        if stage is not None and stage.waiting is job.status and job.worker is None:
            found[stage, job.spec_version].append(job)
    return found


def _queues(
    session: Session, stage: Stage, spec_version: int, waiting: Sequence[Job], attempts: Mapping[str, list[Attempt]]
) -> dict[str, QueueView]:
    """Return the queue position of each waiting job, and the reason why it waits."""
    now = utc_now()
    places = order.places(session, stage, [job.id for job in waiting], spec_version)
    newest = repository.newest_spec_version(session, stage.served_by, WORKER_IS_AWAY_AFTER)
    absence = _no_worker(spec_version, stage, newest) if newest is None or newest < spec_version else None
    full = project_quotas.reasons(session) if stage is Stage.TRAIN else {}
    most_gpus = repository.most_gpus(session, WORKER_IS_AWAY_AFTER) if any(job.gpus > 1 for job in waiting) else 1
    return {
        # A job that was claimed between the two queries has no position any more: it is shown as the next one.
        job.id: QueueView(
            position=place,
            reason=absence or full.get(job.project) or _reason(job, place, attempts.get(job.id, []), now, most_gpus),
        )
        for job in waiting
        for place in [places.get(job.id, 1)]
    }


def _no_worker(spec_version: int, stage: Stage, newest: int | None) -> str:
    """Say why no present worker takes the job. `newest` is the newest spec version that one of them understands."""
    if newest is None:
        return f"no {stage.served_by} worker has been seen in the last {WORKER_IS_AWAY_AFTER.seconds} seconds"
    versions = f"it needs version {spec_version}, the present workers have {newest}"
    return f"its spec is of a newer version: it waits for a worker that understands it ({versions})"


def _reason(job: Job, place: int, attempts: Sequence[Attempt], now: datetime, most_gpus: int) -> str:
    if stage_of(job) is Stage.TRAIN and job.gpus > most_gpus:
        return f"it needs {job.gpus} GPUs of one host, and no present worker has more than {most_gpus}"
    if job.run_after is not None and now < job.run_after <= now + LONGEST_PAUSE:
        why = attempts[-1].reason if attempts else None
        return f"{why or 'an attempt failed'}; the next may start at {job.run_after.isoformat(timespec='seconds')}"
    if place > 1:
        return "1 job runs before it" if place == 2 else f"{place - 1} jobs run before it"
    return "the next free worker takes it" if job.gpus == 1 else f"the next worker with {job.gpus} free GPUs takes it"
