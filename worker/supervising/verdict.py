"""What an attempt's end means for its job: pure, so that every case is a line of a table.

| the child                               | the job                                                        |
|-----------------------------------------|----------------------------------------------------------------|
| fenced                                  | is another's; nothing is written                               |
| finished, exit code 0                   | goes on to its next status, unless it was cancelled            |
| stopped: cancelled                      | cancelled                                                      |
| stopped: paused                         | paused, behind the checkpoint that it made at last             |
| stopped: shutdown, or by its guardian   | waits again, at once                                           |
| stopped: time limit                     | failed, user_error                                             |
| stopped: hung                           | as system_error                                                |
| said it failed, user_error              | failed                                                         |
| ended by the bound of its computing     | failed, user_error                                             |
| said it failed, the disk is full        | paused, until somebody has made room; a check waits for it     |
| finished, the engine is away            | waits again with a pause, to be verified; nothing is trained   |
| had too little memory beside the engine | waits again, at once; the engine steps aside then              |
| finished, too little memory to prove it | as system_error, with longer pauses: memory may be freed       |
| finished, the engine died of the proof  | as system_error; seven such deaths are one                     |
| finished, its adapter is not proved     | failed, system_error: another attempt would train the same     |
| said it failed, system_error            | waits again with a pause, failed when the attempts are used up |
| could not save, or publish, what it has | as system_error, behind the last step: only that is repeated   |
| anything else (killed, crashed)         | as system_error                                                |
"""

import signal
from dataclasses import dataclass
from enum import StrEnum

from app.contracts.events import Blame, Failed
from app.contracts.generation import OUT_OF_MEMORY
from worker.failures import DISK_FULL, EXIT_DISK_FULL, TOO_MUCH_COMPUTING
from worker.supervising.attempt import Report, StopReason

FIRST_PAUSE_SECONDS = 5.0
LONGEST_PAUSE_SECONDS = 600.0
ENGINE_PAUSE_SECONDS = 15.0
ENGINE_AWAY = "engine_unavailable"
ENGINE_DIED = "engine_died"
# An engine needs a while to be up again, and a training beside it a longer one to free its memory.
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
WHATEVER_IT_DID = {
    StopReason.FENCED: Verdict(Next.DROP, "fenced"),
    StopReason.CANCELLED: Verdict(Next.CANCEL, "cancelled"),
}
UNLESS_IT_WAS_DONE = {
    StopReason.PAUSED: Verdict(Next.PAUSE, "paused"),
    StopReason.SHUTDOWN: Verdict(Next.WAIT, "worker_stopped"),
    StopReason.TIME_LIMIT: Verdict(Next.FAIL, "time_limit", OVER_TIME),
}


def decide(report: Report, faults: int, max_attempts: int) -> Verdict:
    """`faults` counts the attempts that failed in the same place, this one with them if it failed."""
    if report.stopped in WHATEVER_IT_DID:
        return WHATEVER_IT_DID[report.stopped]
    if is_done(report):
        return Verdict(Next.GO_ON, "finished")
    if report.stopped in UNLESS_IT_WAS_DONE:
        return UNLESS_IT_WAS_DONE[report.stopped]
    return _stopped_by_guardian(report) or _fault(_failure(report), faults, max_attempts)


def _stopped_by_guardian(report: Report) -> Verdict | None:
    """Its worker could not renew the lease in time, for whatever reason; it ended, behind a checkpoint if it could."""
    is_ended = report.interrupted is not None or (report.is_cut_off and report.exit_code != 0)
    is_handed_back = is_ended and report.failed is None and report.stopped is None
    return Verdict(Next.WAIT, "interrupted") if is_handed_back else None


def _fault(failure: Failed, faults: int, max_attempts: int) -> Verdict:
    if failure.code == DISK_FULL:
        return Verdict(Next.PAUSE, DISK_FULL, failure, FIRST_PAUSE_SECONDS)
    if failure.code == ENGINE_AWAY:
        return Verdict(Next.WAIT, ENGINE_AWAY, failure, ENGINE_PAUSE_SECONDS)
    if failure.code == NO_ROOM_BESIDE:
        return Verdict(Next.WAIT, NO_ROOM_BESIDE, failure)
    if failure.blame is Blame.USER or failure.code == NOT_PROVED or faults >= max_attempts:
        return Verdict(Next.FAIL, failure.code, failure)
    pause = max(pause_seconds(faults), LEAST_PAUSE_SECONDS.get(failure.code, 0.0))
    return Verdict(Next.WAIT, failure.code, failure, pause)


def pause_seconds(faults: int) -> float:
    """How long a job waits after its nth failure in the same place; one that got further waits as after the first."""
    return min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * float(2 ** (max(faults, 1) - 1)))


def is_done(report: Report) -> bool:
    """Whether all of the work is done, and proved where it has to be."""
    is_complete = report.is_checked or (report.finished is not None and report.adapter is not None)
    is_proved = report.proof is not None or not report.needs_proof
    return report.exit_code == 0 and report.failed is None and is_complete and is_proved


def _failure(report: Report) -> Failed:
    if report.failed is not None:
        return report.failed
    if report.exit_code == EXIT_DISK_FULL:
        return _system(DISK_FULL, "the disk has no room for the files of an attempt", "free space in TUNESMITH_HOME")
    if report.stopped is StopReason.HUNG:
        return _system("hung", "the process did nothing that could be seen for too long", "its log tells more")
    return _crash(report.exit_code or 0, is_out_of_memory=report.is_out_of_memory)


def _crash(exit_code: int, *, is_out_of_memory: bool) -> Failed:
    """A child that ended without a word. A negative code: its guardian was killed by that signal."""
    exit_code = 128 - exit_code if exit_code < 0 else exit_code
    if exit_code <= 128:
        message = f"the process ended with exit code {exit_code} and no result"
        return _system("process_crashed", message, "its log tells more")
    name = signal.Signals(exit_code - 128).name if exit_code - 128 in set(signal.Signals) else str(exit_code - 128)
    if name == "SIGPROF":
        message = "the model's tokenizer takes more computing than texts of this size need"
        hint = "take the model's own tokenizer files, or another model"
        return Failed(blame=Blame.USER, code=TOO_MUCH_COMPUTING, message=message, hint=hint, param="model.model_name")
    if name == "SIGKILL" and is_out_of_memory:
        message = "the host ran out of memory and its kernel killed the process"
        return _system("host_out_of_memory", message, "a smaller model or batch, or a host with more memory")
    is_crash = name in ("SIGSEGV", "SIGBUS", "SIGABRT", "SIGFPE", "SIGILL")
    code = "process_crashed" if is_crash else "process_killed"
    return _system(code, f"the process was ended by {name}", "its log tells more")


def _system(code: str, message: str, hint: str) -> Failed:
    return Failed(blame=Blame.SYSTEM, code=code, message=message, hint=hint)
