"""Every error that a client can receive.

    ServiceError 500
     ├── InvalidRequest 422 ── InvalidDataset 422
     ├── BadRequest 400
     ├── Unauthenticated 401
     ├── Forbidden 403
     ├── NotFound 404
     ├── Conflict 409
     ├── TooLarge 413
     ├── RangeNotSatisfiable 416
     ├── DiskFull 507
     └── Unavailable 503 ── EngineUnavailable 503

Messages say what was found and what was expected. They never hold a secret or a stack trace.
"""

from collections.abc import Sequence
from typing import Any, Self

from pydantic import BaseModel

# The most characters of a client's text that a message repeats.
LONGEST_QUOTE = 200


class Problem(BaseModel):
    """One thing that is wrong, and where.

    `record` counts dataset rows from 1, `line` counts lines of the file from 1.
    """

    record: int | None = None
    line: int | None = None
    field: str | None = None
    code: str
    found: str | None = None
    expected: str | None = None


class ErrorBody(BaseModel):
    """What went wrong. `param` is the field or parameter; `details` has one entry for each thing that is wrong.

    `type` is the kind of error in OpenAI's terms.
    """

    code: str
    type: str
    message: str
    param: str | None
    details: list[Problem]
    request_id: str | None


class ErrorForm(BaseModel):
    """The body of every error response."""

    error: ErrorBody


class ServiceError(Exception):
    """An error with an HTTP status and a stable code."""

    status = 500
    code = "internal_error"

    def __init__(
        self, message: str, *, param: str | None = None, details: list[Problem] | None = None, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.details = details or []
        self.code = code or self.code

    def body(self, request_id: str | None) -> dict[str, Any]:
        """Return the body of the error response."""
        body = ErrorBody(
            code=self.code,
            type=_type(self.status),
            message=self.message,
            param=self.param,
            details=self.details,
            request_id=request_id,
        )
        return {"error": {**body.model_dump(), "details": [p.model_dump(exclude_none=True) for p in self.details]}}


def _type(status: int) -> str:
    if status == 429:
        return "rate_limit_error"
    return "server_error" if status >= 500 else "invalid_request_error"


class InvalidRequest(ServiceError):
    status = 422
    code = "invalid_request"

    @classmethod
    def of(cls, problems: Sequence[Problem]) -> Self:
        """Make one error of all problems. Its message is about the first one."""
        first, more = problems[0], len(problems) - 1
        message = f"{first.field}: found {first.found}, expected {first.expected}"
        return cls(f"{message} (and {more} more)" if more else message, param=first.field, details=list(problems))


class InvalidDataset(InvalidRequest):
    code = "invalid_dataset"


class BadRequest(ServiceError):
    status = 400
    code = "bad_request"


class Unauthenticated(ServiceError):
    """The request has no key, or one that is not valid."""

    status = 401
    code = "invalid_api_key"


class Forbidden(ServiceError):
    status = 403
    code = "forbidden"


class NotFound(ServiceError):
    status = 404
    code = "not_found"


class Conflict(ServiceError):
    status = 409
    code = "conflict"


class TooLarge(ServiceError):
    status = 413
    code = "too_large"


class RangeNotSatisfiable(ServiceError):
    """The requested range begins after the last of `size` bytes."""

    status = 416
    code = "range_not_satisfiable"

    def __init__(self, message: str, size: int) -> None:
        super().__init__(message, param="Range")
        self.size = size


class DiskFull(ServiceError):
    """The disk of the service's files or of its database has no room for this request."""

    status = 507
    code = "disk_full"


class Unavailable(ServiceError):
    """Something that this request needs is not available now."""

    status = 503
    code = "unavailable"
    retry_after_seconds = 5


class TooMany(Unavailable):
    """A limit is reached. The message names it."""

    status = 429
    code = "too_many"


class EngineUnavailable(Unavailable):
    code = "engine_unavailable"
