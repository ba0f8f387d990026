"""How a browser presents a key: in a cookie that scripts cannot read, and with a token for every request that changes.

The cookie holds the key itself, so it is checked against the database like every key, and ends with it.
"""

import hashlib
import hmac
from http.cookies import CookieError, SimpleCookie
from urllib.parse import quote

from starlette.responses import RedirectResponse, Response

from app.access.keys import PresentedKey, read_key
from app.errors import Forbidden
from app.known_hosts import SAFE_METHODS

COOKIE = "tunesmith_key"
TOKEN_HEADER = "x-csrf-token"
PAGES, SIGN_IN, PAGE_ASSETS = "/ui", "/ui/sign-in", "/ui/assets/"
# For these a cookie is not looked at, so that a browser with an old one can sign in again.
WITHOUT_COOKIE = (SIGN_IN, PAGE_ASSETS)
TOKEN_BYTES = 16


def cookie_key(cookies: str, method: str, path: str, token: str) -> PresentedKey | None:
    """Return the key in the `Cookie` header of a request, or None. `token`: its X-CSRF-Token.

    Raises Forbidden if a request that changes something has not the token of the cookie's key.
    """
    if not cookies or path.startswith(WITHOUT_COOKIE):
        return None
    presented = _read(cookies)
    if presented is None or method in SAFE_METHODS:
        return presented
    if not hmac.compare_digest(token.encode(), csrf_token(presented).encode()):
        expected = "the token of the page, because a cookie was sent: load the page again"
        raise Forbidden(f"{TOKEN_HEADER}: expected {expected}", param=TOKEN_HEADER, code="wrong_csrf_token")
    return presented


def csrf_token(presented: PresentedKey) -> str:
    """Return the token of a key. Who does not know the key cannot compute it."""
    secret = presented.secret.encode()
    return hashlib.blake2b(key=secret, digest_size=TOKEN_BYTES, person=b"tunesmith csrf").hexdigest()


def set_cookie(response: Response, presented: PresentedKey, *, is_https: bool) -> None:
    response.set_cookie(COOKIE, presented.text, httponly=True, samesite="strict", secure=is_https, path="/")


def to_sign_in(path: str, headers: dict[str, str]) -> Response | None:
    """Return what leads a browser that asked for a page to the form for a key; None if it asked for something else."""
    is_page = path == PAGES or path.startswith(f"{PAGES}/")
    if not is_page:
        return None
    if "hx-request" in headers:
        return Response(headers={"hx-redirect": SIGN_IN})
    return RedirectResponse(f"{SIGN_IN}?back={quote(path)}", status_code=303)


def _read(cookies: str) -> PresentedKey | None:
    try:
        found = SimpleCookie(cookies).get(COOKIE)
    except CookieError:
        return None
    return None if found is None else read_key(found.value)
