"""Serves scripts, styles and pictures. Their addresses change with their content, so browsers keep them for a year."""

from starlette.applications import Starlette
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from app.pages.rendering import STATIC
from app.web.browser_sessions import PAGE_ASSETS

KEPT = "public, max-age=31536000, immutable"


class KeptFiles(StaticFiles):
    """Static files that a browser need not ask for again."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        if response.status_code == 200 and scope["query_string"].startswith(b"v="):
            response.headers["cache-control"] = KEPT
        return response


def add_static_files(app: Starlette) -> None:
    """Compress them too; pages are not compressed, because they hold what a user sent beside a secret token."""
    app.mount(PAGE_ASSETS.rstrip("/"), GZipMiddleware(KeptFiles(directory=STATIC)), name="page-assets")
