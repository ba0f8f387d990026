"""The kinds of jobs: the stages that a job of each kind goes through, and the code for each part.

A kind is declared here by data alone. Its code is named as `module:attribute` and imported where it is needed, because
the API has no worker code and a worker has no routes. A plugin (`app.plugins`) adds a kind with `register`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, Protocol

from app.jobs.states import JobStatus, Stage

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from app.config import Settings
    from app.database.connection import Database
    from app.jobs.models import Job
    from app.scope import Scope

TRAIN, VALIDATE = "train", "validate"


class Submission(Protocol):
    """What the API does with the spec of one kind."""

    def check(self, database: "Database", scope: "Scope", settings: "Settings", spec: Any) -> None:
        """Check all that needs no worker. What the spec names has to be in the scope.

        Raises InvalidRequest and InvalidDataset.
        """

    def columns(self, session: "Session", scope: "Scope", settings: "Settings", spec: Any) -> dict[str, Any]:
        """Return the columns of the new row that only this kind knows, such as its plan.

        This is part of the transaction that stores the job: whatever the spec names is locked against removal. Raises
        InvalidRequest if it is gone.
        """

    def read_plan(self, job: "Job") -> Any | None:
        """Return the stored plan, or None if this version cannot do all that it says."""


@dataclass(frozen=True)
class JobKind:
    """One kind of job.

    `submission` names a `Submission`. `runners` names the `worker.supervising.runners.StageRunner` of each stage, in
    the order of the stages. `router` names a function that returns the `APIRouter` with its routes. A job that
    `is_temporary` is in no list; it is removed once the request that made it has its result.
    """

    name: str
    submission: str
    runners: Mapping[Stage, str]
    router: str | None = None
    is_temporary: bool = False

    @property
    def first_stage(self) -> Stage:
        return next(iter(self.runners))

    def stage_after(self, stage: Stage) -> Stage | None:
        stages = list(self.runners)
        return next(iter(stages[stages.index(stage) + 1 :]), None)

    def stage_of(self, status: JobStatus) -> Stage | None:
        """Return the stage that waits or runs while a job of this kind has a status."""
        return next((stage for stage in self.runners if status in (stage.waiting, stage.active)), None)


CHECKS = "worker.supervising.checks:CheckRunner"
TRAININGS = "worker.supervising.trainings:TrainingRunner"
SUBMISSION = "app.jobs.trainings:TrainingSubmission"
KINDS: dict[str, JobKind] = {
    TRAIN: JobKind(TRAIN, SUBMISSION, {Stage.CHECK: CHECKS, Stage.TRAIN: TRAININGS}),
    VALIDATE: JobKind(VALIDATE, SUBMISSION, {Stage.CHECK: CHECKS}, is_temporary=True),
}


def register(kind: JobKind) -> None:
    """Add the kind of a plugin. Raises ValueError if there is another one of this name."""
    if KINDS.setdefault(kind.name, kind) != kind:
        raise ValueError(f"two kinds of jobs have the name {kind.name!r}")


def kinds_with(stage: Stage) -> Sequence[str]:
    """Return the names of the kinds whose jobs have this stage."""
    return sorted(name for name, kind in KINDS.items() if stage in kind.runners)


def kind_of(job: "Job") -> JobKind | None:
    """Return the job's kind, or None if only another version knows it."""
    return KINDS.get(job.kind)


def stage_of(job: "Job") -> Stage | None:
    """Return the stage that the job waits for or is in, or None if it has ended or is paused."""
    kind = kind_of(job)
    return kind.stage_of(job.status) if kind is not None else None


def submission_of(kind: JobKind) -> Submission:
    made: Callable[[], Submission] = resolve_name(kind.submission)
    return made()
