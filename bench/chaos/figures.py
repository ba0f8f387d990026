"""What the faults cost: how often each was injected, how long its job stood still, how many steps were taken again."""

import statistics
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from bench.chaos.injected import Injected
from bench.chaos.journal import Life


def by_kind(injected: Sequence[Injected], lives: Sequence[Life]) -> dict[str, dict[str, Any]]:
    """A line for each kind. `recoveries` are jobs that took a step again, or services that answered again."""
    grouped: defaultdict[str, list[Injected]] = defaultdict(list)
    for one in injected:
        grouped[one.kind].append(one)
    return {kind: _figures(grouped[kind], lives) for kind in sorted(grouped)}


def _figures(injected: Sequence[Injected], lives: Sequence[Life]) -> dict[str, Any]:
    steps = [found for one in injected if (found := next_step(one, lives)) is not None]
    backs = [one.back_at - one.at for one in injected if one.back_at is not None]
    return {
        "injected": len(injected),
        "jobs_hit": sum(1 for one in injected if one.job is not None),
        "recoveries": len(steps) + len(backs),
        "next_step_seconds": _middle_and_worst([seconds for seconds, _ in steps]),
        "redone_steps": _middle_and_worst([float(redone) for _, redone in steps]),
        "back_seconds": _middle_and_worst(backs),
    }


def next_step(one: Injected, lives: Sequence[Life]) -> tuple[float, int] | None:
    """(seconds until another process took the job's next step, steps that it took again); None where none did."""
    if one.job is None:
        return None
    before = max(
        (step.step for life in lives if life.job == one.job for step in life.steps if step.ended <= one.at), default=0
    )
    later = [step for life in lives if life.job == one.job and life.pid != one.pid for step in life.steps]
    after = sorted((step for step in later if step.began > one.at), key=lambda step: step.began)
    if not after:
        return None
    # The process that was hit may have gone on for its last steps behind the fault.
    last = max(
        (step.step for life in lives if life.pid == one.pid and life.job == one.job for step in life.steps),
        default=before,
    )
    return after[0].ended - one.at, max(last - after[0].step + 1, 0)


def _middle_and_worst(values: Sequence[float]) -> dict[str, float] | None:
    if not values:
        return None
    return {"median": round(statistics.median(values), 2), "worst": round(max(values), 2), "of": len(values)}
