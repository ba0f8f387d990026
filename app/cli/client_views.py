"""What the client reads of the service's answers: the fields that it shows. All others are ignored."""

from datetime import datetime
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict

Json = dict[str, Any]
Known = Literal["validating", "queued", "running", "paused", "succeeded", "failed", "cancelled", "unknown"]
# One of a newer service is unknown here, as one of a newer database is to the service.
Status = Annotated[Known, BeforeValidator(lambda status: status if status in get_args(Known) else "unknown")]
# Behind an unknown one nothing comes that could be waited for.
FINAL: frozenset[Known] = frozenset({"succeeded", "failed", "cancelled", "unknown"})


class View(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, protected_namespaces=())


class Progress(View):
    step: int
    total_steps: int
    percent: float
    loss: float | None = None
    eta_seconds: float | None = None


class Queue(View):
    position: int
    reason: str


class Failure(View):
    category: str
    code: str
    message: str
    hint: str | None = None
    details: list[Json] = []


class Checking(View):
    source: str
    records: int
    percent: float | None = None
    seconds: float


class Job(View):
    id: str
    name: str
    status: Status
    phase: str | None = None
    cancel_requested: bool = False
    pause_requested: bool = False
    checking: Checking | None = None
    progress: Progress | None = None
    error: Failure | None = None
    adapter_id: str | None = None

    @property
    def is_final(self) -> bool:
        return self.status in FINAL

    @property
    def wish(self) -> str | None:
        """What its user asked for and its worker has not done yet."""
        return "cancelling" if self.cancel_requested else "pausing" if self.pause_requested else None


class Checkpoint(View):
    """A checkpoint that is kept; the training stood still for `seconds`."""

    step: int
    attempt: int
    bytes: int
    seconds: float
    created_at: datetime


class CheckpointList(View):
    data: list[Checkpoint]


class Result(View):
    train_seconds: float


class JobDetail(Job):
    queue: Queue | None = None
    result: Result | None = None


class JobList(View):
    data: list[Job]
    has_more: bool = False


class Adapter(View):
    id: str
    base_model: str
    kind: str
    rank: int | None = None
    bytes: int


class AdapterList(View):
    data: list[Adapter]
    has_more: bool = False


class File(View):
    """An upload, as it was understood."""

    id: str
    layout: str | None = None
    records: int


class Span(View):
    text: str
    trained: bool
    token_ids: list[int]


class Row(View):
    """One row of a job as it is learned."""

    record: int
    split: str
    tokens: int
    supervised_tokens: int
    cut_tokens: int
    spans: list[Span]


class Validation(View):
    valid: bool
    data_report: Json | None = None
    notices: list[Json] = []
    error: Failure | None = None
    preview: list[Row] = []


class LogPage(View):
    attempt: int | None
    text: str
    next_offset: int
    is_complete: bool
