"""The messages between a worker and its warm spare, each one packet of a socket."""

from pathlib import Path

from pydantic import Field

from app.contracts.base import Contract


class SpareReady(Contract):
    """The spare has its imports and waits."""

    import_seconds: float
    memory_bytes: int = Field(description="resident and its own; files that it has mapped are not counted")
    threads: list[str] = Field(description="the names of its threads; one that is confined can have only one")
    has_gpu_context: bool = Field(description="whether it holds memory of a GPU")


class SpareOrder(Contract):
    """The training that the spare is to do now. Paths are absolute."""

    order: Path = Field(description="the file of a TrainingOrder; its folder is that of the attempt")
    output: Path = Field(description="the file to which it appends what it prints")
    latest: float = Field(
        description="a `time.monotonic()`; a spare that reads the order later waits for another renewal of its lease"
    )


class SpareAnswer(Contract):
    """Whether the spare does the training. If `refusal` says why not, it has left no trace of the order and ends."""

    refusal: str | None = None
