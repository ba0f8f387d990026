"""The boundary of a child process: an exception becomes the one `failed` event that ends the attempt."""

import traceback
from collections.abc import Callable, Sequence
from typing import Any

from app.contracts.events import Blame, Failed
from worker.events import EventWriter


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


def guarded(
    work: Callable[[], None], events: EventWriter, known: Sequence[Callable[[BaseException], Failed | None]]
) -> int:
    """Run the work; return the process's exit code. `known` translate exceptions of libraries, the first answer counts.

    The trace goes to the process's own output, which is the job's log, never into the event.
    """
    try:
        work()
    except (UserError, SystemFault) as error:
        events.write(error.failure)
        return 1
    except Exception as error:  # noqa: BLE001  the process ends here, and must say why
        traceback.print_exc()
        events.write(next(filter(None, (translate(error) for translate in known)), None) or unforeseen(error))
        return 1
    return 0


def unforeseen(error: BaseException) -> Failed:
    message = f"{type(error).__name__}: {str(error)[:500]}"
    return Failed(blame=Blame.SYSTEM, code="internal_error", message=message, hint="the job's log has the trace")
