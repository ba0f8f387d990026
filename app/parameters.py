"""What a request names beside its JSON body: a query parameter or a form field that its route does not have is refused.

Bodies refuse an unknown field by themselves (`app.contracts.base.Contract`).
"""

import difflib
from collections import Counter
from collections.abc import Sequence

from fastapi import Request
from fastapi.routing import APIRoute

from app.errors import InvalidRequest, Problem

LONGEST_NAME = 100
MOST_NAMED = 20


async def refuse_unknown_parameters(request: Request) -> None:
    """Depends on every route. Raises InvalidRequest for an unknown name, and for one that is given more than once."""
    route: APIRoute = request.scope["route"]
    asked = [name for name, _ in request.query_params.multi_items()]
    problems = _problems(asked, [field.alias for field in route.dependant.query_params], "query parameter")
    fields = [field.alias for field in route.dependant.body_params]
    if _is_form(request):
        sent = [name for name, _ in (await request.form()).multi_items()] if fields else []
        problems += _problems(sent, fields, "form field")
    if problems:
        raise InvalidRequest.of(problems)


def _is_form(request: Request) -> bool:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    return kind in ("multipart/form-data", "application/x-www-form-urlencoded")


def _problems(given: Sequence[str], known: Sequence[str], kind: str) -> list[Problem]:
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
