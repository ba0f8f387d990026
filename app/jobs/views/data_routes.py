"""The HTTP routes for a job's rows, and for the check of a spec that is not submitted."""

from collections.abc import Callable
from typing import Annotated, TypeVar

from fastapi import APIRouter, Query, Request
from starlette.concurrency import run_in_threadpool

from app.contracts.spec import JobSpec
from app.errors import InvalidRequest
from app.jobs import service
from app.jobs.dependencies import NotifierDep
from app.jobs.validating import Validations
from app.jobs.views import data
from app.jobs.views.data_schemas import RowPage, RowView, Split, Validation
from app.jobs.views.estimate_schemas import Estimate
from app.web.client_disconnect import unless_gone
from app.web.dependencies import DatabaseDep, JobsCaller, ReadCaller, SettingsDep
from app.web.parameters import LONGEST_PAGE

USUAL_PAGE = 20
MOST_RECORDS = 2**31 - 1
Answer = TypeVar("Answer")
router = APIRouter()


@router.post("/validate")
async def validate(
    spec: JobSpec,
    request: Request,
    caller: JobsCaller,
    database: DatabaseDep,
    settings: SettingsDep,
    notifier: NotifierDep,
    preview: Annotated[int, Query(ge=0, le=20, description="how many of the first rows to show")] = 3,
) -> Validation:
    """Check a spec and every row of its data as POST /jobs would, without submitting a job.

    The prepared rows stay in the cache for a while, so that a job of the same spec need not prepare them again.

    What POST /jobs refuses is refused here too. An error that the job's check would find is shown with `valid: false`.
    """
    temporary_jobs = Validations(database, caller, settings, notifier)
    return await _of_check(temporary_jobs, spec, request, lambda job_id: temporary_jobs.read(job_id, preview))


@router.post("/estimate")
async def estimate(
    spec: JobSpec,
    request: Request,
    caller: JobsCaller,
    database: DatabaseDep,
    settings: SettingsDep,
    notifier: NotifierDep,
) -> Estimate:
    """Predict memory, time and sizes of a training, on each known training worker, without submitting a job.

    Every row is checked and counted as by POST /jobs/validate, and the same is refused.
    """
    temporary_jobs = Validations(database, caller, settings, notifier)
    return await _of_check(temporary_jobs, spec, request, temporary_jobs.estimate)


async def _of_check(
    temporary_jobs: Validations, spec: JobSpec, request: Request, read: Callable[[str], Answer]
) -> Answer:
    """Have the spec checked by a temporary job, and return what `read` finds in it."""
    job_id = await run_in_threadpool(temporary_jobs.start, spec, spec.model_dump(mode="json", exclude_unset=True))
    try:
        await unless_gone(request, temporary_jobs.wait(job_id))
        return await run_in_threadpool(read, job_id)
    finally:
        await run_in_threadpool(temporary_jobs.end, job_id)


@router.get("/{job_id}/data")
def rows(
    job_id: Annotated[str, "the id that POST /jobs returned"],
    caller: ReadCaller,
    database: DatabaseDep,
    settings: SettingsDep,
    split: Annotated[Split | None, Query(description="default: train; with `record`: the split that has it")] = None,
    record: Annotated[
        int | None, Query(ge=1, le=MOST_RECORDS, description="show this record, by its number in its source")
    ] = None,
    after: Annotated[
        int | None, Query(ge=0, le=MOST_RECORDS, description="show rows with larger record numbers")
    ] = None,
    limit: Annotated[int | None, Query(ge=1, le=LONGEST_PAGE, description=f"default: {USUAL_PAGE}")] = None,
) -> RowPage | RowView:
    """The rows that a job trains on: a page of counts, or with `record` the text and tokens of one row."""
    with database.reader() as session:
        job = service.find(session, caller.scope, job_id)
    if record is None:
        return data.page(settings, job, split or "train", after=after or 0, limit=limit or USUAL_PAGE)
    if after is not None or limit is not None:
        raise InvalidRequest("record shows one row: leave out after and limit, or record", param="record")
    return data.row(settings, job, record, split)
