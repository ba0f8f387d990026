"""How far a running job is: what `GET /jobs/{id}` shows of its newest logged step."""

from typing import Any

from app.contracts.events import StepLogged


def progress_of(step: StepLogged) -> dict[str, Any]:
    """Percent of the optimizer steps, and the seconds left at the mean speed so far."""
    remaining = step.total_steps - step.step
    return {
        "step": step.step,
        "total_steps": step.total_steps,
        "percent": round(100 * step.step / step.total_steps, 2),
        "eta_seconds": round(step.seconds / step.step * remaining, 1) if step.step else None,
        **step.model_dump(mode="json", include=_SHOWN),
    }


_SHOWN = {
    "epoch",
    "loss",
    "learning_rate",
    "grad_norm",
    "tokens",
    "tokens_per_second",
    "seconds",
    "memory_bytes",
    "gpu_memory_bytes",
}
