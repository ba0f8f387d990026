"""The list of adapters, each with the proof that it answers as it did in its trainer."""

from fastapi import Request
from starlette.responses import Response

from app.jobs import service
from app.jobs.adapter_routes import list_adapters
from app.pages.rendering import page
from app.pages.routing import After, pages
from app.web.browser_sessions import PAGES
from app.web.dependencies import DatabaseDep, ReadCaller

ADAPTERS_A_PAGE = 20
router = pages()


@router.get(f"{PAGES}/adapters")
def show_adapters(
    request: Request,
    caller: ReadCaller,
    database: DatabaseDep,
    after: After = None,
) -> Response:
    """Adapters as `GET /adapters` lists them, with the jobs that trained them, of which some may be deleted."""
    found = list_adapters(caller, database, after, ADAPTERS_A_PAGE)
    with database.reader() as session:
        jobs = service.find_among(session, caller.scope, [adapter.job_id for adapter in found.data])
    return page(
        request,
        "adapters.html",
        adapters=found.data,
        jobs={job.id: job.name or job.id for job in jobs},
        proofs={job.id: job.result.get("verification") for job in jobs if isinstance(job.result, dict)},
        after=after,
        next_after=found.last_id if found.has_more else None,
    )
