"""The life of a job. Nothing outside this module says which status may follow which.

        ┌──(dry run)──────────────────────┐
    validating ──> queued ──> running ──> succeeded
        │  │          │          │ └────> failed
        │  └─> failed └> cancelled └────> cancelled
        └─> cancelled            └──(worker lost, crash)──> queued

A worker holds a `validating` job while it checks its sources and a `running` one while it trains. Cancelling is a
request in a column of its own; the worker that holds the job carries it out. A dry run is a job that is only checked.
"""

from enum import StrEnum


class JobStatus(StrEnum):
    VALIDATING = "validating"
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        return not NEXT[self]


class Desire(StrEnum):
    """What the user wants of the job; read by the worker at every heartbeat."""

    RUN = "run"
    CANCEL = "cancel"


class Stage(StrEnum):
    """The two kinds of work on a job, each with workers of its own: checking needs no GPU."""

    CHECK = "check"
    TRAIN = "train"

    @property
    def waiting(self) -> JobStatus:
        return JobStatus.VALIDATING if self is Stage.CHECK else JobStatus.QUEUED

    @property
    def active(self) -> JobStatus:
        return JobStatus.VALIDATING if self is Stage.CHECK else JobStatus.RUNNING


ENDED = frozenset({JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED})
NEXT: dict[JobStatus, frozenset[JobStatus]] = {
    JobStatus.VALIDATING: ENDED | {JobStatus.QUEUED},
    JobStatus.QUEUED: frozenset({JobStatus.RUNNING, JobStatus.CANCELLED}),
    JobStatus.RUNNING: ENDED | {JobStatus.QUEUED},
    **{status: frozenset() for status in ENDED},
}


def after_check(*, is_dry_run: bool) -> JobStatus:
    """What a job becomes whose check went well."""
    return JobStatus.SUCCEEDED if is_dry_run else JobStatus.QUEUED


def sources_of(target: JobStatus) -> list[JobStatus]:
    """The statuses that `target` may follow."""
    return [status for status in JobStatus if target in NEXT[status]]
