"""What a worker hands its child process: one JSON file, absolute paths, everything decided but what hardware decides."""

from pathlib import Path

from app.contracts.base import Contract
from app.contracts.spec import JobSpec


class BaseRef(Contract):
    """Where a base model's weights are: a folder on this host, or a hub id with a pinned revision."""

    source: str
    is_local: bool
    revision: str | None = None


class TrainingOrder(Contract):
    """One training attempt. Paths are absolute; records are lines of `app.contracts.records.Record`."""

    job_id: str
    epoch: int
    spec: JobSpec
    base: BaseRef
    train_records: Path
    eval_records: Path | None
    events: Path
    work_dir: Path
    adapter_dir: Path
