"""The life of a job. Nothing outside this module says which status may follow which.

    validating ──> queued ──> running ──> succeeded
        │  │          │          │ └────> failed
        │  └─> failed └> cancelled └────> cancelled
        └─> cancelled            └──(worker lost, crash)──> queued

A worker holds a `validating` job while it checks its sources and a `running` one while it trains. Cancelling is a
request in a column of its own; the worker that holds the job carries it out.
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
    JobStatus.VALIDATING: frozenset({JobStatus.QUEUED, JobStatus.FAILED, JobStatus.CANCELLED}),
    JobStatus.QUEUED: frozenset({JobStatus.RUNNING, JobStatus.CANCELLED}),
    JobStatus.RUNNING: ENDED | {JobStatus.QUEUED},
    **{status: frozenset() for status in ENDED},
}


def sources_of(target: JobStatus) -> list[JobStatus]:
    """The statuses that `target` may follow."""
    return [status for status in JobStatus if target in NEXT[status]]
