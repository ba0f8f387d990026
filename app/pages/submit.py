"""The form of a new job. Its fields are those of the spec's JSON schema."""

from itertools import groupby
from typing import Any
from uuid import uuid4

from fastapi import Request
from starlette.responses import Response

from app.files.routes import FileId, list_files
from app.jobs import service
from app.jobs.routes import JobId
from app.jobs.views.details import detail_of
from app.pages.rendering import page
from app.pages.routing import OrEmpty, pages
from app.pages.spec_form import SpecField, group_descriptions, spec_fields
from app.system.routes import models
from app.web.browser_sessions import PAGES
from app.web.dependencies import DatabaseDep, ReadCaller, SettingsDep
from app.web.parameters import LONGEST_PAGE

# What most people set; the other fields are folded.
FIRST = (
    "model.model_name", "dataset.source.file", "dataset.source.hub", "training.max_steps", "training.num_train_epochs",
    "training.learning_rate", "training.per_device_train_batch_size", "lora.r", "lora.lora_alpha", "name",
)  # fmt: skip
# The group of the fields that stand in no group of the spec.
JOB = "job"
router = pages()


@router.get(f"{PAGES}/submit")
def show_submit(
    request: Request,
    caller: ReadCaller,
    database: DatabaseDep,
    settings: SettingsDep,
    job: OrEmpty[JobId] = None,
    file: OrEmpty[FileId] = None,
) -> Response:
    """Show an empty form, or one with what a job was sent with, or with a file."""
    spec: dict[str, Any] = {}
    if job is not None:
        with database.reader() as session:
            spec = detail_of(session, caller.scope, service.find(session, caller.scope, job)).spec
    if file is not None:
        spec = {**spec, "dataset": {**spec.get("dataset", {}), "source": {"file": file}}}
    return page(
        request,
        "submit.html",
        cloned=job,
        spec=spec,
        first=first_fields(),
        groups=other_fields(),
        descriptions=group_descriptions(),
        files=list_files(caller, database, limit=LONGEST_PAGE).data,
        models=models(caller, settings).data,
        idempotency_key=f"page-{uuid4().hex}",
        needs_key=settings.needs_key,
    )


def first_fields() -> list[SpecField]:
    known = {field.path: field for field in spec_fields()}
    return [known[path] for path in FIRST]


def other_fields() -> list[tuple[str, list[SpecField]]]:
    """Return the folded fields by their group, in the order of the schema."""
    folded = sorted((field for field in spec_fields() if field.path not in FIRST), key=_group_order)
    return [(name, list(fields)) for name, fields in groupby(folded, key=_group)]


def _group(field: SpecField) -> str:
    group, _, inner = field.path.partition(".")
    return group if inner else JOB


def _group_order(field: SpecField) -> int:
    return [JOB, *group_descriptions()].index(_group(field))
