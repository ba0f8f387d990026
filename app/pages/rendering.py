"""Renders the pages from templates. Everything that a user may have set is escaped.

A page loads nothing but files of this service and runs no script that stands in it, so what a user has written into a
name, a label or a row stays text.
"""

import hashlib
import json
from functools import cache, partial
from pathlib import Path
from typing import Any

from fastapi import Request
from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.responses import HTMLResponse

from app import __version__
from app.access.caller import Identity
from app.access.permissions import Permission
from app.pages import wording
from app.web.browser_sessions import PAGE_ASSETS, csrf_token

STATIC = Path(__file__).parent / "static"
# Pictures may be drawn into a page (`data:`), styles and scripts may not.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
# What a key holder reads on a page is stored in no shared cache.
# With `no-referrer` a browser would hide the origin of a form.
HEADERS = {"content-security-policy": POLICY, "cache-control": "private, no-cache", "referrer-policy": "same-origin"}


@cache
def asset(name: str) -> str:
    """Return the address of a static file, which changes with its content."""
    digest = hashlib.sha256((STATIC / name).read_bytes()).hexdigest()[:16]
    return f"{PAGE_ASSETS}{name}?v={digest}"


@cache
def environment() -> Environment:
    made = Environment(
        loader=PackageLoader("app.pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals |= {"asset": asset, "version": __version__}
    made.filters |= wording.FILTERS
    return made


def page(request: Request, template: str, *, status: int = 200, **values: Any) -> HTMLResponse:
    """Return the page of a template for whoever sent the request.

    A template also knows `me` (the name of the caller), `can` (whether the caller has a permission), `csrf` (what the
    page sends with each change), `is_signed_in` (by a key) and `path`.
    """
    identity: Identity = request.scope["identity"]
    presented = request.scope.get("presented_key")
    values = {
        "me": identity.name,
        "can": partial(_can, identity),
        "csrf": json.dumps({"X-CSRF-Token": csrf_token(presented) if presented else ""}),
        "is_signed_in": presented is not None,
        "path": request.url.path,
        **values,
    }
    return HTMLResponse(environment().get_template(template).render(values), status_code=status, headers=HEADERS)


def _can(identity: Identity, permission: str) -> bool:
    return any(Permission(permission) in grant.permissions for grant in identity.grants)
