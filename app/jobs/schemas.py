"""What the job routes answer."""

from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from app.contracts.events import CheckMetrics, StepMetrics
from app.contracts.stored import Unreadable
from app.database.stored_fields import UNREADABLE, StoredView, show
from app.jobs.states import Desire, JobStatus

if TYPE_CHECKING:  # the command reads these models without a database
    from app.jobs.models import Attempt, Job, JobEvent

STORED = ConfigDict(extra="ignore", json_schema_serialization_defaults_required=True)


class TrainingProgress(StepMetrics):
    """The newest step, logged or not."""

    model_config = STORED
    percent: float = Field(description="of the optimizer steps")
    eta_seconds: float | None = Field(description="at the mean speed so far")


class CheckProgress(CheckMetrics):
    """How far the check of the data is, while the job is validating."""

    model_config = STORED
    percent: float | None = Field(description="of the bytes; null where the size is not known")


class QueueView(BaseModel):
    position: int
    reason: str


class JobError(BaseModel):
    category: Literal["user_error", "system_error"]
    code: str
    message: str
    hint: str | None = None
    param: str | None = None
    details: list[dict[str, Any]] = []


class AttemptView(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    epoch: int
    stage: str
    worker: str
    resume_step: int | None = Field(description="the step it went on behind; null: none yet, 0: from the beginning")
    started_at: datetime
    ended_at: datetime | None
    outcome: str | None
    exit_code: int | None = Field(description="of its process; 128+n after signal n")
    reason: str | None


class CheckpointView(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    object: Literal["checkpoint"] = "checkpoint"
    step: int
    attempt: int = Field(validation_alias="epoch")
    bytes: int
    sha256: str = Field(description="of its manifest, which holds the sha256 of every file")
    seconds: float = Field(description="how long the training stood still for it")
    created_at: datetime


class CheckpointList(BaseModel):
    object: Literal["list"] = "list"
    data: list[CheckpointView]


class JobView(StoredView):
    """A job as a list shows it."""

    object: Literal["job"] = "job"
    id: str
    name: str
    project: str
    labels: dict[str, str] = {}
    priority: int
    status: JobStatus = Field(description="unknown: one that only another version has; such a job can be deleted")
    phase: str | None
    cancel_requested: bool = False
    pause_requested: bool = False
    checking: CheckProgress | None = None
    progress: TrainingProgress | None = None
    error: JobError | None = None
    adapter_id: str | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    unreadable: list[str] = Field([], description=UNREADABLE)


class JobDetail(JobView):
    """A job as `GET /jobs/{id}` shows it."""

    spec: dict[str, Any] = {}
    resolved_spec: dict[str, Any] = {}
    data_report: dict[str, Any] | None = None
    notices: list[dict[str, Any]] = []
    result: dict[str, Any] | None = None
    queue: QueueView | None = None
    attempts: list[AttemptView] = []


class JobPage(BaseModel):
    object: Literal["list"] = "list"
    data: list[JobView]
    first_id: str | None
    last_id: str | None
    has_more: bool


class EventView(BaseModel):
    seq: int
    kind: str
    at: datetime
    attempt: int
    payload: dict[str, Any]

    @classmethod
    def of(cls, event: "JobEvent") -> "EventView":
        payload = {"unreadable": True} if isinstance(event.payload, Unreadable) else event.payload
        return cls(seq=event.seq, kind=event.kind, at=event.at, attempt=event.epoch, payload=payload)

    def flat(self) -> dict[str, Any]:
        """The event's own fields beside its number, kind, time and attempt; `unreadable` in place of fields that
        cannot be read."""
        return {**self.payload, **self.model_dump(mode="json", exclude={"payload"})}


class EventPage(BaseModel):
    object: Literal["list"] = "list"
    data: list[dict[str, Any]]
    last_seq: int
    has_more: bool


class Metrics(BaseModel):
    """The series of the run, one point a logging step: what a later attempt did again is not shown twice.

    A series of more than 5,000 points is thinned to about as many.
    """

    steps: list[dict[str, Any]]
    evals: list[dict[str, Any]]
    every_nth_step: int = Field(description="1: all of them; n: each n-th that was logged, and the last")
    every_nth_eval: int = Field(description="as every_nth_step, of the evaluations")


class LogPage(BaseModel):
    """Text that the child processes printed. Offsets count bytes of the attempt's log, kept from `first_offset` on."""

    attempt: int | None
    text: str
    first_offset: int = 0
    next_offset: int
    is_complete: bool


class JobDeleted(BaseModel):
    id: str
    object: Literal["job"] = "job"
    deleted: bool = True


def listed(job: "Job") -> JobView:
    return show(JobView, _fields(job))


def detail(job: "Job", queue: QueueView | None, attempts: "list[Attempt]") -> JobDetail:
    fields = {
        **_fields(job),
        "spec": job.spec,
        "resolved_spec": job.resolved,
        "data_report": job.data_report,
        "notices": job.notices,
        "result": job.result,
        "queue": queue,
        "attempts": [AttemptView.model_validate(attempt) for attempt in attempts],
    }
    return show(JobDetail, fields)


def _fields(job: "Job") -> dict[str, Any]:
    """What both views read from the row."""
    own = {"object", "cancel_requested", "pause_requested", "unreadable"}
    is_asked = {Desire.CANCEL: not job.status.is_final, Desire.PAUSE: job.status.can_be_paused}
    wishes = {desire: job.desired is desire and is_open for desire, is_open in is_asked.items()}
    return {
        **{name: getattr(job, name) for name in JobView.model_fields if name not in own},
        "cancel_requested": wishes[Desire.CANCEL],
        "pause_requested": wishes[Desire.PAUSE],
        "unreadable": ["status"] if job.status is JobStatus.UNKNOWN else [],
    }
