"""What an attempt's end means for its job: pure, so that every case is a line of a table.

| the child                         | the job                                                        |
|-----------------------------------|----------------------------------------------------------------|
| fenced                            | is another's; nothing is written                               |
| stopped: cancelled                | cancelled                                                      |
| stopped: shutdown                 | waits again, at once                                           |
| stopped: time limit               | failed, user_error                                             |
| said it failed, user_error        | failed                                                         |
| said it failed, system_error      | waits again with a pause, failed when the attempts are used up |
| finished, exit code 0             | goes on to its next status                                     |
| anything else (killed, crashed)   | as system_error                                                |
"""

import signal
from dataclasses import dataclass
from enum import StrEnum

from app.contracts.events import Blame, Failed
from worker.attempt import Report, StopReason

FIRST_PAUSE_SECONDS = 5.0
LONGEST_PAUSE_SECONDS = 600.0


class Next(StrEnum):
    """What becomes of the job."""

    DROP = "drop"
    GO_ON = "go_on"
    CANCEL = "cancel"
    WAIT = "wait"
    FAIL = "fail"


@dataclass(frozen=True)
class Verdict:
    next: Next
    outcome: str
    failure: Failed | None = None
    pause_seconds: float = 0.0


def judge(report: Report, attempt: int, max_attempts: int) -> Verdict:
    """`attempt` counts from 1 within the stage."""
    match report.stopped:
        case StopReason.FENCED:
            return Verdict(Next.DROP, "fenced")
        case StopReason.CANCELLED:
            return Verdict(Next.CANCEL, "cancelled")
        case StopReason.SHUTDOWN if not _is_done(report):
            return Verdict(Next.WAIT, "worker_stopped")
        case StopReason.TIME_LIMIT:
            return Verdict(Next.FAIL, "time_limit", _over_time())
    if _is_done(report):
        return Verdict(Next.GO_ON, "finished")
    failure = report.failed or _crash(report.exit_code or 0)
    if failure.blame is Blame.USER or attempt >= max_attempts:
        return Verdict(Next.FAIL, failure.code, failure)
    return Verdict(
        Next.WAIT, failure.code, failure, min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2 ** (attempt - 1))
    )


def _is_done(report: Report) -> bool:
    is_complete = report.is_checked or (report.finished is not None and report.adapter is not None)
    return report.exit_code == 0 and report.failed is None and is_complete


def _over_time() -> Failed:
    return Failed(
        blame=Blame.USER,
        code="time_limit",
        message="the attempt ran longer than resources.max_seconds",
        hint="raise resources.max_seconds, or train fewer steps",
        param="resources.max_seconds",
    )


def _crash(exit_code: int) -> Failed:
    """A child that ended without a word. A negative code: its guardian was killed by that signal."""
    exit_code = 128 - exit_code if exit_code < 0 else exit_code
    if exit_code <= 128:
        message = f"the process ended with exit code {exit_code} and no result"
        return Failed(blame=Blame.SYSTEM, code="process_crashed", message=message, hint="its log tells more")
    name = signal.Signals(exit_code - 128).name if exit_code - 128 in set(signal.Signals) else str(exit_code - 128)
    hint = "the host may have run out of memory" if name == "SIGKILL" else "its log tells more"
    return Failed(blame=Blame.SYSTEM, code="process_killed", message=f"the process was ended by {name}", hint=hint)
