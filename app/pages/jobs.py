"""The list of jobs."""

from typing import Annotated

from fastapi import Request
from pydantic import StringConstraints
from starlette.responses import RedirectResponse, Response

from app.contracts.training_args import SafeName
from app.jobs.routes import Label, count_jobs, list_jobs
from app.jobs.states import JobStatus, Stage
from app.jobs.views.details import read_details
from app.pages.rendering import page
from app.pages.routing import After, OrEmpty, pages
from app.web.browser_sessions import PAGES
from app.web.dependencies import DatabaseDep, ReadCaller
from app.web.parameters import WholeText

JOBS_A_PAGE = 20
WAITING = {stage.waiting for stage in Stage}
router = pages()


@router.get(PAGES)
def first_page() -> Response:
    return RedirectResponse(f"{PAGES}/jobs")


@router.get(f"{PAGES}/jobs")
def show_jobs(
    request: Request,
    caller: ReadCaller,
    database: DatabaseDep,
    status: OrEmpty[JobStatus] = None,
    project: OrEmpty[SafeName] = None,
    label: OrEmpty[Label] = None,
    text: OrEmpty[Annotated[str, StringConstraints(max_length=200), WholeText]] = None,
    after: After = None,
) -> Response:
    """Jobs as `GET /jobs` lists them, the waiting ones with their place in the queue, and how many have each status."""
    labels = None if label is None else [label]
    found = list_jobs(caller, database, status, project, labels, text, after, JOBS_A_PAGE)
    waiting = [job.id for job in found.data if job.status in WAITING]
    with database.reader() as session:
        details = read_details(session, caller.scope, waiting) if waiting else {}
    asked = {"status": status and status.value, "project": project, "label": label, "text": text}
    return page(
        request,
        "jobs.html",
        jobs=found.data,
        queues={job_id: detail.queue for job_id, detail in details.items()},
        counts=count_jobs(caller, database, project),
        asked={name: value or "" for name, value in asked.items()},
        is_filtered=any(asked.values()) or after is not None,
        next_after=found.last_id if found.has_more else None,
    )
