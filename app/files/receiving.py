"""Streams an upload from the request to one partial file, without a copy in memory or in /tmp.

Starlette parses the form; this module only replaces the file that the parser writes to.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

from fastapi import Request, UploadFile
from pydantic import TypeAdapter, ValidationError
from starlette.formparsers import MultiPartException, MultiPartParser

from app.contracts.training_args import SafeName
from app.datasets.values import printable
from app.errors import InvalidRequest, Problem
from app.files.service import check_filename
from app.files.storage import Sink, check_room
from app.sources import invalid
from app.web.parameters import problems_of

FILE, PURPOSE, PROJECT = "file", "purpose", "project"
FIELDS = (FILE, PURPOSE, PROJECT)
PURPOSES = ("fine-tune",)
PROJECT_NAME: TypeAdapter[str] = TypeAdapter(SafeName)
LARGEST_FIELD_BYTES = 1024
MULTIPART = "multipart/form-data"


@dataclass(frozen=True)
class Form:
    """The fields of the form, without the bytes of the file. No project: the caller's usual one."""

    filename: str
    purpose: str
    project: str | None


async def receive_form(request: Request, sink: Sink) -> Form:
    """Writes the file of the form to the sink. The fields may come in any order.

    Raises InvalidRequest for a wrong form, TooLarge, and DiskFull (before reading, if Content-Length does not fit).
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != MULTIPART:
        raise _missing()
    check_room(sink.path.parent, int(request.headers.get("content-length", "0")))
    try:
        form = await _Parser(request, sink).parse()
    except MultiPartException as error:
        problem = Problem(field="body", code="invalid_body", found=error.message, expected=f"a form as {MULTIPART}")
        raise InvalidRequest.of([problem]) from error
    file, purpose = form.get(FILE), form.get(PURPOSE, PURPOSES[0])
    if file is None:
        raise _missing()
    if purpose not in PURPOSES:
        raise invalid(PURPOSE, "literal_error", str(purpose)[:100], " or ".join(PURPOSES))
    return Form(cast(UploadFile, file).filename or "", str(purpose), _project(form.get(PROJECT)))


def _project(field: Any) -> str | None:
    name = str(field)
    try:
        return None if field is None else PROJECT_NAME.validate_python(name)
    except ValidationError:
        expected = f"a name that matches {PROJECT_NAME.json_schema()['pattern']}"
        raise invalid(PROJECT, "invalid_name", printable(name[:100]), expected) from None


class _Parser(MultiPartParser):
    """Refuses an unknown form field as soon as its name is received."""

    def __init__(self, request: Request, sink: Sink) -> None:
        super().__init__(request.headers, request.stream(), max_part_size=LARGEST_FIELD_BYTES)
        self._sink = sink
        self._names: list[str] = []

    def on_headers_finished(self) -> None:
        super().on_headers_finished()
        part = self._current_part
        self._names.append(part.field_name)
        _check_names(self._names)
        if part.file is None and part.field_name == FILE:
            raise invalid(FILE, "invalid_file", "a text", "a file with its name")
        if part.file is not None:
            if part.field_name != FILE:
                raise invalid(part.field_name, "invalid_field", "a file", "a text")
            check_filename(part.file.filename or "")
            self._files_to_close_on_error.pop().close()  # an empty temporary file
            part.file = UploadFile(cast(BinaryIO, self._sink), filename=part.file.filename)


def _check_names(names: Sequence[str]) -> None:
    problems = problems_of(names, FIELDS, "form field")
    if problems:
        raise InvalidRequest.of(problems)


def _missing() -> InvalidRequest:
    problem = Problem(field=FILE, code="missing", found="nothing", expected=f"a file, in a form as {MULTIPART}")
    return InvalidRequest.of([problem])
