"""The stored checkpoints of a job, and which of them is that of the best evaluation."""

from sqlalchemy.orm import Session

from app.contracts.events import BestChanged
from app.contracts.stored import read
from app.jobs import repository
from app.jobs.schemas import CheckpointList, CheckpointView
from app.scope import Scope


def list_checkpoints(session: Session, scope: Scope, job_id: str) -> CheckpointList:
    """Return the checkpoints, the newest first."""
    found = [CheckpointView.model_validate(one) for one in repository.checkpoints(session, scope, job_id)]
    step = _best_step(session, scope, job_id)
    best = next((one for one in found if one.step == step), None)
    return CheckpointList(data=[one.model_copy(update={"is_best": one is best}) for one in found])


def _best_step(session: Session, scope: Scope, job_id: str) -> int | None:
    event = repository.newest_event(session, scope, job_id, "best")
    changed = read(BestChanged, event.payload) if event is not None else None
    return changed.best.step if changed is not None and changed.best is not None else None
