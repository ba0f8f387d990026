"""The progress that `GET /jobs/{id}` shows: of the check of the rows, and of the training."""

from typing import Any

from app.contracts.events import RowsChecked, StepEvent


def checking_of(rows: RowsChecked) -> dict[str, Any]:
    """Add the percent of the source's bytes, which is None if the size is not known, as for rows of the hub."""
    percent = min(100.0, round(100 * rows.bytes_read / rows.total_bytes, 2)) if rows.total_bytes else None
    return {**rows.model_dump(mode="json", exclude={"kind", "at"}), "percent": percent}


def progress_of(step: StepEvent) -> dict[str, Any]:
    """Add the percent of the optimizer steps, and the seconds left at the mean speed so far."""
    remaining = step.total_steps - step.step
    return {
        **step.model_dump(mode="json", exclude={"kind", "at"}),
        "percent": round(100 * step.step / step.total_steps, 2),
        "eta_seconds": round(step.seconds / step.step * remaining, 1) if step.step else None,
    }
