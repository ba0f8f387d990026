"""The orders that a worker gives its child process, as one JSON file with absolute paths.

Everything is decided in an order, except what depends on the hardware.
"""

from pathlib import Path

from pydantic import Field

from app.contracts.base import Contract
from app.contracts.hub import MOST_BYTES
from app.contracts.model_card import ModelCard
from app.contracts.plan import JobPlan

# The prefix of a folder's revision. The hash of its files follows, in 64 hexadecimal digits.
LOCAL_REVISION = "sha256-"
# The error code if the weights of a base were replaced since the training.
BASE_REPLACED = "base_replaced"


class BaseRef(Contract):
    """The weights of a base model: a folder on this host, or a hub id.

    `revision`: the hash of the folder's files, or a commit of the hub; null: the present one. `scaled_to`: the
    positions to which RoPE is scaled linearly; null: not changed.
    """

    source: str
    is_local: bool
    revision: str | None = None
    scaled_to: int | None = None


class SourceFile(Contract):
    """A dataset file on this host. `filename` is the name under which it was uploaded, only a label."""

    path: Path
    filename: str


class CheckOrder(Contract):
    """One check of everything that a spec names. The rows are written to `data_dir`, which is created again."""

    job_id: str
    epoch: int
    spec: JobPlan
    base: BaseRef
    train_file: SourceFile | None
    eval_file: SourceFile | None
    origin_revision: str | None = Field(None, description="revision of the base of `continue_from`, if known")
    max_unpacked_bytes: int
    max_hub_bytes: int
    data_dir: Path
    cache_dir: Path
    max_cache_bytes: int
    events: Path
    is_confined: bool = Field(True, description="whether the kernel restricts the process to the paths of its order")


class TrainingOrder(Contract):
    """One training attempt. Paths are absolute; `app.contracts.rows` describes the rows."""

    job_id: str
    epoch: int
    spec: JobPlan
    base: BaseRef
    train_rows: Path
    eval_rows: Path | None
    tokenizer: Path
    events: Path
    work_dir: Path
    adapter_dir: Path
    checkpoints: Path = Field(description="the job's folder of complete checkpoints, of all its attempts")
    resume_from: Path | None = Field(None, description="a verified checkpoint; null: from the first step")
    start_from: Path | None = Field(None, description="the folder of an adapter whose weights this job begins with")
    cache_dir: Path | None = Field(None, description="where the hashes of a local base's files are cached")
    card: ModelCard | None = Field(None, description="of the base; null: of a job that an older version has checked")
    memory_correction: float = Field(1.0, gt=0, description="measured share of the memory that is predicted for tokens")
    memory_limit_bytes: int | None = Field(
        None, description="of a GPU that the engine uses too, with what libraries take; null: all that is free"
    )
    operations_per_second: float | None = Field(None, gt=0, description="measured of trainings on this device")
    ranks: int = Field(1, ge=1, description="processes that compute each step together, on a GPU each")
    devices: tuple[str, ...] = Field(
        (), description="the GPU of each rank, as in CUDA_VISIBLE_DEVICES; none: all ranks use the CPU"
    )
    tracking: Path | None = Field(None, description="the job's folder of what trackers write; null: it has none")
    pulse: Path = Field(description="a file that the trainer touches at every step; otherwise it counts as hung")
    max_hub_bytes: int = Field(MOST_BYTES, description="of a base that is downloaded")
    is_confined: bool = Field(True, description="as of a check")
    is_fetching_confined: bool = Field(True, description="as `is_confined`, for the process that downloads the base")
