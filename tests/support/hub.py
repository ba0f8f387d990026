"""A small server in the shape of the hub, for its real clients (`huggingface_hub`, `datasets`).

Repositories are folders: `models/owner/name/…`, `datasets/owner/name/…`. One named `gated-…` answers as a gated
repository does to a stranger, `private-…` as a private one, `token-…` as one of those whose token is `TOKEN`; what is
not there is a 404.
"""

import hashlib
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Form, Request, Response
from fastapi.responses import JSONResponse

from tests.support.serving import serving

Kind = Literal["models", "datasets"]
SHA = "a" * 40
TOKEN = "hf_of-this-test"


class Hub:
    """The server's folders."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.url = ""

    def add(self, kind: Kind, repo: str, files: dict[str, bytes]) -> None:
        for name, content in files.items():
            path = self.root / kind / repo / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)

    def files(self, kind: str, repo: str) -> list[Path]:
        folder = self.root / kind / repo
        return sorted(path for path in folder.rglob("*") if path.is_file())

    def refusal(self, kind: str, repo: str) -> Response | None:
        name = repo.rpartition("/")[2]
        if name.startswith("gated-"):
            return Response(status_code=403, headers={"x-error-code": "GatedRepo", "x-error-message": "gated"})
        if name.startswith("private-"):
            return Response(status_code=401, headers={"x-error-code": "RepoNotFound"})
        if not (self.root / kind / repo).is_dir():
            return Response(status_code=404, headers={"x-error-code": "RepoNotFound"})
        return None


def hub_app(hub: Hub) -> FastAPI:
    app = FastAPI()

    @app.middleware("http")
    async def refuse_strangers(request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
        if "/token-" in request.url.path and request.headers.get("authorization") != f"Bearer {TOKEN}":
            return Response(status_code=401, headers={"x-error-code": "RepoNotFound"})
        return await answer(request)

    add_descriptions(app, hub)
    add_contents(app, hub)
    return app


def add_descriptions(app: FastAPI, hub: Hub) -> None:
    @app.get("/api/{kind}/{owner}/{name}")
    @app.get("/api/{kind}/{owner}/{name}/revision/{revision:path}")
    def info(kind: Kind, owner: str, name: str, revision: str = "main") -> Response:
        repo = f"{owner}/{name}"
        refused = hub.refusal(kind, repo) or unknown_revision(revision)
        root = hub.root / kind / repo
        siblings = [
            {"rfilename": str(path.relative_to(root)), "size": path.stat().st_size} for path in hub.files(kind, repo)
        ]
        told = {"_id": "1", "id": repo, "sha": SHA, "siblings": siblings, "private": False, "tags": []}
        return refused or JSONResponse(told)

    @app.get("/api/{kind}/{owner}/{name}/tree/{revision}")
    @app.get("/api/{kind}/{owner}/{name}/tree/{revision}/{folder:path}")
    def tree(kind: Kind, owner: str, name: str, revision: str, folder: str = "") -> Response:
        repo = f"{owner}/{name}"
        entries = [entry(hub.root / kind / repo, path) for path in hub.files(kind, repo)]
        return hub.refusal(kind, repo) or JSONResponse([e for e in entries if e["path"].startswith(folder)])

    @app.post("/api/{kind}/{owner}/{name}/paths-info/{revision}")
    def paths_info(
        kind: Kind, owner: str, name: str, revision: str, paths: Annotated[list[str], Form()]
    ) -> JSONResponse:
        root = hub.root / kind / f"{owner}/{name}"
        return JSONResponse([entry(root, root / path) for path in paths if (root / path).is_file()])


def add_contents(app: FastAPI, hub: Hub) -> None:
    @app.api_route("/datasets/{owner}/{name}/resolve/{revision}/{file:path}", methods=["GET", "HEAD"])
    def dataset_file(owner: str, name: str, revision: str, file: str, request: Request) -> Response:
        return content(hub, "datasets", f"{owner}/{name}", file, request.method)

    @app.api_route("/{owner}/{name}/resolve/{revision}/{file:path}", methods=["GET", "HEAD"])
    def model_file(owner: str, name: str, revision: str, file: str, request: Request) -> Response:
        return content(hub, "models", f"{owner}/{name}", file, request.method)


def content(hub: Hub, kind: Kind, repo: str, file: str, method: str) -> Response:
    refused = hub.refusal(kind, repo)
    path = hub.root / kind / repo / file
    if refused is not None or not path.is_file():
        return refused or Response(status_code=404, headers={"x-error-code": "EntryNotFound"})
    headers = {"etag": f'"{digest(path)}"', "x-repo-commit": SHA, "content-length": str(path.stat().st_size)}
    return Response(b"" if method == "HEAD" else path.read_bytes(), headers=headers)


def unknown_revision(revision: str) -> Response | None:
    if revision in ("main", SHA):
        return None
    return Response(status_code=404, headers={"x-error-code": "RevisionNotFound"})


def entry(root: Path, path: Path) -> dict[str, Any]:
    return {"type": "file", "path": str(path.relative_to(root)), "size": path.stat().st_size, "oid": digest(path)}


def digest(path: Path) -> str:
    return hashlib.sha1(path.read_bytes(), usedforsecurity=False).hexdigest()


@contextmanager
def running(hub: Hub) -> Iterator[Hub]:
    """Serve the hub on a free loopback port."""
    with serving(hub_app(hub)) as hub.url:
        yield hub
