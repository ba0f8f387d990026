"""The workers and engines of the service, and what is wrong with any part of it."""

from datetime import datetime

from fastapi import Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from app.database.connection import utc_now
from app.pages.rendering import page
from app.pages.routing import pages
from app.system.readiness import WORKER_IS_AWAY_AFTER
from app.system.routes import ReadinessDep, readyz, workers
from app.system.schemas import WorkerView
from app.web.browser_sessions import PAGES
from app.web.dependencies import DatabaseDep, ReadCaller

router = pages()


@router.get(f"{PAGES}/workers")
async def show_workers(
    request: Request, caller: ReadCaller, database: DatabaseDep, readiness: ReadinessDep
) -> Response:
    """Workers as `GET /workers` lists them, and the state of the service as `GET /readyz` has it."""
    state = await readyz(readiness, Response())
    now = utc_now()
    found = await run_in_threadpool(workers, caller, database)
    shown = [(worker, _refuses(worker, now)) for worker in found.data]
    return page(request, "workers.html", workers=shown, state=state)


def _refuses(worker: WorkerView, now: datetime) -> str | None:
    """Say why a worker takes no jobs. Returns None if it takes them."""
    if worker.problem is not None:
        return worker.problem
    if now - worker.last_seen > WORKER_IS_AWAY_AFTER:
        return f"it was not seen in the last {WORKER_IS_AWAY_AFTER.seconds} seconds"
    return None
