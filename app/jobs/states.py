"""The states of a job. Only this module says which status may follow which.

        ┌──────────────(only checked)─────────────┐
    validating ──────> queued <───────> running ──> succeeded
        │  └─> paused <──┘ ^ └ paused <────┘ └────> failed
        │        └─────────┘
        └──> failed                        (from all that has not ended) ──> cancelled

| move                                      | who makes it                                                        |
|-------------------------------------------|---------------------------------------------------------------------|
| → validating                              | the API, before it answers the client                               |
| → queued                                  | the API, for a kind of job without a check                          |
| validating → queued, succeeded, failed    | the checker that holds it                                           |
| queued → running                          | the worker that claims it                                           |
| running → succeeded, failed               | the worker that holds it                                            |
| running → queued                          | its worker, after a fault or on shutdown; the reconciler if it died |
| running → failed                          | the reconciler, if the workers of the job died too often            |
| queued → paused, → cancelled              | the API, at once, if no worker holds the job                        |
| validating, running → paused, cancelled   | the worker, which reads `Job.requested_action`                     |
| paused → queued                           | the API                                                             |

Each move is one UPDATE whose WHERE clause names the old status and, for a worker, its fence. A worker holds a
`validating` job while it checks its sources and a `running` job while it trains or does other work. `app.jobs.kinds`
says which stages a job of each kind goes through. A status that only another version knows is loaded as `unknown`: no
move begins or ends there, and the job can be deleted.
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


class RequestedAction(StrEnum):
    """The state that the user requested. The worker reads it at every heartbeat.

    A value that only another version knows is loaded as `unknown`, and workers of this version ignore it.
    """

    RUN = "run"
    PAUSE = "pause"
    CANCEL = "cancel"
    UNKNOWN = "unknown"


class Stage(StrEnum):
    """A part of the work on a job. `check` and `run` need no GPU; the workers that check also run."""

    CHECK = "check"
    TRAIN = "train"
    RUN = "run"

    @property
    def served_by(self) -> "Stage":
        """The stage that names the workers, and their queue, which do this work."""
        return Stage.CHECK if self is Stage.RUN else self

    @property
    def serves(self) -> "list[Stage]":
        """The stages that workers of this stage do, in the order in which they look for work."""
        return [stage for stage in Stage if stage.served_by is self]

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
# The statuses in which a job waits for a worker, or is checked.
WAITING = frozenset(stage.waiting for stage in Stage)
# The statuses of a job that has not ended. `unknown` is not one of them.
ALIVE = frozenset(status for status in JobStatus if NEXT[status])


# The stages that have workers, and a queue, of their own.
WORKER_STAGES = tuple(stage for stage in Stage if stage.serves)


def next_status(done: Stage, following: Stage | None, requested_action: RequestedAction) -> JobStatus:
    """Return the next status of a job whose stage `done` is complete. `following` is None if that was its last stage.

    A request to cancel or pause is respected, unless the job's work is complete.
    """
    if requested_action is RequestedAction.CANCEL and (following is not None or done is Stage.CHECK):
        return JobStatus.CANCELLED
    if following is None:
        return JobStatus.SUCCEEDED
    return JobStatus.PAUSED if requested_action is RequestedAction.PAUSE else following.waiting


def given_back(stage: Stage, requested_action: RequestedAction) -> JobStatus:
    """Return the next status of a job whose attempt ended without a result: what its user requested, or waiting again.

    A job is not paused before its check is done: a check is cheap, and it shows whether the job can run at all.
    """
    if requested_action is RequestedAction.CANCEL:
        return JobStatus.CANCELLED
    return JobStatus.PAUSED if requested_action is RequestedAction.PAUSE and stage is not Stage.CHECK else stage.waiting


def sources_of(target: JobStatus) -> list[JobStatus]:
    """Return the statuses that `target` may follow."""
    return [status for status in JobStatus if target in NEXT[status]]
