"""The router of pages. A page that cannot be shown says why, as a page."""

from collections.abc import Callable, Coroutine
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, BeforeValidator, StringConstraints

from app.database.connection import AWAY
from app.errors import ServiceError
from app.pages.rendering import page
from app.store.faults import StoreAway
from app.web.error_responses import of_storage
from app.web.validation import invalid_request

Value = TypeVar("Value")
# A field of a form that was left empty is not given.
OrEmpty = Annotated[Value | None, BeforeValidator(lambda sent: sent or None)]
# The last id of the page before.
After = OrEmpty[Annotated[str, StringConstraints(max_length=64)]]


class PageRoute(APIRoute):
    """A route whose errors are pages."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        answer = super().get_route_handler()

        async def shown(request: Request) -> Response:
            try:
                return await answer(request)
            except ServiceError as error:
                found = error
            except RequestValidationError as error:
                found = invalid_request(error.errors(), BaseModel, error.body)
            except (*AWAY, StoreAway) as error:
                found = of_storage(error, request.app.state.database)
            return page(request, "error.html", status=found.status, error=found)

        return shown


def pages() -> APIRouter:
    """Return a router for pages. They are not part of the description of the API."""
    return APIRouter(route_class=PageRoute, include_in_schema=False)
