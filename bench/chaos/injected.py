"""What a fault tells of itself."""

from dataclasses import dataclass


@dataclass
class Injected:
    """One fault. `job` is the one whose trainer it hit, `pid` that trainer; `back_at`: when what was hit answered again
    (`time.monotonic`), where that is not seen in the job's steps."""

    kind: str
    at: float
    job: str | None = None
    pid: int | None = None
    note: str = ""
    back_at: float | None = None
