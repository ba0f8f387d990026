"""Several jobs beside each other."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Query, Request
from sqlalchemy.orm import Session
from starlette.responses import Response

from app.errors import InvalidRequest
from app.jobs import service
from app.jobs.routes import list_jobs
from app.jobs.schemas import JobDetail
from app.jobs.views.details import detail_of
from app.jobs.views.metrics import thinned_series
from app.pages.rendering import page
from app.pages.routing import pages
from app.pages.wording import NONE
from app.scope import Scope
from app.web.browser_sessions import PAGES
from app.web.dependencies import DatabaseDep, ReadCaller

MOST_JOBS = 4
JOBS_TO_CHOOSE = 20
# A thinned series keeps its lowest and its last point, however few it has.
FEWEST_POINTS = 8
# The value of a field that a spec does not have.
ABSENT = object()
router = pages()


@dataclass(frozen=True)
class SpecDifference:
    """A field of the resolved specs, and its value in each job as JSON."""

    path: str
    values: Sequence[str]


@dataclass(frozen=True)
class ComparedJob:
    """A job with the lowest and the last values of its curves, which are None where there is none."""

    job: JobDetail
    label: str
    steps: int | None
    last_loss: float | None
    lowest_loss: float | None
    last_eval_loss: float | None
    lowest_eval_loss: float | None
    seconds: float | None
    tokens: int | None
    tokens_per_second: float | None
    highest_memory_bytes: float | None


@router.get(f"{PAGES}/compare")
def show_comparison(
    request: Request,
    caller: ReadCaller,
    database: DatabaseDep,
    job: Annotated[list[str] | None, Query(max_length=50)] = None,
) -> Response:
    """Show the curves, the differing fields and the results of two to four jobs, and jobs to choose from."""
    ids = list(dict.fromkeys(one.strip() for one in job or () if one.strip()))
    if len(ids) > MOST_JOBS:
        raise InvalidRequest(f"job: found {len(ids)} jobs, expected at most {MOST_JOBS} to compare", param="job")
    with database.reader() as session:
        jobs = [detail_of(session, caller.scope, service.find(session, caller.scope, one)) for one in ids]
        compared = [_compared(session, caller.scope, one, _label(one, jobs)) for one in jobs]
    newest = list_jobs(caller, database, limit=JOBS_TO_CHOOSE).data
    return page(
        request,
        "compare.html",
        compared=compared,
        differences=list(differences([one.resolved_spec for one in jobs])),
        choices=[*jobs, *(one for one in newest if one.id not in ids)],
        chosen=ids,
        most=MOST_JOBS,
        runs=[[one.job.id, one.label] for one in compared],
    )


def differences(specs: Sequence[Any], path: str = "") -> Iterator[SpecDifference]:
    """Yield the fields that have not the same value in all specs, in the order of the first spec that has them."""
    groups = [spec for spec in specs if isinstance(spec, dict)]
    names = dict.fromkeys(name for group in groups for name in group)
    if names and all(isinstance(spec, dict) or spec in (None, ABSENT) for spec in specs):
        for name in names:
            within = [spec.get(name, ABSENT) if isinstance(spec, dict) else ABSENT for spec in specs]
            yield from differences(within, f"{path}.{name}".lstrip("."))
    elif any(spec != specs[0] for spec in specs):
        yield SpecDifference(path, [NONE if spec is ABSENT else json.dumps(spec, ensure_ascii=False) for spec in specs])


def _label(job: JobDetail, jobs: Sequence[JobDetail]) -> str:
    """Return the name of a job, with the end of its id if others have the name too."""
    same = [other for other in jobs if other.name == job.name]
    return job.name if len(same) == 1 else f"{job.name} …{job.id[-4:]}"


def _compared(session: Session, scope: Scope, job: JobDetail, label: str) -> ComparedJob:
    found = thinned_series(session, scope, job.id, FEWEST_POINTS, 0, None)
    newest = job.progress
    losses, evaluated = _values(found.steps, "loss"), _values(found.evals, "eval_loss")
    return ComparedJob(
        job=job,
        label=label,
        steps=newest.step if newest else None,
        last_loss=losses[-1] if losses else None,
        lowest_loss=min(losses, default=None),
        last_eval_loss=evaluated[-1] if evaluated else None,
        lowest_eval_loss=min(evaluated, default=None),
        seconds=newest.seconds if newest else None,
        tokens=newest.tokens if newest else None,
        tokens_per_second=newest.tokens / newest.seconds if newest and newest.seconds else None,
        highest_memory_bytes=max(_values(found.steps, "memory_bytes"), default=None),
    )


def _values(rows: Sequence[dict[str, Any]], name: str) -> list[float]:
    return [row[name] for row in rows if isinstance(row.get(name), int | float)]
