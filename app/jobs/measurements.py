"""What trainings measured on each kind of device and shape of base. It corrects the predictions of the next ones.

The rows belong to no project: they hold sizes and speeds, and nothing of a job.
"""

from dataclasses import dataclass
from statistics import median

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from app.contracts.events import MemoryMeasured
from app.contracts.layout_choice import bounded
from app.ids import new_id
from app.jobs.models import TrainingMeasurement, Worker

# So many of the newest rows are used, and so many are kept, of each device and shape.
NEWEST, KEPT = 5, 20
NEWEST_FIRST = (TrainingMeasurement.measured_at.desc(), TrainingMeasurement.id)


@dataclass(frozen=True)
class Measured:
    """`correction`: of what a prediction of memory adds for tokens. `rate`: operations a second; None: not known."""

    correction: float = 1.0
    rate: float | None = None


def store(session: Session, worker: str, event: MemoryMeasured) -> None:
    """Store what a training on a worker's device measured. Only the newest rows of this device and shape are kept."""
    device = session.scalar(select(Worker.device).where(Worker.name == worker))
    if device is None:
        return
    values = event.model_dump(exclude={"kind", "at"})
    session.add(TrainingMeasurement(id=new_id("measurement"), device=device, measured_at=event.at, **values))
    session.flush()
    of_both = (TrainingMeasurement.device == device, TrainingMeasurement.shape == event.shape)
    newest = select(TrainingMeasurement.id).where(*of_both).order_by(*NEWEST_FIRST).limit(KEPT)
    session.execute(delete(TrainingMeasurement).where(*of_both, TrainingMeasurement.id.not_in(newest)))


def measured(session: Session, device: str, shape: str) -> Measured:
    """Return the medians of the newest measurements."""
    of_both = (TrainingMeasurement.device == device, TrainingMeasurement.shape == shape)
    query = select(TrainingMeasurement).where(*of_both).order_by(*NEWEST_FIRST)
    peaks = session.scalars(query.where(TrainingMeasurement.measured_bytes.is_not(None)).limit(NEWEST)).all()
    speeds = session.scalars(query.where(TrainingMeasurement.operations_per_second.is_not(None)).limit(NEWEST)).all()
    shares = [_share(row) for row in peaks]
    rates = [row.operations_per_second for row in speeds if row.operations_per_second]
    return Measured(bounded(median(shares)) if shares else 1.0, median(rates) if rates else None)


def _share(row: TrainingMeasurement) -> float:
    """The measured share of what was predicted above what is held in any case."""
    of_tokens = max(1, row.predicted_bytes - row.held_bytes)
    return ((row.measured_bytes or row.predicted_bytes) - row.held_bytes) / of_tokens
