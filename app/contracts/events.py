"""The events of an attempt. The child process appends each one as a JSON line to the attempt's events file.

The worker copies complete lines of the file into the database.
"""

from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from app.contracts.base import Contract
from app.contracts.probe import Proof


class Phase(StrEnum):
    """What a running job is doing."""

    DOWNLOAD = "download"
    LOAD = "load"
    TRAIN = "train"
    EVAL = "eval"
    SAVE = "save"
    VERIFY = "verify"


class Blame(StrEnum):
    """Who caused a failure."""

    USER = "user_error"
    SYSTEM = "system_error"


class Event(Contract):
    at: datetime = Field(default_factory=lambda: datetime.now(UTC))


class PhaseStarted(Event):
    kind: Literal["phase"] = "phase"
    phase: Phase


class Noticed(Event):
    """Something that was done in another way than requested, or that the user should know."""

    kind: Literal["notice"] = "notice"
    code: str = Field(description="a stable code, such as optimizer_replaced")
    message: str
    field: str | None = Field(None, description="the spec field it is about, such as training.optim")
    requested: Any = None
    effective: Any = None

    def shown(self) -> dict[str, Any]:
        """Return the notice in the form of a job's `notices`."""
        return self.model_dump(mode="json", exclude={"kind", "at"})


class DataPrepared(Event):
    """The report about the rows. Counts are of whole dataset rows or tokens, before padding."""

    kind: Literal["data"] = "data"
    report: dict[str, Any]


class CheckMetrics(Contract):
    """The progress of a dataset's check, in the form in which it is reported, stored and shown."""

    source: Literal["source", "eval_source"] = Field(description="which dataset of the spec is read")
    records: int
    bytes_read: int = Field(description="bytes of the stored (perhaps compressed) file; 0 for rows of the hub")
    total_bytes: int | None
    seconds: float = Field(description="since the check of this source began")


class RowsChecked(Event, CheckMetrics):
    """Written every few seconds while the check reads."""

    kind: Literal["rows"] = "rows"


class SpecPinned(Event):
    """Values that a check chose. They become part of the plan: {"model.revision": "0123…"}."""

    kind: Literal["pinned"] = "pinned"
    values: dict[str, Any]


class SpecResolved(Event):
    """Values that the libraries really used for every `auto`, null and fallback:
    {"training.optim": "adamw_torch_fused"}.
    """

    kind: Literal["resolved"] = "resolved"
    values: dict[str, Any]


class LayoutChosen(Event):
    """How the steps of this attempt are computed, and why."""

    kind: Literal["layout"] = "layout"
    micro_batch_tokens: int = Field(description="the most tokens of a forward pass, padding included")
    recomputation: Literal["unsloth"] | bool = Field(description="as lora.use_gradient_checkpointing")
    bits: int = Field(description="of a weight of the base")
    predicted_bytes: int = Field(description="the peak of the device's memory")
    predicted_seconds: float | None = Field(None, description="of a mean step; null: the device's speed is not known")
    reason: str


class MemoryMeasured(Event):
    """The real peak of the longest step against the predicted one, or the speed of a training at its end."""

    kind: Literal["memory_measured"] = "memory_measured"
    shape: str = Field(max_length=128, description="the sizes of the base")
    held_bytes: int = Field(description="predicted: what does not depend on the tokens")
    predicted_bytes: int = Field(description="the peak as it was predicted without a correction")
    measured_bytes: int | None = Field(None, description="the peak that the allocator handed out")
    operations_per_second: float | None = Field(None, description="floating point operations of the training's steps")


class StepMetrics(Contract):
    """The measurements of a training step, in the form in which they are reported, stored and shown.

    A new field needs a default, because stored rows do not have it.
    """

    step: int
    total_steps: int
    epoch: float
    loss: float | None = Field(description="mean over supervised tokens; null if it was not finite")
    learning_rate: float | None
    grad_norm: float | None
    tokens: int = Field(description="tokens trained on since step 1, without padding")
    tokens_per_second: float
    seconds: float = Field(description="since the first step began")
    memory_bytes: int = Field(description="peak memory of the GPU, or of the process if there is no GPU")
    gpu_memory_bytes: int | None = None
    metrics: dict[str, float] = Field({}, description="figures of the training method, by name, such as entropy")


class StepEvent(Event, StepMetrics):
    """The measurements of one step."""

    kind: str


class StepLogged(StepEvent):
    """A point of the metrics, at each logging step and the last step. `loss` is the mean since the previous point."""

    kind: Literal["step"] = "step"


class StepTaken(StepEvent):
    """A step that is not logged, about once a second. It only updates the job's progress and is not stored."""

    kind: Literal["taken"] = "taken"


class StartTimes(Contract):
    """How many seconds each part of a training's start took, in the form in which they are reported, stored and shown.

    The parts follow one another: imports, load, first step.
    """

    is_warm: bool = Field(description="whether the process had its imports before it was given the job (a warm spare)")
    import_seconds: float = Field(description="from the start of the work on the order until libraries are imported")
    load_seconds: float = Field(description="until the first step began: model, rows, checkpoint, a first evaluation")
    first_step_seconds: float
    compile_seconds: float | None = Field(
        description="how much longer the first step took than the faster of the next two; null: there was none"
    )


class TrainingStarted(Event, StartTimes):
    """Written after the third step of an attempt, or after its last one."""

    kind: Literal["started"] = "started"
    began_at: datetime = Field(description="when the work on the order began")


class Evaluated(Event):
    kind: Literal["eval"] = "eval"
    step: int
    eval_loss: float | None
    eval_seconds: float
    metrics: dict[str, float] = Field({}, description="figures of the training method, by name")


class BestEvaluation(Contract):
    """The best evaluation of a training, by `training.metric_for_best_model`."""

    step: int
    metric: str
    value: float


class BestChanged(Event):
    """Another evaluation is the best now. After a resume it is that of the checkpoint, and null if that has none."""

    kind: Literal["best"] = "best"
    best: BestEvaluation | None


class CheckpointSaved(Event):
    """A checkpoint is complete on disk. `worker.checkpoints` describes its content."""

    kind: Literal["checkpoint"] = "checkpoint"
    step: int
    path: str
    bytes: int
    sha256: str = Field(description="of the manifest, which holds the sha256 of every file")
    seconds: float = Field(description="how long the training paused to save it")


class CheckpointRemoved(Event):
    """An older checkpoint was removed, because only the newest ones and the best one are kept."""

    kind: Literal["checkpoint_removed"] = "checkpoint_removed"
    step: int
    path: str


class Resumed(Event):
    """The training continues after this step. What earlier attempts reported of later steps is superseded."""

    kind: Literal["resumed"] = "resumed"
    step: int


class AttemptInterrupted(Event):
    """The last event of an attempt that was stopped on request, after it saved a checkpoint of this step."""

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
    sha256: str | None = Field(None, description="the whole hash; null: of a trainer of an older version")


class ArtifactSaved(Event):
    """Another result than the adapter is complete on disk, in a folder of its own below the job's folder."""

    kind: Literal["artifact"] = "artifact"
    artifact_kind: str = Field(pattern="^[a-z][a-z0-9_-]{0,31}$", description="such as export")
    name: str = Field(pattern=r"^[^\x00-\x1f\x7f]{1,255}$")
    path: str
    sha256: str = Field(pattern="^[0-9a-f]{64}$", description="of the names and contents of its files")
    bytes: int


class Verified(Event):
    """The engine has verified that the adapter answers there as in the trainer. Written by the worker."""

    kind: Literal["verified"] = "verified"
    proof: Proof
    seconds: float = Field(description="how long it took in this attempt, with the wait for the engine")


class SourcesChecked(Event):
    """The last event of a check: everything that the spec names exists and fits."""

    kind: Literal["checked"] = "checked"


class Failed(Event):
    """The last event of an attempt that failed. The message never holds a traceback or a secret."""

    kind: Literal["failed"] = "failed"
    blame: Blame
    code: str
    message: str
    hint: str | None = None
    param: str | None = None
    details: list[dict[str, Any]] = []


class Finished(Event):
    """The last event of an attempt that succeeded."""

    kind: Literal["finished"] = "finished"
    steps: int
    train_seconds: float
    final_loss: float | None
    tokens: int
    adapter_step: int | None = Field(None, description="the step whose weights the adapter has")
    best: BestEvaluation | None = None
    stopped_early: str | None = Field(None, description="why the training ended before its last step")


AttemptEvent = Annotated[
    PhaseStarted
    | Noticed
    | DataPrepared
    | RowsChecked
    | SpecPinned
    | SpecResolved
    | LayoutChosen
    | MemoryMeasured
    | StepLogged
    | StepTaken
    | TrainingStarted
    | Evaluated
    | BestChanged
    | CheckpointSaved
    | CheckpointRemoved
    | Resumed
    | AttemptInterrupted
    | AdapterSaved
    | ArtifactSaved
    | Verified
    | SourcesChecked
    | Failed
    | Finished,
    Field(discriminator="kind"),
]
ATTEMPT_EVENT: TypeAdapter[AttemptEvent] = TypeAdapter(AttemptEvent)
