"""The loss curve of a job over all its attempts, as if nothing had interrupted it."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from app.jobs import repository
from app.jobs.metric_summaries import EVENT, Node, PointsOfAttempt, Series, covering, split, thinned
from app.jobs.queue.attempts import step_of
from app.jobs.schemas import Metrics
from app.jobs.states import Stage
from app.scope import Scope

# The most points of a series, without `points`. A curve on a screen cannot show more.
MOST_POINTS = 5000
# The highest value of `points`.
MOST_THINNED = 2000
# A group of steps is shown by its first, lowest, highest and last point.
POINTS_A_GROUP = 4


def superseded_behind(session: Session, scope: Scope, job_id: str) -> dict[int, int]:
    """Return the last step that counts of each attempt, without checks, after which one resumed at an earlier step."""
    limits: dict[int, int] = {}
    lowest: int | None = None
    working = [one for one in repository.attempts(session, scope, job_id) if one.stage is not Stage.CHECK]
    for attempt in reversed(working):
        if lowest is not None:
            limits[attempt.epoch] = lowest
        if attempt.resume_step is not None:
            lowest = attempt.resume_step if lowest is None else min(lowest, attempt.resume_step)
    return limits


def series(session: Session, scope: Scope, job_id: str) -> Metrics:
    """Return each step and evaluation once, without the steps of an attempt that a later attempt repeated."""
    limits = superseded_behind(session, scope, job_id)
    steps, every_nth_step = _sampled(session, scope, job_id, "step", limits)
    evals, every_nth_eval = _sampled(session, scope, job_id, "eval", limits)
    return Metrics(steps=steps, evals=evals, every_nth_step=every_nth_step, every_nth_eval=every_nth_eval)


def _sampled(
    session: Session, scope: Scope, job_id: str, kind: str, limits: Mapping[int, int]
) -> tuple[list[dict[str, Any]], int | None]:
    """Return the points of a series, ordered by step, and n: there is one of each n events, and the last.

    Points whose step cannot be read are left out.
    """
    events, nth = repository.sample_events(session, scope, job_id, kind, after=0, most=MOST_POINTS)
    points: dict[int, dict[str, Any]] = {}
    for _, epoch, payload in events:
        step = step_of(payload)
        if step is not None and step <= limits.get(epoch, step):
            points[step] = payload
    return [points[step] for step in sorted(points)], nth


@dataclass(frozen=True)
class StepRange:
    """The steps that are shown: from one to another, and of a superseded attempt none behind its limit."""

    from_step: int
    to_step: int | None
    limits: Mapping[int, int]

    def overlaps(self, points: PointsOfAttempt) -> bool:
        return points.first_step <= self._end(points) and points.last_step >= self.from_step

    def holds(self, points: PointsOfAttempt) -> bool:
        return points.first_step >= self.from_step and points.last_step <= self._end(points)

    def _end(self, points: PointsOfAttempt) -> float:
        return min(self.limits.get(points.attempt, math.inf), math.inf if self.to_step is None else self.to_step)


def thinned_series(
    session: Session, scope: Scope, job_id: str, points: int, from_step: int, to_step: int | None
) -> Metrics:
    """Return the same series with at most `points` points each, the lowest and the highest of each group among them."""
    shown = StepRange(from_step, to_step, superseded_behind(session, scope, job_id))
    steps, every_nth_step = _thinned(session, scope, job_id, "step", shown, points)
    evals, every_nth_eval = _thinned(session, scope, job_id, "eval", shown, points)
    return Metrics(steps=steps, evals=evals, every_nth_step=every_nth_step, every_nth_eval=every_nth_eval)


def _thinned(
    session: Session, scope: Scope, job_id: str, kind: str, shown: StepRange, points: int
) -> tuple[list[dict[str, Any]], int | None]:
    """Return the points, and 1 if these are all, or None."""
    nodes = _read(session, scope, job_id, kind, shown, points)
    if len(nodes) <= points and all(node.level == EVENT for node in nodes):
        whole = {node.points.first_step: node.fields or {} for node in sorted(nodes, key=_number)}
        return [whole[step] for step in sorted(whole)], 1
    return _rows(_grouped(nodes, points // POINTS_A_GROUP)), None


def _number(node: Node) -> int:
    return node.number


def _read(session: Session, scope: Scope, job_id: str, kind: str, shown: StepRange, points: int) -> list[Node]:
    """Return nodes with all points that are shown, and none beyond. None has more steps than a group."""
    nodes = [
        node for node in covering(session, scope, job_id, kind, points // POINTS_A_GROUP) if shown.overlaps(node.points)
    ]
    while numbers := _to_split(nodes, shown, points):
        level = max(level for level, _ in numbers)
        within = split(session, scope, job_id, kind, level, sorted({number for _, number in numbers}))
        kept = (node for node in nodes if (node.level, node.number) not in numbers)
        nodes = [*kept, *(node for node in within if shown.overlaps(node.points))]
    return nodes


def _to_split(nodes: Sequence[Node], shown: StepRange, points: int) -> set[tuple[int, int]]:
    """Return the summaries, all of one level, that are too coarse. All are, where every point can be shown."""
    summaries = [node for node in nodes if node.level != EVENT]
    if sum(node.points.count for node in nodes) > points:
        longest = _steps_of(nodes) * POINTS_A_GROUP // points + 1
        summaries = [node for node in summaries if _steps_of([node]) > longest or not shown.holds(node.points)]
    level = max((node.level for node in summaries), default=EVENT)
    return {(node.level, node.number) for node in summaries if node.level == level}


def _steps_of(nodes: Sequence[Node]) -> int:
    return max(node.points.last_step for node in nodes) - min(node.points.first_step for node in nodes) + 1


def _grouped(nodes: Sequence[Node], groups: int) -> list[Series]:
    """Join the nodes to groups of equally many steps."""
    first = min(node.points.first_step for node in nodes)
    steps = _steps_of(nodes)
    found: defaultdict[int, list[Series]] = defaultdict(list)
    for node in nodes:
        middle = (node.points.first_step + node.points.last_step) // 2
        found[(middle - first) * groups // steps].append(node.points.series)
    return [thinned(several) for several in found.values()]


def _rows(several: Sequence[Series]) -> list[dict[str, Any]]:
    """Return a row for each step with a point, with the fields that have one there."""
    rows: defaultdict[int, dict[str, Any]] = defaultdict(dict)
    for one in several:
        for name, points in one.items():
            for step, value in points:
                outer, _, inner = name.partition(".")
                if inner:
                    rows[step].setdefault(outer, {})[inner] = value
                else:
                    rows[step][name] = value
    return [{"step": step, **rows[step]} for step in sorted(rows)]
