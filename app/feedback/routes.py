"""The HTTP routes of feedback. They need the permission for files, because jobs are trained on what they store."""

from typing import Annotated

from fastapi import APIRouter, Path, Query

from app.contracts.training_args import SafeName
from app.feedback import repository, service
from app.feedback.schemas import (
    FeedbackCreate,
    FeedbackDatasetDeleted,
    FeedbackDatasetList,
    FeedbackDeleted,
    FeedbackPage,
    FeedbackView,
)
from app.files import service as files
from app.files.receiving import PURPOSES
from app.files.routes import FULL
from app.files.schemas import FileView
from app.files.storage import Sink, partial_path
from app.ids import new_id
from app.web.dependencies import DatabaseDep, FilesCaller, ReadCaller, SettingsDep
from app.web.parameters import LONGEST_PAGE

Dataset = Annotated[SafeName, Path(description="the name in the body of POST /feedback")]
FeedbackId = Annotated[str, "the id that POST /feedback returned"]
Project = Annotated[SafeName | None, Query(description="default: that of the key")]
# So many digits of a file's hash tell the versions of a dataset apart.
DIGITS = 12
router = APIRouter(prefix="/feedback", tags=["feedback"])


@router.post("", status_code=201)
def give_feedback(body: FeedbackCreate, caller: FilesCaller, database: DatabaseDep) -> FeedbackView:
    """Keep an answer with its rating, and perhaps the right answer, as a row of a dataset."""
    with database.writer() as session:
        return FeedbackView.of(service.create(session, caller.scope, body))


@router.get("")
def list_datasets(caller: ReadCaller, database: DatabaseDep, project: Project = None) -> FeedbackDatasetList:
    """The datasets of a project by name, with the number of their rows."""
    chosen = project or caller.scope.usual_project
    with database.reader() as session:
        return FeedbackDatasetList.of(chosen, repository.datasets(session, caller.scope, chosen))


@router.get("/{dataset}")
def list_feedback(
    dataset: Dataset,
    caller: ReadCaller,
    database: DatabaseDep,
    project: Project = None,
    after: Annotated[str | None, Query(max_length=64)] = None,
    limit: Annotated[int, Query(ge=1, le=LONGEST_PAGE)] = 20,
) -> FeedbackPage:
    """The rows of a dataset, newest first."""
    with database.reader() as session:
        found = service.page(session, caller.scope, project or caller.scope.usual_project, dataset, after, limit)
        return FeedbackPage.of(*found)


@router.post("/{dataset}/files", status_code=201, responses=FULL)
def write_file(
    dataset: Dataset, caller: FilesCaller, database: DatabaseDep, settings: SettingsDep, project: Project = None
) -> FileView:
    """Store what a job can learn of a dataset now as a file, which never changes: for `dataset.source.file` of a job.

    Its name has the beginning of its hash, so equal names are equal rows.
    """
    file_id, chosen = new_id("file"), project or caller.scope.usual_project
    with Sink(partial_path(settings.file_path(file_id)), settings.max_upload_bytes) as sink:
        with database.reader() as session:
            service.write_rows(session, caller.scope, chosen, dataset, sink)
        sink.seek(0)
        name = f"{dataset}-{sink.received.sha256[:DIGITS]}.jsonl"
        upload = files.Upload(file_id, name, PURPOSES[0], chosen, sink.received)
        with database.writer() as session:
            return FileView.of(files.store(session, caller.scope, settings, upload))


@router.delete("/{dataset}")
def delete_dataset(
    dataset: Dataset, caller: FilesCaller, database: DatabaseDep, project: Project = None
) -> FeedbackDatasetDeleted:
    """Remove all rows of a dataset. Files that were written of it stay."""
    with database.writer() as session:
        rows = service.delete_dataset(session, caller.scope, project or caller.scope.usual_project, dataset)
    return FeedbackDatasetDeleted(dataset=dataset, rows=rows)


@router.delete("/{dataset}/{feedback_id}")
def delete_feedback(
    dataset: Dataset, feedback_id: FeedbackId, caller: FilesCaller, database: DatabaseDep, project: Project = None
) -> FeedbackDeleted:
    """Remove one row. Files that were written before keep it."""
    with database.writer() as session:
        service.delete(session, caller.scope, project or caller.scope.usual_project, dataset, feedback_id)
    return FeedbackDeleted(id=feedback_id)
