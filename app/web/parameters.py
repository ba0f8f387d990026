"""Refuses query parameters that a route does not have, and repeated ones where the route takes one.

Bodies refuse unknown fields by themselves (`app.contracts.base.Contract`, `app.files.receiving`).
"""

import difflib
from collections import Counter
from collections.abc import Sequence
from typing import Any, get_args, get_origin

from fastapi import Request
from fastapi.routing import APIRoute
from pydantic import AfterValidator

from app.contracts.base import check_text
from app.errors import InvalidRequest, Problem

LONGEST_NAME = 100
# The most entries of one page of a list.
LONGEST_PAGE = 1000
MOST_NAMED = 20


def _whole(text: str | None) -> str | None:
    check_text(text)
    return text


# Of a parameter that a query compares: PostgreSQL refuses a NUL in a text.
WholeText = AfterValidator(_whole)


async def refuse_unknown_parameters(request: Request) -> None:
    """A dependency of every route. Raises InvalidRequest for an unknown name, and for one that is given repeatedly."""
    route: APIRoute = request.scope["route"]
    fields = route.dependant.query_params
    repeatable = {field.alias for field in fields if _is_list(field.field_info.annotation)}
    given = [name for name, _ in request.query_params.multi_items()]
    once = [name for name in given if name not in repeatable]
    problems = problems_of(once, [field.alias for field in fields], "query parameter")
    if problems:
        raise InvalidRequest.of(problems)


def _is_list(annotation: Any) -> bool:
    return any(get_origin(each) is list for each in (annotation, *get_args(annotation)))


def problems_of(given: Sequence[str], known: Sequence[str], kind: str) -> list[Problem]:
    """Return the problems of the given names: unknown ones, and those that were given more than once."""
    wrong = [(name, count) for name, count in Counter(given).items() if count > 1 or name not in known]
    return [
        _twice(name, count, kind) if name in known else _unknown(name, known, kind)
        for name, count in wrong[:MOST_NAMED]
    ]


def _unknown(name: str, known: Sequence[str], kind: str) -> Problem:
    nearest = difflib.get_close_matches(name.lower().replace("-", "_"), known, n=1, cutoff=0.6)
    expected = f"one of {', '.join(known)}" if known else f"no {kind}"
    if nearest:
        expected += f"; did you mean {nearest[0]}?"
    shown = name[:LONGEST_NAME]
    return Problem(field=shown, code="unknown_parameter", found=f"the {kind} {shown!r}", expected=expected)


def _twice(name: str, count: int, kind: str) -> Problem:
    return Problem(field=name, code="given_twice", found=f"the {kind} {count} times", expected="it once")
