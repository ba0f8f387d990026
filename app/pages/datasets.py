"""The uploaded files, and what the check of each of them found."""

from fastapi import Request
from starlette.responses import Response

from app.datasets.row_issues import WARNINGS
from app.errors import Conflict
from app.files.routes import FileId, get_file, get_report, list_files
from app.pages.rendering import page
from app.pages.routing import After, pages
from app.web.browser_sessions import PAGES
from app.web.dependencies import DatabaseDep, ReadCaller, SettingsDep

FILES_A_PAGE = 20
router = pages()


@router.get(f"{PAGES}/datasets")
def show_files(
    request: Request,
    caller: ReadCaller,
    database: DatabaseDep,
    settings: SettingsDep,
    after: After = None,
) -> Response:
    found = list_files(caller, database, after, FILES_A_PAGE)
    return page(
        request,
        "datasets.html",
        files=found.data,
        after=after,
        next_after=found.last_id if found.has_more else None,
        most_bytes=settings.max_upload_bytes,
    )


@router.get(f"{PAGES}/datasets/{{file_id}}")
def show_file(request: Request, file_id: FileId, caller: ReadCaller, database: DatabaseDep) -> Response:
    """Show a file with its report, or say why the report cannot be read."""
    file = get_file(file_id, caller, database)
    try:
        report, absence = get_report(file_id, caller, database), None
    except Conflict as error:
        report, absence = None, error.message
    return page(request, "dataset.html", file=file, report=report, absence=absence, warnings=WARNINGS)
