"""Signing in with a key, and out again."""

from typing import Annotated, cast

from fastapi import Form, Request
from starlette.responses import RedirectResponse, Response

from app.access.authenticating import NOT_VALID, Keys
from app.access.keys import read_key
from app.errors import TooMany, Unauthenticated
from app.pages.rendering import page
from app.pages.routing import pages
from app.web.browser_sessions import COOKIE, PAGES, SIGN_IN, set_cookie

LONGEST = 2000
router = pages()


@router.get(SIGN_IN)
async def form(request: Request, back: str = PAGES) -> Response:
    return page(request, "sign_in.html", back=_of_this_service(back), wrong=None)


@router.post(SIGN_IN)
async def sign_in(
    request: Request,
    key: Annotated[str, Form(max_length=LONGEST)] = "",
    back: Annotated[str, Form(max_length=LONGEST)] = PAGES,
) -> Response:
    """Check the key as any request would, and store it in the browser."""
    presented, keys = read_key(key.strip()), cast(Keys, request.app.state.keys)
    try:
        if presented is None:
            raise Unauthenticated(NOT_VALID)
        await keys.identity(presented)
    except (Unauthenticated, TooMany) as error:
        wrong = error.message
        return page(request, "sign_in.html", status=error.status, back=_of_this_service(back), wrong=wrong)
    response = RedirectResponse(_of_this_service(back), status_code=303)
    # A proxy that speaks TLS for the service hides it, but a browser names its origin when it sends a form.
    set_cookie(response, presented, is_https=request.headers.get("origin", "").startswith("https://"))
    return response


@router.post(f"{PAGES}/sign-out")
async def sign_out() -> Response:
    response = Response(headers={"hx-redirect": SIGN_IN})
    response.delete_cookie(COOKIE, path="/")
    return response


def _of_this_service(back: str) -> str:
    """Return a path below /ui, never an address of another site."""
    return back if back == PAGES or back.startswith(f"{PAGES}/") else PAGES
