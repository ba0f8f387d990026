"""Events of an attempt: made here, and as a process has written them to its file so far."""

import json
from typing import Any

from app.contracts.events import StepLogged


def a_step(step: int, **fields: Any) -> StepLogged:
    """A logged step of 60, whose figures follow from its number unless they are given."""
    usual = {"total_steps": 60, "epoch": step / 60, "loss": 1 / step, "learning_rate": 1e-4, "grad_norm": 1.0}
    spent = {"tokens": 10 * step, "tokens_per_second": 5.0, "seconds": float(step), "memory_bytes": 1}
    return StepLogged(**{"step": step, **usual, **spent, **fields})


def has_step(text: str, step: int) -> bool:
    """Whether a step as late as this one was logged. The last line may be half written."""
    lines = text[: text.rfind("\n") + 1].splitlines()
    return any(event["kind"] == "step" and event["step"] >= step for event in map(json.loads, lines))
