"""The boundary of a child process: an exception becomes the one `failed` event that ends the attempt."""

import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from app.contracts.events import Blame, Failed
from app.disk_faults import NO_ROOM, is_full
from worker.events import EventWriter

# The exit code of a child that could not even say that its disk is full (sysexits.h: EX_IOERR).
EXIT_DISK_FULL = 74
DISK_FULL = "disk_full"
TOO_MUCH_COMPUTING = "too_much_computing"


class UserError(Exception):
    """The spec or the data cannot work, however often it is tried. The message says what was found."""

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
    """Something outside the spec failed; another attempt may go well."""

    def __init__(self, code: str, message: str, *, hint: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.failure = Failed(blame=Blame.SYSTEM, code=code, message=message, hint=hint, param=param)


class TokenizerPanic(Exception):
    """A panic of the tokenizer, in a form that goes from one process to another."""


@contextmanager
def named(code: str, what: str, hint: str) -> Iterator[None]:
    """Raise SystemFault, with the library's own sentence, in place of an error that has no name yet."""
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
    """Run the work; return the process's exit code. `known` translate exceptions of libraries, the first answer counts.

    The trace goes to the process's own output, which is the job's log, never into the event.
    """
    try:
        work()
    except (UserError, SystemFault) as error:
        return _say(error.failure, events)
    except BaseException as error:  # the process ends here, and must say why
        if not (isinstance(error, Exception) or is_panic(error)):
            raise
        with suppress(OSError):  # the log is full too
            traceback.print_exc()
        translations = (no_room, *known, unforeseen)
        return _say(next(filter(None, (translate(error) for translate in translations))), events)
    return 0


def is_panic(error: BaseException) -> bool:
    """Whether it is the end of a library in Rust, which is no `Exception` and belongs to no module."""
    return type(error).__name__ == "PanicException"


def _say(failure: Failed, events: EventWriter) -> int:
    """The exit code; where the disk has no room for the event, the code alone tells it."""
    try:
        events.write(failure)
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        return EXIT_DISK_FULL
    return 1


def no_room(error: BaseException) -> Failed | None:
    """Whatever could not be written: an event, the log, a row. The job waits until there is room."""
    if not is_full(error):
        return None
    message = "the disk has no room for what the process writes"
    return Failed(blame=Blame.SYSTEM, code=DISK_FULL, message=message, hint="free space in TUNESMITH_HOME")


def kept_out(error: BaseException) -> Failed | None:
    """A file that this process is not allowed to open is named: `worker.confinement.process` says what it may open."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, PermissionError):
        cause = cause.__cause__ or cause.__context__
    if cause is None:
        return None
    return Failed(
        blame=Blame.SYSTEM,
        code="kept_out",
        message=f"the process is not allowed to open {cause.filename}",
        hint="the rights of the file, or TUNESMITH_CONFINEMENT=off where a library needs what it keeps out of reach",
    )


def unforeseen(error: BaseException) -> Failed:
    message = f"{type(error).__name__}: {str(error)[:500]}"
    return Failed(blame=Blame.SYSTEM, code="internal_error", message=message, hint="the job's log has the trace")
