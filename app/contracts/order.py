"""What a worker hands its child process: one JSON file, absolute paths, all decided but what hardware decides."""

from pathlib import Path

from pydantic import Field

from app.contracts.base import Contract
from app.contracts.hub import MOST_BYTES
from app.contracts.spec import JobSpec

# How the revision of a folder begins: the hash over its files follows, in 64 hexadecimal digits.
LOCAL_REVISION = "sha256-"
# The code of whatever is refused since a base has other weights now than were trained on.
BASE_REPLACED = "base_replaced"


class BaseRef(Contract):
    """Which weights a base model has: those of a folder on this host, or of a hub id.

    `revision`: the hash of the folder's files, or a commit of the hub; null: whatever is there. `scaled_to`: the
    positions to which RoPE is scaled linearly; null: as the files say.
    """

    source: str
    is_local: bool
    revision: str | None = None
    scaled_to: int | None = None


class SourceFile(Contract):
    """A dataset file on this host; the name it was uploaded under is a label."""

    path: Path
    filename: str


class CheckOrder(Contract):
    """One check of everything that a spec names. The rows to train on are written to `data_dir`, which is made anew."""

    job_id: str
    epoch: int
    spec: JobSpec
    base: BaseRef
    train_file: SourceFile | None
    eval_file: SourceFile | None
    origin_revision: str | None = Field(None, description="of the base that `continue_from` was trained on, if known")
    max_unpacked_bytes: int
    max_hub_bytes: int
    data_dir: Path
    cache_dir: Path
    max_cache_bytes: int
    events: Path
    has_walls: bool = Field(True, description="whether the kernel keeps the process to the paths of its order")


class TrainingOrder(Contract):
    """One training attempt. Paths are absolute; rows are as `app.contracts.rows` says."""

    job_id: str
    epoch: int
    spec: JobSpec
    base: BaseRef
    train_rows: Path
    eval_rows: Path | None
    tokenizer: Path
    events: Path
    work_dir: Path
    adapter_dir: Path
    checkpoints: Path = Field(description="the job's folder of complete checkpoints, of all its attempts")
    resume_from: Path | None = Field(None, description="a verified checkpoint; null: from the first step")
    start_from: Path | None = Field(None, description="an adapter's folder whose weights this job begins with")
    cache_dir: Path | None = Field(None, description="where the hashes of a local base's files are kept")
    pulse: Path = Field(description="a file that is touched at every step: a trainer that does not is hung")
    max_hub_bytes: int = Field(MOST_BYTES, description="of a base that is downloaded")
    has_walls: bool = Field(True, description="as of a check")
    fetch_has_walls: bool = Field(True, description="as `has_walls`, for the process that downloads the base")
