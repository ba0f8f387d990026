"""How long a job has been in its status or its phase, by the times of its events."""

from datetime import UTC, datetime

from app.cli.amounts import span
from app.cli.client import StreamedEvent
from app.contracts.events import Phase
from app.jobs.states import ENDED

# What a phase that reports no progress is doing.
DOING: dict[str, str] = {
    Phase.DOWNLOAD: "the model",
    Phase.LOAD: "model, LoRA and rows",
    Phase.EVAL: "loss of the held-out rows",
    Phase.SAVE: "recording answers for the proof, then writing",
    Phase.VERIFY: "the engine has to give the same answers",
}


class PhaseClock:
    """The status or phase that a job is in, and since when."""

    def __init__(self) -> None:
        self.name = "waiting"
        self._is_phase = False
        self._first: datetime | None = None
        self._since = datetime.now(UTC)
        self._whole: float | None = None

    def enter(self, event: StreamedEvent) -> str | None:
        """Follow an event. Returns a line about the phase that it has ended, such as `load took 0:00:12`."""
        if event.kind not in ("status", "phase") or event.fields[event.kind] == self.name:
            return None
        at = datetime.fromisoformat(event.fields["at"]) if "at" in event.fields else datetime.now(UTC)
        took = f"{self.name} took {span((at - self._since).total_seconds())}" if self._is_phase else None
        self.name, self._since, self._is_phase = event.fields[event.kind], at, event.kind == "phase"
        self._first = self._first or at
        if self.name in ENDED:
            self._whole = (at - self._first).total_seconds()
        return took

    def seconds(self) -> float:
        """Of the status or phase; of a job that has ended, from its first event to its last."""
        return self._whole if self._whole is not None else (datetime.now(UTC) - self._since).total_seconds()
