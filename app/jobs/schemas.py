"""The responses of the job routes."""

from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from app.contracts.base import extract
from app.contracts.events import CheckMetrics, StartTimes, StepMetrics, TrainingStarted
from app.contracts.stored import Unreadable, read, with_values
from app.database.stored_fields import UNREADABLE, StoredView, show
from app.jobs.states import JobStatus, RequestedAction

if TYPE_CHECKING:  # the command line uses this module without SQLAlchemy
    from app.jobs.models import Attempt, Job, JobEvent

STORED = ConfigDict(extra="ignore", json_schema_serialization_defaults_required=True)


class TrainingProgress(StepMetrics):
    """The newest step, whether it was logged or not."""

    model_config = STORED
    percent: float = Field(description="of the optimizer steps")
    eta_seconds: float | None = Field(description="at the mean speed so far")


class CheckProgress(CheckMetrics):
    """The progress of the data check while the job is validating."""

    model_config = STORED
    percent: float | None = Field(description="of the bytes; null if the size is not known")


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
    resume_step: int | None = Field(
        description="the step it continued after; null: not known yet, 0: from the beginning"
    )
    started_at: datetime
    ended_at: datetime | None
    outcome: str | None
    exit_code: int | None = Field(description="of its process; 128+n after signal n")
    reason: str | None


class StartView(StartTimes):
    """How the newest attempt started. Imports, load and first step follow the claim one after another."""

    model_config = STORED
    claim_seconds: float = Field(
        description="from the claim of the job to the start of the work on it: order, download, waiting for GPU memory"
    )

    @classmethod
    def of(cls, attempt: "Attempt", started: "JobEvent") -> "StartView | Unreadable":
        """Read an event of the kind `started` of this attempt."""
        event = read(TrainingStarted, started.payload)
        if event is None:
            return Unreadable()
        claim_seconds = round((event.began_at - attempt.started_at).total_seconds(), 3)
        return extract(event, cls, claim_seconds=claim_seconds)


class PhaseView(BaseModel):
    """All times that an attempt was in a phase."""

    attempt: int
    phase: str
    started_at: datetime = Field(description="the first time")
    seconds: float = Field(description="of all times, the present one included")
    times: int
    is_under_way: bool = False


class PhaseList(BaseModel):
    object: Literal["list"] = "list"
    data: list[PhaseView]


class CheckpointView(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    object: Literal["checkpoint"] = "checkpoint"
    step: int
    attempt: int = Field(validation_alias="epoch")
    bytes: int
    sha256: str = Field(description="of its manifest, which holds the sha256 of every file")
    seconds: float = Field(description="how long the training paused to save it")
    created_at: datetime
    is_best: bool = Field(False, description="of the best evaluation, by training.metric_for_best_model")


class CheckpointList(BaseModel):
    object: Literal["list"] = "list"
    data: list[CheckpointView]


class JobView(StoredView):
    """A job as a list shows it."""

    object: Literal["job"] = "job"
    id: str
    kind: str = Field("train", description="what the job does")
    name: str
    project: str
    created_by: str | None = Field(None, description="who submitted it; null: an older version stored it")
    model: str | None = Field(None, description="the base model, as the job names it; null: it names none")
    labels: dict[str, str] = {}
    priority: int
    status: JobStatus = Field(
        description="unknown: a status that only another version knows; such a job can be deleted"
    )
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
    timings: StartView | None = None


class JobPage(BaseModel):
    object: Literal["list"] = "list"
    data: list[JobView]
    first_id: str | None
    last_id: str | None = Field(
        description="`after` of the next page; with `label` or `text` perhaps a job that is not shown"
    )
    has_more: bool


class JobCounts(BaseModel):
    """How many jobs have each status. A status that only another version knows is not counted."""

    object: Literal["job_counts"] = "job_counts"
    counts: dict[JobStatus, int]
    counted_up_to: int = Field(description="a number as high as this one means: so many or more")


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
        """Return the event's fields with its number, kind, time and attempt in one dict.

        If the stored fields cannot be read, `unreadable` takes their place.
        """
        return {**self.payload, **self.model_dump(mode="json", exclude={"payload"})}


class EventPage(BaseModel):
    object: Literal["list"] = "list"
    data: list[dict[str, Any]]
    last_seq: int
    has_more: bool


class Metrics(BaseModel):
    """The series of the run, one point for each logged step; steps that a later attempt repeated are shown once.

    A series of more than 5,000 points is thinned to about 5,000. With `points` it is thinned to so many, and keeps the
    first, lowest, highest and last point of each group of steps: a row then has only the fields that keep a point at
    its step.
    """

    steps: list[dict[str, Any]]
    evals: list[dict[str, Any]]
    every_nth_step: int | None = Field(
        description="1: all points; n: one point of each n events, and the last; null: as `points` keeps them"
    )
    every_nth_eval: int | None = Field(description="the same for the evaluations")


class LogPage(BaseModel):
    """Text that the child processes printed. Offsets are in bytes; the log is kept from `first_offset` on."""

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


def detail(
    job: "Job", queue: QueueView | None, attempts: "list[Attempt]", started: "JobEvent | None" = None
) -> JobDetail:
    """`started`: the newest event of this kind."""
    is_of_newest = started is not None and attempts and attempts[-1].epoch == started.epoch
    fields = {
        **_fields(job),
        "spec": job.sent,
        "resolved_spec": resolved_spec(job),
        "data_report": job.data_report,
        "notices": job.notices,
        "result": job.result,
        "queue": queue,
        "attempts": [AttemptView.model_validate(attempt) for attempt in attempts],
        "timings": StartView.of(attempts[-1], started) if started is not None and is_of_newest else None,
    }
    return show(JobDetail, fields)


def _fields(job: "Job") -> dict[str, Any]:
    """Return the fields that both views read from the row."""
    own = {"object", "model", "cancel_requested", "pause_requested", "unreadable"}
    is_cancelling = job.requested_action is RequestedAction.CANCEL and not job.status.is_final
    is_pausing = job.requested_action is RequestedAction.PAUSE and job.status.can_be_paused
    return {
        **{name: getattr(job, name) for name in JobView.model_fields if name not in own},
        "model": _model_of(job.sent),
        "cancel_requested": is_cancelling,
        "pause_requested": is_pausing,
        "unreadable": ["status"] if job.status is JobStatus.UNKNOWN else [],
    }


def _model_of(sent: Any) -> str | None:
    """Return the name of the base model in a spec of any version."""
    model = sent.get("model") if isinstance(sent, dict) else None
    found = model.get("model_name") if isinstance(model, dict) else None
    return found if isinstance(found, str) else None


def resolved_spec(job: "Job") -> dict[str, Any]:
    """Return the job's plan with the observed values on top."""
    if isinstance(job.plan, Unreadable):
        return job.plan
    shown = with_values(job.plan, job.observed or {})
    shown.pop("sent_fields", None)
    return shown
