"""What an attempt reports: one JSON line an event, appended to the attempt's events file by the child process.

The worker tails the file into the database; nothing but a complete line counts.
"""

from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from app.contracts.base import Contract
from app.contracts.probe import Proof


class Phase(StrEnum):
    """Where a running job is."""

    DOWNLOAD = "download"
    LOAD = "load"
    TRAIN = "train"
    EVAL = "eval"
    SAVE = "save"
    VERIFY = "verify"


class Blame(StrEnum):
    """Whose failure it is."""

    USER = "user_error"
    SYSTEM = "system_error"


class Event(Contract):
    at: datetime = Field(default_factory=lambda: datetime.now(UTC))


class PhaseStarted(Event):
    kind: Literal["phase"] = "phase"
    phase: Phase


class Noticed(Event):
    """Something done otherwise than asked, or worth knowing; never a silent fallback."""

    kind: Literal["notice"] = "notice"
    code: str = Field(description="stable, such as optimizer_replaced")
    message: str
    field: str | None = Field(None, description="the spec field it is about, such as training.optim")
    requested: Any = None
    effective: Any = None

    def shown(self) -> dict[str, Any]:
        """As it stands in a job's `notices`."""
        return self.model_dump(mode="json", exclude={"kind", "at"})


class DataPrepared(Event):
    """What became of the rows: all counts are of whole dataset rows or tokens, before padding."""

    kind: Literal["data"] = "data"
    report: dict[str, Any]


class CheckMetrics(Contract):
    """How far the check of a dataset is: as it is reported, stored, and shown."""

    source: Literal["source", "eval_source"] = Field(description="which dataset of the spec is read")
    records: int
    bytes_read: int = Field(description="of the file as it is stored; 0 for rows of the hub")
    total_bytes: int | None
    seconds: float = Field(description="since the check of this source began")


class RowsChecked(Event, CheckMetrics):
    """Written every few seconds while the check reads."""

    kind: Literal["rows"] = "rows"


class SpecResolved(Event):
    """The values that are really used, for every `auto`, null and fallback: {"training.optim": "adamw_torch_fused"}."""

    kind: Literal["resolved"] = "resolved"
    values: dict[str, Any]


class StepMetrics(Contract):
    """What is measured of a training at a step: as it is reported, stored, and shown.

    A new figure is added here, with a default, since the rows that are stored already do not have it.
    """

    step: int
    total_steps: int
    epoch: float
    loss: float | None = Field(description="mean over supervised tokens; null where it was not finite")
    learning_rate: float | None
    grad_norm: float | None
    tokens: int = Field(description="that went through the model since step 1, without padding")
    tokens_per_second: float
    seconds: float = Field(description="since the first step began")
    memory_bytes: int = Field(description="peak, of the GPU, or resident where there is none")
    gpu_memory_bytes: int | None = None


class StepEvent(Event, StepMetrics):
    """The figures of one step."""

    kind: str


class StepLogged(StepEvent):
    """A point of the metrics: one each logging step, and the last step. `loss` is the mean since the point before."""

    kind: Literal["step"] = "step"


class StepTaken(StepEvent):
    """A step that is not logged, about once a second: it moves the job's progress on and is kept nowhere else."""

    kind: Literal["taken"] = "taken"


class Evaluated(Event):
    kind: Literal["eval"] = "eval"
    step: int
    eval_loss: float | None
    eval_seconds: float


class CheckpointSaved(Event):
    """A checkpoint is complete on disk: `worker.checkpoints` says what is in it."""

    kind: Literal["checkpoint"] = "checkpoint"
    step: int
    path: str
    bytes: int
    sha256: str = Field(description="of the manifest, which holds the sha256 of every file")
    seconds: float = Field(description="how long the training stood still for it")


class CheckpointRemoved(Event):
    """An older checkpoint made room for a newer one."""

    kind: Literal["checkpoint_removed"] = "checkpoint_removed"
    step: int
    path: str


class Resumed(Event):
    """The training goes on behind this step; what an earlier attempt reported of later steps is superseded."""

    kind: Literal["resumed"] = "resumed"
    step: int


class AttemptInterrupted(Event):
    """The last event of an attempt that stopped as it was asked to, behind a checkpoint of this step."""

    kind: Literal["interrupted"] = "interrupted"
    step: int


class AdapterSaved(Event):
    """The bundle is complete on disk. `version` is the hash of its files."""

    kind: Literal["adapter"] = "adapter"
    path: str
    version: str
    bytes: int
    base_model: str = Field(description="the weights that were trained on: a hub id or a local folder")
    base_revision: str | None
    adapter_kind: Literal["lora", "full"]
    rank: int | None
    trainable_parameters: int


class Verified(Event):
    """The engine has proved the adapter: it says there what the trainer saw. Written by the worker."""

    kind: Literal["verified"] = "verified"
    proof: Proof
    seconds: float = Field(description="that it took in this attempt, waiting for the engine included")


class SourcesChecked(Event):
    """The last event of a validation: everything that the spec names is there and fits."""

    kind: Literal["checked"] = "checked"


class Failed(Event):
    """The last event of an attempt that could not go on. The message never holds a traceback or a secret."""

    kind: Literal["failed"] = "failed"
    blame: Blame
    code: str
    message: str
    hint: str | None = None
    param: str | None = None
    details: list[dict[str, Any]] = []


class Finished(Event):
    """The last event of an attempt that went well."""

    kind: Literal["finished"] = "finished"
    steps: int
    train_seconds: float
    final_loss: float | None
    tokens: int


AttemptEvent = Annotated[
    PhaseStarted
    | Noticed
    | DataPrepared
    | RowsChecked
    | SpecResolved
    | StepLogged
    | StepTaken
    | Evaluated
    | CheckpointSaved
    | CheckpointRemoved
    | Resumed
    | AttemptInterrupted
    | AdapterSaved
    | Verified
    | SourcesChecked
    | Failed
    | Finished,
    Field(discriminator="kind"),
]
ATTEMPT_EVENT: TypeAdapter[AttemptEvent] = TypeAdapter(AttemptEvent)
