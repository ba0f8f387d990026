"""Summaries of the metrics of a job, so that a curve of millions of steps is read in a few hundred rows.

The events of a job are numbered. A summary of level 0 is of SMALLEST consecutive events, one of a higher level is of
FACTOR summaries of the level below. It keeps four points of every series, each with its step: the first, the lowest,
the highest and the last. Events never change, so neither do summaries: each is stored once all of its events are. What
a later attempt superseded is left out when they are read, which is why the points of each attempt are kept apart.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError
from sqlalchemy import ColumnElement, and_, func, insert, or_, select
from sqlalchemy.orm import Session

from app.contracts.stored import Stored
from app.jobs import repository
from app.jobs.models import JobEvent, MetricSummary
from app.jobs.queue.attempts import step_of
from app.scope import Scope

SMALLEST, FACTOR = 16, 4
KINDS = ("step", "eval")
# The level of an event itself.
EVENT = -1
# The most events that are summarised in one transaction. More are waiting only if an older version stored them.
MOST_AT_ONCE = 1024 * SMALLEST
# The most events without a summary that are read. Of more, an even sample is.
MOST_EVENTS = 5000

Point = tuple[int, int | float]
Series = dict[str, list[Point]]


class PointsOfAttempt(Stored):
    """The points of one kind that one attempt reported among consecutive events."""

    kind: str
    attempt: int
    first_step: int
    last_step: int
    count: int
    series: Series


STORED = TypeAdapter(list[PointsOfAttempt])


@dataclass(frozen=True)
class Node:
    """What one attempt reported within a summary, or by one event, which has its fields as they are stored."""

    level: int
    number: int
    points: PointsOfAttempt
    fields: dict[str, Any] | None = None


def summarise(session: Session, scope: Scope, job_id: str, last_seq: int) -> None:
    """Store the summaries that became complete. The caller holds the lock of the job's row."""
    begin = _count(session, scope, job_id)
    end = min(last_seq // SMALLEST, begin + MOST_AT_ONCE // SMALLEST)
    if begin >= end:
        return
    session.flush()
    within = (JobEvent.seq > begin * SMALLEST, JobEvent.seq <= end * SMALLEST, JobEvent.kind.in_(KINDS))
    of_job = (JobEvent.job_id == job_id, repository.is_permitted(scope, job_id))
    query = select(JobEvent.seq, JobEvent.kind, JobEvent.epoch, JobEvent.payload).where(*of_job)
    found: defaultdict[int, list[PointsOfAttempt]] = defaultdict(list)
    for seq, kind, epoch, payload in session.execute(query.where(*within).order_by(JobEvent.seq)):
        found[(seq - 1) // SMALLEST] += _of_event(kind, epoch, payload)
    level = 0
    while begin < end:
        stored = {number: merged(found[number]) for number in range(begin, end)}
        session.execute(insert(MetricSummary), [_row(job_id, level, number, stored[number]) for number in stored])
        begin, end, level = begin // FACTOR, end // FACTOR, level + 1
        below = and_(MetricSummary.level == level - 1, _numbers(begin * FACTOR, end * FACTOR))
        found = defaultdict(list)
        for node in _nodes(session, scope, job_id, below) if begin < end else ():
            found[node.number // FACTOR].append(node.points)


def _row(job_id: str, level: int, number: int, parts: Sequence[PointsOfAttempt]) -> dict[str, Any]:
    dumped = [part.model_dump(mode="json") for part in parts]
    return {"job_id": job_id, "level": level, "number": number, "parts": dumped}


def _count(session: Session, scope: Scope, job_id: str) -> int:
    """Return the number of summaries of level 0. Of each higher level there is the FACTOR-th part."""
    of_events = (MetricSummary.job_id == job_id, MetricSummary.level == 0, repository.is_permitted(scope, job_id))
    newest = session.scalar(select(func.max(MetricSummary.number)).where(*of_events))
    return 0 if newest is None else newest + 1


def _of_event(kind: str, epoch: int, payload: Mapping[str, Any]) -> Iterator[PointsOfAttempt]:
    """Yield the points of an event. One without a readable step has none."""
    step = step_of(dict(payload))
    if step is not None:
        series: Series = {name: [(step, value)] for name, value in _numbers_in(payload) if name != "step"}
        yield PointsOfAttempt(kind=kind, attempt=epoch, first_step=step, last_step=step, count=1, series=series)


def _numbers_in(fields: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, int | float]]:
    """Yield every number with its name, and those of an object within as `object.name`."""
    for name, value in fields.items():
        if isinstance(value, dict) and not prefix:
            yield from _numbers_in(value, f"{name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{prefix}{name}", value


def merged(parts: Iterable[PointsOfAttempt]) -> list[PointsOfAttempt]:
    """Join the points of each kind and attempt."""
    groups: defaultdict[tuple[str, int], list[PointsOfAttempt]] = defaultdict(list)
    for part in parts:
        groups[part.kind, part.attempt].append(part)
    return [
        PointsOfAttempt(
            kind=kind,
            attempt=attempt,
            first_step=min(part.first_step for part in group),
            last_step=max(part.last_step for part in group),
            count=sum(part.count for part in group),
            series=thinned(part.series for part in group),
        )
        for (kind, attempt), group in groups.items()
    ]


def thinned(several: Iterable[Series]) -> Series:
    """Join series, and keep the first, the lowest, the highest and the last point of each."""
    joined: Series = {}
    for one in several:
        for name, points in one.items():
            joined.setdefault(name, []).extend(points)
    return {name: _thinned(sorted(points)) for name, points in joined.items()}


def _thinned(points: list[Point]) -> list[Point]:
    by_value = [points[0], min(points, key=_value), max(points, key=_value), points[-1]]
    return sorted(set(by_value))


def _value(point: Point) -> int | float:
    return point[1]


def covering(session: Session, scope: Scope, job_id: str, kind: str, fewest: int) -> list[Node]:
    """Return nodes that together hold all points of a kind: of the highest level that has at least `fewest` summaries,
    and of the levels below what is newer than these."""
    count, level = _count(session, scope, job_id), 0
    while count // FACTOR ** (level + 1) >= fewest:
        level += 1
    wanted = [and_(MetricSummary.level == level, MetricSummary.number < count // FACTOR**level)]
    for lower in range(level):
        newer = count // FACTOR ** (lower + 1) * FACTOR
        wanted.append(and_(MetricSummary.level == lower, MetricSummary.number >= newer))
    found = [node for node in _nodes(session, scope, job_id, or_(*wanted)) if node.points.kind == kind]
    events, _ = repository.sample_events(session, scope, job_id, kind, after=count * SMALLEST, most=MOST_EVENTS)
    return [*found, *_event_nodes(kind, events)]


def split(session: Session, scope: Scope, job_id: str, kind: str, level: int, numbers: Sequence[int]) -> list[Node]:
    """Return the nodes of the next lower level within some summaries of a level."""
    size = FACTOR if level > 0 else SMALLEST
    inside = [number * size + place for number in numbers for place in range(size)]
    if level == 0:
        return _event_nodes(kind, repository.numbered_events(session, scope, job_id, kind, [one + 1 for one in inside]))
    below = and_(MetricSummary.level == level - 1, MetricSummary.number.in_(inside))
    return [node for node in _nodes(session, scope, job_id, below) if node.points.kind == kind]


def _event_nodes(kind: str, events: Iterable[repository.Reported]) -> list[Node]:
    return [
        Node(EVENT, seq, points, payload)
        for seq, epoch, payload in events
        for points in _of_event(kind, epoch, payload)
    ]


def _nodes(session: Session, scope: Scope, job_id: str, is_wanted: ColumnElement[bool]) -> Iterator[Node]:
    """Yield what is stored. A summary that cannot be read has no points."""
    of_job = (MetricSummary.job_id == job_id, repository.is_permitted(scope, job_id))
    query = select(MetricSummary.level, MetricSummary.number, MetricSummary.parts).where(*of_job, is_wanted)
    for level, number, parts in session.execute(query):
        try:
            yield from (Node(level, number, part) for part in STORED.validate_python(parts))
        except ValidationError:
            continue


def _numbers(begin: int, end: int) -> ColumnElement[bool]:
    return and_(MetricSummary.number >= begin, MetricSummary.number < end)
