"""What a job learns: the rows of its dataset with the trained tokens marked, and what the check found in them."""

from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Request
from pydantic import Field
from sqlalchemy.orm import Session
from starlette.responses import Response

from app.config import Settings
from app.contracts.stored import read
from app.contracts.tokens import Overlap, TokenReport
from app.datasets.report import DataReport
from app.datasets.row_issues import WARNINGS
from app.errors import Conflict, NotFound
from app.jobs import service
from app.jobs.models import Job
from app.jobs.routes import JobId
from app.jobs.schemas import JobDetail
from app.jobs.states import JobStatus
from app.jobs.views import data
from app.jobs.views.data_routes import MOST_RECORDS
from app.jobs.views.data_schemas import RowPage, RowView, SpanView, Split
from app.jobs.views.details import detail_of
from app.pages.rendering import page
from app.pages.routing import OrEmpty, pages
from app.scope import Scope
from app.web.browser_sessions import PAGES
from app.web.dependencies import DatabaseDep, ReadCaller, SettingsDep

ROWS_A_PAGE = 10
# More of a row is shown on a page of its own.
CHARACTERS_OF_A_ROW = 3000
SPLITS: tuple[Split, ...] = ("train", "eval")
RecordNumber = Annotated[int, Field(ge=1, le=MOST_RECORDS)]
router = pages()


@dataclass(frozen=True)
class Asked:
    """Which rows are to be shown. Without a split: of the training set, and a record wherever it is."""

    split: Split | None
    record: int | None
    after: int | None


@dataclass(frozen=True)
class Shown:
    """The rows of a page, or why there are none. `is_cut`: the records of which only the beginning is shown."""

    page: RowPage | None
    rows: list[RowView]
    is_cut: set[int]
    absence: str | None


@router.get(f"{PAGES}/jobs/{{job_id}}/data")
def show_rows(
    request: Request,
    job_id: JobId,
    caller: ReadCaller,
    database: DatabaseDep,
    settings: SettingsDep,
    split: OrEmpty[Split] = None,
    record: OrEmpty[RecordNumber] = None,
    after: OrEmpty[RecordNumber] = None,
) -> Response:
    """Rows as `GET /jobs/{job_id}/data` returns them, above the job's data report."""
    with database.reader() as session:
        row, job = _read(session, caller.scope, job_id)
    report, asked = job.data_report or {}, Asked(split, record, after)
    shown = _rows(settings, row, job, asked)
    values: dict[str, Any] = {
        "sources": {name: read(DataReport, report.get(name)) for name in ("source", "eval_source")},
        "sets": {name: read(TokenReport, report.get(name)) for name in SPLITS},
        "overlap": read(Overlap, report.get("overlap")),
        "split_report": report.get("split"),
    }
    return page(request, "rows.html", job=job, asked=asked, shown=shown, warnings=WARNINGS, **values)


def _read(session: Session, scope: Scope, job_id: str) -> tuple[Job, JobDetail]:
    row = service.find(session, scope, job_id)
    return row, detail_of(session, scope, row)


def _rows(settings: Settings, row: Job, job: JobDetail, asked: Asked) -> Shown:
    try:
        if asked.record is not None:
            return Shown(None, [data.row(settings, row, asked.record, asked.split)], set(), None)
        found, rows = data.page_of_rows(
            settings, row, asked.split or "train", after=asked.after or 0, limit=ROWS_A_PAGE
        )
    except NotFound as error:
        return Shown(None, [], set(), error.message)
    except Conflict:
        return Shown(None, [], set(), _absence(job))
    shortened = [_shortened(each) for each in rows]
    is_cut = {each.record for each, whole in zip(shortened, rows, strict=True) if each is not whole}
    return Shown(found, shortened, is_cut, None)


def _absence(job: JobDetail) -> str:
    """Say why a job has no rows."""
    if job.status is JobStatus.VALIDATING:
        return "The check is not done yet. The rows are shown here once it has succeeded."
    if (job.data_report or {}).get("train"):
        return "The rows of this job were removed from the disk. What its check found in them is shown below."
    if job.error is not None:
        return f"The check ended before there were rows: {job.error.message}"
    return f"The job is {job.status.value}, and its check has prepared no rows."


def _shortened(row: RowView) -> RowView:
    """Return the row with the first characters of its spans."""
    spans, left = list[SpanView](), CHARACTERS_OF_A_ROW
    if len(row.text) <= left:
        return row
    for span in row.spans:
        spans.append(span.model_copy(update={"text": span.text[:left]}))
        left -= len(span.text)
        if left <= 0:
            break
    return row.model_copy(update={"spans": spans})
