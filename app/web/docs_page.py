"""The page at /docs: Swagger UI from files of this server, with a policy that forbids the browser all other sources."""

import base64
import hashlib
import re
from importlib.resources import files

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse
from starlette.staticfiles import StaticFiles

PATH, ASSETS = "/docs", "/docs/assets"
INLINE_SCRIPT = re.compile(r"<script>(.*?)</script>", re.DOTALL)


def add_docs_page(app: FastAPI) -> None:
    """Add the page to an `app` that was made without one (`docs_url=None`, `redoc_url=None`)."""
    page = get_swagger_ui_html(
        openapi_url=app.openapi_url or "",
        title=app.title,
        swagger_js_url=f"{ASSETS}/swagger-ui-bundle.js",
        swagger_css_url=f"{ASSETS}/swagger-ui.css",
        swagger_favicon_url=f"{ASSETS}/favicon-32x32.png",
    )
    html = bytes(page.body).decode()
    policy = {"content-security-policy": _policy(html)}

    @app.get(PATH, include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(html, headers=policy)

    app.mount(ASSETS, StaticFiles(directory=str(files("fastapi_swagger") / "resources")), name="docs-assets")


def _policy(html: str) -> str:
    """Allow the page's inline script by its hash. Swagger UI needs inline styles and small inline images."""
    hashes = (hashlib.sha256(script.encode()).digest() for script in INLINE_SCRIPT.findall(html))
    known = " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in hashes)
    return (
        f"default-src 'none'; script-src 'self' {known}; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
