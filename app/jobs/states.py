"""The life of a job. Nothing outside this module says which status may follow which.

        ┌────────────────(dry run)────────────────┐
    validating ──────> queued <───────> running ──> succeeded
        │  └─> paused <──┘ ^ └ paused <────┘ └────> failed
        │        └─────────┘
        └──> failed                        (from all that has not ended) ──> cancelled

| move                                      | who makes it                                                        |
|-------------------------------------------|---------------------------------------------------------------------|
| → validating                              | the API: a job is stored before its client hears of it              |
| validating → queued, succeeded, failed    | the checker that holds it                                           |
| queued → running                          | the worker that claims it                                           |
| running → succeeded, failed               | the worker that holds it                                            |
| running → queued                          | its holder, at a fault or when it stops; whoever finds it dead      |
| running → failed                          | whoever finds its holder dead once too often                        |
| queued → paused, → cancelled              | the API, at once, where nobody holds the job                        |
| validating, running → paused, cancelled   | the holder: pausing and cancelling are wishes in a column           |
| paused → queued                           | the API                                                             |

Each move is one UPDATE that names the status, and the fence, which it was decided by. A worker holds a `validating`
job while it checks its sources and a `running` one while it trains. A dry run is a job that is only checked. A status
that another version has stored is loaded as `unknown`: no move begins or ends there, and the job can be deleted.
"""

from enum import StrEnum


class JobStatus(StrEnum):
    VALIDATING = "validating"
    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    UNKNOWN = "unknown"

    @property
    def is_final(self) -> bool:
        return not NEXT[self]

    @property
    def can_be_paused(self) -> bool:
        return JobStatus.PAUSED in NEXT[self]


class Desire(StrEnum):
    """What the user wants of the job; read by the worker at every heartbeat. What only another version knows is
    `unknown`, and no worker of this one acts on it."""

    RUN = "run"
    PAUSE = "pause"
    CANCEL = "cancel"
    UNKNOWN = "unknown"


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
    JobStatus.VALIDATING: ENDED | {JobStatus.VALIDATING, JobStatus.QUEUED, JobStatus.PAUSED},
    JobStatus.QUEUED: frozenset({JobStatus.RUNNING, JobStatus.PAUSED, JobStatus.CANCELLED}),
    JobStatus.RUNNING: ENDED | {JobStatus.QUEUED, JobStatus.PAUSED},
    JobStatus.PAUSED: frozenset({JobStatus.QUEUED, JobStatus.CANCELLED}),
    **{status: frozenset() for status in (*ENDED, JobStatus.UNKNOWN)},
}
# What is stored of a job that goes on. Of one whose status is unknown nobody can say that.
ALIVE = frozenset(status for status in JobStatus if NEXT[status])


def after_check(desired: Desire, *, is_dry_run: bool) -> JobStatus:
    """What a job becomes whose check went well. A wish to end it that came at the last moment counts."""
    if desired is Desire.CANCEL:
        return JobStatus.CANCELLED
    if is_dry_run:
        return JobStatus.SUCCEEDED
    return JobStatus.PAUSED if desired is Desire.PAUSE else JobStatus.QUEUED


def given_back(stage: Stage, desired: Desire) -> JobStatus:
    """What a job becomes whose attempt ended without a result: what its user wants, else it waits for its stage again.

    A check that is to be paused is done first: it costs little, and tells whether there is anything to resume.
    """
    if desired is Desire.CANCEL:
        return JobStatus.CANCELLED
    return JobStatus.PAUSED if desired is Desire.PAUSE and stage is Stage.TRAIN else stage.waiting


def sources_of(target: JobStatus) -> list[JobStatus]:
    """The statuses that `target` may follow."""
    return [status for status in JobStatus if target in NEXT[status]]
