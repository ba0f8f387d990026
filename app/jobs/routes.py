"""The HTTP routes of jobs."""

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, BackgroundTasks, Header, Query, Response
from pydantic import AfterValidator
from sse_starlette import EventSourceResponse
from starlette.concurrency import run_in_threadpool

from app.access.caller import Caller
from app.access.quotas import Quota, quotas
from app.artifacts.repository import of_job
from app.artifacts.schemas import ArtifactList
from app.config import Settings
from app.contracts.base import check_text
from app.contracts.spec import JobSpec
from app.contracts.training_args import SafeName
from app.database.connection import Database
from app.errors import Conflict, InvalidRequest
from app.jobs import idempotency, listing, repository, service
from app.jobs.dependencies import NotifierDep, PollsDep, StreamsDep
from app.jobs.kinds import KINDS, TRAIN
from app.jobs.queue.notifier import JobNotifier
from app.jobs.schemas import (
    CheckpointList,
    EventPage,
    EventView,
    JobCounts,
    JobDeleted,
    JobDetail,
    JobPage,
    LogPage,
    Metrics,
    PhaseList,
    listed,
)
from app.jobs.states import JobStatus, Stage
from app.jobs.views.checkpoints import list_checkpoints
from app.jobs.views.data_routes import router as data_router
from app.jobs.views.details import detail_of
from app.jobs.views.logs import read_log
from app.jobs.views.metrics import MOST_THINNED, series, thinned_series
from app.jobs.views.phases import list_phases
from app.jobs.views.stream import StreamResponse
from app.scope import Scope
from app.web.dependencies import DatabaseDep, JobsCaller, ReadCaller, SettingsDep
from app.web.parameters import LONGEST_PAGE, WholeText

STREAMED: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}}
JobId = Annotated[str, "the id that POST /jobs returned"]


def _label(text: str) -> str:
    name, separator, _ = text.partition("=")
    if not name or not separator:
        raise ValueError("should be name=value, such as team=a")
    check_text(text)
    return text


Label = Annotated[str, AfterValidator(_label)]
router = APIRouter(prefix="/jobs", tags=["jobs"])
router.include_router(data_router)


class DeferredNotifier:
    """Notifies the workers after the response has been sent, so that a slow broker does not delay the client."""

    def __init__(self, notifier: JobNotifier, tasks: BackgroundTasks) -> None:
        self._notifier, self._tasks = notifier, tasks

    def notify(self, stage: Stage) -> None:
        self._tasks.add_task(self._notifier.notify, stage)


@router.post(
    "",
    status_code=201,
    responses={200: {"model": JobDetail, "description": "the job that was made with the same key before"}},
)
def submit(
    spec: JobSpec,
    caller: JobsCaller,
    database: DatabaseDep,
    settings: SettingsDep,
    notifier: NotifierDep,
    tasks: BackgroundTasks,
    response: Response,
    idempotency_key: Annotated[str | None, Header()] = None,
) -> JobDetail:
    """Store a job and queue it. All errors that can be found without the model are reported in one response.

    A request that is sent again with the same `Idempotency-Key` within a day is answered with 200 and the first job.
    """
    sent = spec.model_dump(mode="json", exclude_unset=True)
    idempotency.check_key(idempotency_key)
    project = service.project_of(spec, caller.scope)
    known = _made_by(database, caller.scope, project, idempotency_key, sent)
    if known is None:
        deferred = DeferredNotifier(notifier, tasks)
        try:
            job_id = service.submit(database, caller, settings, deferred, KINDS[TRAIN], spec, sent, key=idempotency_key)
            with database.reader() as session:
                return detail_of(session, caller.scope, service.find(session, caller.scope, job_id))
        except idempotency.MadeMeanwhile:
            known = _made_by(database, caller.scope, project, idempotency_key, sent)
    if known is None:
        raise Conflict(
            "the job of this Idempotency-Key was deleted just now: send the request again", code="job_was_deleted"
        )
    response.status_code = 200
    return known


def _made_by(database: Database, scope: Scope, project: str, key: str | None, sent: dict[str, Any]) -> JobDetail | None:
    if key is None:
        return None
    with database.reader() as session:
        job = idempotency.find(session, scope, project, key, sent)
        return detail_of(session, scope, job) if job is not None else None


@router.get("")
def list_jobs(
    caller: ReadCaller,
    database: DatabaseDep,
    status: JobStatus | None = None,
    project: SafeName | None = None,
    label: Annotated[
        list[Label] | None, Query(max_length=16, description="name=value; given several times: all")
    ] = None,
    text: Annotated[str | None, Query(min_length=1, max_length=200), WholeText] = None,
    after: Annotated[str | None, Query(max_length=64)] = None,
    limit: Annotated[int, Query(ge=1, le=LONGEST_PAGE)] = 20,
) -> JobPage:
    """Jobs, newest first. `text` is a part of a name, an id or a value of a label, in any case.

    With `label` or `text` a request looks at no more than 2,000 jobs. A page may then be short, or empty, and still
    have `has_more`: its `last_id` as `after` goes on from there.
    """
    labels = [each.partition("=") for each in label or ()]
    chosen = listing.JobFilter(status, project, tuple((name, value) for name, _, value in labels), text)
    with database.reader() as session:
        service.check_after(session, caller.scope, after)
        found = listing.page(session, caller.scope, chosen, after=after, limit=limit)
    shown = [listed(job) for job in found.jobs]
    first_id = shown[0].id if shown else None
    return JobPage(data=shown, first_id=first_id, last_id=found.last_id, has_more=found.has_more)


@router.get("/counts")
def count_jobs(caller: ReadCaller, database: DatabaseDep, project: SafeName | None = None) -> JobCounts:
    """How many jobs have each status, of all projects or of one."""
    with database.reader() as session:
        found = listing.counts(session, caller.scope, project, listing.MOST_COUNTED)
    return JobCounts(counts=found, counted_up_to=listing.MOST_COUNTED)


@router.get("/{job_id}", response_model=JobDetail)
async def get_job(job_id: JobId, caller: ReadCaller, polls: PollsDep) -> Response:
    """A job as it is now. A poll with `If-None-Match` is answered with 304 while nothing has changed."""
    return Response(await polls.answer(caller.scope, job_id), media_type="application/json")


@router.post("/{job_id}/cancel")
def cancel(job_id: JobId, caller: JobsCaller, database: DatabaseDep) -> JobDetail:
    """Ask for the end of a job. A waiting job ends at once, a running one within a heartbeat and its grace."""
    with database.writer() as session:
        return detail_of(session, caller.scope, service.cancel(session, caller.scope, job_id))


@router.post("/{job_id}/pause")
def pause(job_id: JobId, caller: JobsCaller, database: DatabaseDep) -> JobDetail:
    """Stop a job after a checkpoint. A waiting job pauses at once, a running one at its next step."""
    with database.writer() as session:
        return detail_of(session, caller.scope, service.pause(session, caller.scope, job_id))


@router.post("/{job_id}/resume")
def resume(
    job_id: JobId, caller: JobsCaller, database: DatabaseDep, notifier: NotifierDep, tasks: BackgroundTasks
) -> JobDetail:
    """Queue a paused job again; it continues from its newest checkpoint."""
    with database.writer() as session:
        return detail_of(
            session, caller.scope, service.resume(session, caller.scope, DeferredNotifier(notifier, tasks), job_id)
        )


@router.post("/{job_id}/checkpoint", status_code=202)
def checkpoint(job_id: JobId, caller: JobsCaller, database: DatabaseDep) -> JobDetail:
    """Request a checkpoint of a running job at its next step; the training continues."""
    with database.writer() as session:
        return detail_of(session, caller.scope, service.ask_for_checkpoint(session, caller.scope, job_id))


@router.get("/{job_id}/checkpoints")
def checkpoints(job_id: JobId, caller: ReadCaller, database: DatabaseDep) -> CheckpointList:
    """The stored checkpoints of a job, newest first."""
    with database.reader() as session:
        service.find(session, caller.scope, job_id)
        return list_checkpoints(session, caller.scope, job_id)


@router.get("/{job_id}/phases")
def phases(job_id: JobId, caller: ReadCaller, database: DatabaseDep) -> PhaseList:
    """How long each attempt was in each phase, in the order in which they began."""
    with database.reader() as session:
        service.find(session, caller.scope, job_id)
        return list_phases(session, caller.scope, job_id)


@router.get("/{job_id}/artifacts")
def artifacts(job_id: JobId, caller: ReadCaller, database: DatabaseDep) -> ArtifactList:
    """What the job made for its user, oldest first: its adapter, and what else it saved."""
    with database.reader() as session:
        service.find(session, caller.scope, job_id)
        return ArtifactList.of(of_job(session, caller.scope, job_id))


@router.delete("/{job_id}")
def delete(job_id: JobId, caller: JobsCaller, database: DatabaseDep, settings: SettingsDep) -> JobDeleted:
    """Remove a job that has ended, with its events, logs and checkpoints; its adapter stays."""
    with database.writer() as session:
        service.delete(session, caller.scope, settings, job_id)
    return JobDeleted(id=job_id)


@router.get("/{job_id}/events")
def events(
    job_id: JobId,
    caller: ReadCaller,
    database: DatabaseDep,
    after: Annotated[int, Query(ge=0, le=2**62)] = 0,
    limit: Annotated[int, Query(ge=1, le=LONGEST_PAGE)] = 100,
) -> EventPage:
    """Events with a number above `after`, oldest first."""
    with database.reader() as session:
        job = service.find(session, caller.scope, job_id)
        found = repository.events(session, caller.scope, job_id, after=after, limit=limit + 1)
    return EventPage(
        data=[EventView.of(event).flat() for event in found[:limit]], last_seq=job.last_seq, has_more=len(found) > limit
    )


@router.get("/{job_id}/stream", response_class=EventSourceResponse, responses=STREAMED)
async def stream(
    job_id: JobId,
    caller: ReadCaller,
    streams: StreamsDep,
    database: DatabaseDep,
    settings: SettingsDep,
    after: Annotated[int, Query(ge=0, le=2**62, description="used if there is no Last-Event-ID")] = 0,
    last_event_id: Annotated[str | None, Header()] = None,
) -> StreamResponse:
    """Events as they happen (SSE), from the one after `Last-Event-ID` on. The stream ends when the job has ended."""
    after = after if last_event_id is None else _event_number(last_event_id)
    project = await streams.project_of(caller.scope, job_id)
    limits = await run_in_threadpool(_stream_limits, database, caller, settings, project)
    return StreamResponse(streams, caller.scope, job_id, after, limits)


def _stream_limits(database: Database, caller: Caller, settings: Settings, project: str) -> Sequence[Quota]:
    with database.reader() as session:
        return quotas(session, caller, settings, project, "streams")


def _event_number(last_event_id: str) -> int:
    if not last_event_id.isdecimal() or len(last_event_id) > 18:
        raise InvalidRequest("Last-Event-ID should be the number of an event", param="Last-Event-ID")
    return int(last_event_id)


@router.get("/{job_id}/metrics")
def metrics(
    job_id: JobId,
    caller: ReadCaller,
    database: DatabaseDep,
    points: Annotated[
        int | None, Query(ge=8, le=MOST_THINNED, description="the most points of a series; default: about 5,000 rows")
    ] = None,
    from_step: Annotated[int | None, Query(ge=0, le=2**62)] = None,
    to_step: Annotated[int | None, Query(ge=0, le=2**62)] = None,
) -> Metrics:
    """The logged steps and evaluations over all attempts, each once.

    With `points`, `from_step` or `to_step` a longer series is thinned so that its peaks stay: a row has only the fields
    that have a point at its step.
    """
    with database.reader() as session:
        service.find(session, caller.scope, job_id)
        if points is from_step is to_step is None:
            return series(session, caller.scope, job_id)
        return thinned_series(session, caller.scope, job_id, points or MOST_THINNED, from_step or 0, to_step)


@router.get("/{job_id}/logs")
def logs(
    job_id: JobId,
    caller: ReadCaller,
    database: DatabaseDep,
    settings: SettingsDep,
    offset: Annotated[int, Query(ge=0, le=2**62)] = 0,
    limit: Annotated[int, Query(ge=1, le=2**20)] = 65536,
    attempt: Annotated[int | None, Query(ge=1, le=2**31 - 1, description="default: the newest")] = None,
) -> LogPage:
    """What the job's process printed, in pages of bytes."""
    with database.reader() as session:
        job = service.find(session, caller.scope, job_id)
        newest = [known.epoch for known in repository.attempts(session, caller.scope, job_id)][-1:]
    epoch = attempt or next(iter(newest), None)
    is_ended, files = job.status.is_final, settings.files
    return read_log(settings.job_dir(job_id), epoch, offset=offset, limit=limit, is_ended=is_ended, files=files)
