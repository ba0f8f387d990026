"""Decides what the end of an attempt means for its job. A pure function: every case is a row of this table.

| the attempt                             | the job                                                        |
|-----------------------------------------|----------------------------------------------------------------|
| fenced                                  | belongs to another attempt; nothing is written                 |
| finished, exit code 0                   | goes on to its next status, unless it was cancelled            |
| stopped: cancelled                      | cancelled                                                      |
| stopped: paused                         | paused, with its newest checkpoint                             |
| stopped: shutdown, or by its guardian   | waits again, without a pause                                   |
| stopped: time limit                     | failed, user_error                                             |
| stopped: hung                           | as system_error                                                |
| reported a user_error                   | failed                                                         |
| killed by its limit of CPU time         | failed, user_error                                             |
| reported that the disk is full          | paused until a user resumes it; a check waits and tries again  |
| finished, the engine is unavailable     | waits with a pause to be verified; no step is trained again    |
| the store of files cannot be used       | waits with a pause; nothing counts as a failure                |
| had too little memory beside the engine | waits again, without a pause; the engine then frees its memory |
| finished, too little memory to prove it | as system_error, with longer pauses: memory may become free    |
| finished, the proof killed the engine   | as system_error; counts as 1/7 of a failure                    |
| finished, its adapter is not proved     | failed, system_error: another attempt would train the same     |
| reported a system_error                 | waits again with a pause; failed after max_attempts failures   |
| could not save or publish its result    | as system_error; only the saving or publishing is repeated     |
| anything else (killed, crashed)         | as system_error                                                |
"""

import signal
from dataclasses import dataclass
from enum import StrEnum

from app.contracts.events import Blame, Failed
from app.contracts.generation import OUT_OF_MEMORY
from app.store.faults import STORE_AWAY
from worker.failures import DISK_FULL, EXIT_DISK_FULL, TOO_MUCH_COMPUTING
from worker.supervising.attempt import Report, StopReason

FIRST_PAUSE_SECONDS = 5.0
LONGEST_PAUSE_SECONDS = 600.0
ENGINE_PAUSE_SECONDS = 15.0
ENGINE_AWAY = "engine_unavailable"
ENGINE_DIED = "engine_died"
# An engine takes a while to restart, and a training that uses the engine's memory takes longer to end.
LEAST_PAUSE_SECONDS = {ENGINE_DIED: ENGINE_PAUSE_SECONDS, OUT_OF_MEMORY: 300.0}
NO_ROOM_BESIDE = "no_room_beside_engine"
NOT_PROVED = "adapter_not_proved"


class Next(StrEnum):
    """What becomes of the job."""

    DROP = "drop"
    GO_ON = "go_on"
    CANCEL = "cancel"
    PAUSE = "pause"
    WAIT = "wait"
    FAIL = "fail"


@dataclass(frozen=True)
class Verdict:
    next: Next
    outcome: str
    failure: Failed | None = None
    pause_seconds: float = 0.0


OVER_TIME = Failed(
    blame=Blame.USER,
    code="time_limit",
    message="the attempt ran longer than resources.max_seconds",
    hint="raise resources.max_seconds, or train fewer steps",
    param="resources.max_seconds",
)
# These reasons decide even if the work was complete.
DECIDES_ALWAYS = {
    StopReason.FENCED: Verdict(Next.DROP, "fenced"),
    StopReason.CANCELLED: Verdict(Next.CANCEL, "cancelled"),
}
# These reasons decide only if the work was not complete.
DECIDES_IF_INCOMPLETE = {
    StopReason.PAUSED: Verdict(Next.PAUSE, "paused"),
    StopReason.SHUTDOWN: Verdict(Next.WAIT, "worker_stopped"),
    StopReason.TIME_LIMIT: Verdict(Next.FAIL, "time_limit", OVER_TIME),
}


def decide(report: Report, faults: int, max_attempts: int, *, is_done: bool) -> Verdict:
    """`faults`: the failures at the same step, this attempt's included, as `app.jobs.queue.attempts.faults` counts
    them. `is_done`: whether all work of the attempt is done, as the runner of its stage defines it.
    """
    if report.stopped in DECIDES_ALWAYS:
        return DECIDES_ALWAYS[report.stopped]
    if is_done:
        return Verdict(Next.GO_ON, "finished")
    if report.stopped in DECIDES_IF_INCOMPLETE:
        return DECIDES_IF_INCOMPLETE[report.stopped]
    return _stopped_by_guardian(report) or _decide_on_failure(_failure_of(report), faults, max_attempts)


def _stopped_by_guardian(report: Report) -> Verdict | None:
    """The verdict for a child that its guardian stopped because the worker did not renew the lease in time."""
    is_ended = report.interrupted is not None or (report.is_cut_off and report.exit_code != 0)
    is_handed_back = is_ended and report.failed is None and report.stopped is None
    return Verdict(Next.WAIT, "interrupted") if is_handed_back else None


def _decide_on_failure(failure: Failed, faults: int, max_attempts: int) -> Verdict:
    if failure.code == DISK_FULL:
        return Verdict(Next.PAUSE, DISK_FULL, failure, FIRST_PAUSE_SECONDS)
    if failure.code == ENGINE_AWAY:
        return Verdict(Next.WAIT, ENGINE_AWAY, failure, ENGINE_PAUSE_SECONDS)
    if failure.code == STORE_AWAY:
        return Verdict(Next.WAIT, STORE_AWAY, failure, ENGINE_PAUSE_SECONDS)
    if failure.code == NO_ROOM_BESIDE:
        return Verdict(Next.WAIT, NO_ROOM_BESIDE, failure)
    if failure.blame is Blame.USER or failure.code == NOT_PROVED or faults >= max_attempts:
        return Verdict(Next.FAIL, failure.code, failure)
    pause = max(pause_seconds(faults), LEAST_PAUSE_SECONDS.get(failure.code, 0.0))
    return Verdict(Next.WAIT, failure.code, failure, pause)


def pause_seconds(faults: int) -> float:
    """How long a job waits after its nth failure at the same step. The wait doubles each time, up to a maximum."""
    return min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * float(2 ** (max(faults, 1) - 1)))


def _failure_of(report: Report) -> Failed:
    if report.failed is not None:
        return report.failed
    if report.exit_code == EXIT_DISK_FULL:
        return _system_failure(
            DISK_FULL, "the disk has no room for the files of an attempt", "free space in TUNESMITH_HOME"
        )
    if report.stopped is StopReason.HUNG:
        return _system_failure("hung", "the process showed no activity for too long", "its log tells more")
    return _crash_failure(report.exit_code or 0, is_out_of_memory=report.is_out_of_memory)


def _crash_failure(exit_code: int, *, is_out_of_memory: bool) -> Failed:
    """The failure of a child that reported none. A negative exit code means that a signal killed its guardian."""
    exit_code = 128 - exit_code if exit_code < 0 else exit_code
    if exit_code <= 128:
        message = f"the process ended with exit code {exit_code} and no result"
        return _system_failure("process_crashed", message, "its log tells more")
    name = signal.Signals(exit_code - 128).name if exit_code - 128 in set(signal.Signals) else str(exit_code - 128)
    if name == "SIGPROF":
        message = "the model's tokenizer takes more CPU time than texts of this size need"
        hint = "use the model's original tokenizer files, or another model"
        return Failed(blame=Blame.USER, code=TOO_MUCH_COMPUTING, message=message, hint=hint, param="model.model_name")
    if name == "SIGKILL" and is_out_of_memory:
        message = "the host ran out of memory and its kernel killed the process"
        return _system_failure(
            "host_out_of_memory", message, "use a smaller model or batch, or a host with more memory"
        )
    is_crash = name in ("SIGSEGV", "SIGBUS", "SIGABRT", "SIGFPE", "SIGILL")
    code = "process_crashed" if is_crash else "process_killed"
    return _system_failure(code, f"the process was ended by {name}", "its log tells more")


def _system_failure(code: str, message: str, hint: str) -> Failed:
    return Failed(blame=Blame.SYSTEM, code=code, message=message, hint=hint)
