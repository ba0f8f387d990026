"""Turns the exception that ends a child process into the attempt's one `failed` event and an exit code."""

import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from app.contracts.events import Blame, Failed
from app.disk_faults import NO_ROOM, is_full
from worker.events import EventWriter

# The exit code of a child that could not write its event because the disk is full (sysexits.h: EX_IOERR).
EXIT_DISK_FULL = 74
DISK_FULL = "disk_full"
TOO_MUCH_COMPUTING = "too_much_computing"


class UserError(Exception):
    """The spec or the data is at fault, so another attempt would fail too. The message says what was found."""

    def __init__(
        self,
        code: str,
        message: str,
        *,
        hint: str | None = None,
        param: str | None = None,
        details: Sequence[dict[str, Any]] = (),
    ) -> None:
        super().__init__(message)
        self.failure = Failed(
            blame=Blame.USER, code=code, message=message, hint=hint, param=param, details=list(details)
        )


class SystemFault(Exception):
    """Something outside the spec failed, so another attempt may succeed."""

    def __init__(self, code: str, message: str, *, hint: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.failure = Failed(blame=Blame.SYSTEM, code=code, message=message, hint=hint, param=param)


class TokenizerPanic(Exception):
    """A panic of the tokenizer, in a form that can be passed between processes."""


@contextmanager
def named(code: str, what: str, hint: str) -> Iterator[None]:
    """Replace any other exception by a SystemFault with this code; its message is `what` and the exception's text."""
    try:
        yield
    except (UserError, SystemFault):
        raise
    except Exception as error:
        traceback.print_exc()
        raise SystemFault(code, f"{what}: {type(error).__name__}: {str(error)[:500]}", hint=hint) from error


def guarded(
    work: Callable[[], None], events: EventWriter, known: Sequence[Callable[[BaseException], Failed | None]]
) -> int:
    """Run the work and return the process's exit code.

    `known`: functions that translate exceptions of libraries; the first result that is not None is used. The traceback
    is printed to the job's log and never put into the event.
    """
    try:
        work()
    except (UserError, SystemFault) as error:
        return _write_failure(error.failure, events)
    except BaseException as error:  # the process ends here and must report why
        if not (isinstance(error, Exception) or is_panic(error)):
            raise
        with suppress(OSError):  # the disk may be full
            traceback.print_exc()
        translations = (no_room, *known, unforeseen)
        return _write_failure(next(filter(None, (translate(error) for translate in translations))), events)
    return 0


def is_panic(error: BaseException) -> bool:
    """Whether it is a panic of a Rust library. Its class is no `Exception` and cannot be imported, hence the name."""
    return type(error).__name__ == "PanicException"


def _write_failure(failure: Failed, events: EventWriter) -> int:
    """Write the event and return the exit code, which alone reports a disk that is too full for the event."""
    try:
        events.write(failure)
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        return EXIT_DISK_FULL
    return 1


def no_room(error: BaseException) -> Failed | None:
    """A `disk_full` failure if something could not be written for lack of space. The job then waits for space."""
    if not is_full(error):
        return None
    message = "the disk has no room for what the process writes"
    return Failed(blame=Blame.SYSTEM, code=DISK_FULL, message=message, hint="free space in TUNESMITH_HOME")


def kept_out(error: BaseException) -> Failed | None:
    """A failure that names the file which this process may not open; `worker.confinement.process` decides what it may
    open.
    """
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, PermissionError):
        cause = cause.__cause__ or cause.__context__
    if cause is None:
        return None
    return Failed(
        blame=Blame.SYSTEM,
        code="kept_out",
        message=f"the process is not allowed to open {cause.filename}",
        hint="check the file's permissions, or set TUNESMITH_CONFINEMENT=off if a library needs this file",
    )


def unforeseen(error: BaseException) -> Failed:
    message = f"{type(error).__name__}: {str(error)[:500]}"
    return Failed(blame=Blame.SYSTEM, code="internal_error", message=message, hint="the job's log has the trace")
