"""The page of one job."""

from typing import Any, get_args

from fastapi import Request
from starlette.responses import Response

from app.artifacts.repository import of_job
from app.artifacts.schemas import ArtifactList
from app.contracts.events import AttemptEvent
from app.jobs import service
from app.jobs.routes import JobId
from app.jobs.views.checkpoints import list_checkpoints
from app.jobs.views.details import detail_of
from app.jobs.views.phases import list_phases
from app.jobs.views.stream import DELETED
from app.pages.rendering import page
from app.pages.routing import pages
from app.web.browser_sessions import PAGES
from app.web.dependencies import DatabaseDep, ReadCaller

# Every kind of event that a stream may have: a browser listens to each by its name.
OF_ATTEMPTS = [get_args(kind.model_fields["kind"].annotation)[0] for kind in get_args(get_args(AttemptEvent)[0])]
KINDS = ("status", "request", DELETED, *OF_ATTEMPTS)
router = pages()


@router.get(f"{PAGES}/jobs/{{job_id}}")
def show_job(request: Request, job_id: JobId, caller: ReadCaller, database: DatabaseDep) -> Response:
    """Show a job with its checkpoints and artifacts; scripts of the page follow its events, metrics and log."""
    with database.reader() as session:
        row = service.find(session, caller.scope, job_id)
        last_seq, job = row.last_seq, detail_of(session, caller.scope, row)
        checkpoints = list_checkpoints(session, caller.scope, job_id).data
        phases = list_phases(session, caller.scope, job_id).data
        artifacts = ArtifactList.of(of_job(session, caller.scope, job_id)).data
    shown: dict[str, Any] = {"checkpoints": checkpoints, "artifacts": artifacts, "phases": phases}
    return page(request, "job.html", job=job, last_seq=last_seq, kinds=" ".join(KINDS), **shown)
