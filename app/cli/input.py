"""Arguments and options that several commands have, and the console that they print on."""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer
from rich.console import Console

from app.cli.client import Client
from app.cli.errors import ApiError, BadInput, ServiceAbsent
from app.config import PREFIX, Address

# A cancelled check uses its file until it ends, which takes a heartbeat and its grace period.
IN_USE_SECONDS = 8.0
console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)

Url = Annotated[
    str | None, typer.Option("--url", help="where the service is; default: TUNESMITH_URL, or HOST and PORT")
]
SpecFile = Annotated[str, typer.Argument(metavar="SPEC", help="a JSON file with the job, or - for stdin")]


def connect(url: str | None, seconds: float | None = None) -> Client:
    """A client of the service at the URL, or at the address that the environment gives.

    `seconds`: how long it waits for each answer; default: as long as that answer may take.
    """
    address = Address()
    if url is None and address.url is None and address.port == 0:
        raise BadInput(f"{PREFIX}PORT is 0, any free port: {PREFIX}URL or --url says which one the service has taken")
    found = read_url(url or address.url or address.local_url)
    return Client(found, address.api_key or local_key(address.root, found), seconds)


def local_key(home: Path, url: str) -> str | None:
    """Return the key that `tunesmith up` made for its own service. It is sent to no other."""
    try:
        is_own = (home / "run" / "url").read_text() == url
        return (home / "run" / "key").read_text().strip() if is_own else None
    except OSError:
        return None


def read_url(text: str) -> str:
    """A URL as people write it: `localhost:8000` is taken, and so is one that ends in the `/v1` of OpenAI's clients."""
    address = text.strip()
    url = address if "://" in address else f"http://{address}"
    try:
        parts = urlsplit(url)
        is_right = parts.scheme in ("http", "https") and parts.hostname and (parts.port or True)
    except ValueError:  # a port that is not a number, or an incomplete IPv6 address
        is_right = False
    if not is_right:
        raise BadInput(f"--url or {PREFIX}URL: found {text!r}, expected a URL such as http://127.0.0.1:8000")
    return url.rstrip("/").removesuffix("/v1")


def read_spec(name: str) -> dict[str, Any]:
    try:
        spec = json.loads(sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise BadInput(f"{name} is no JSON file that can be read: {error}") from error
    if not isinstance(spec, dict):
        raise BadInput(f"{name} should hold a JSON object, the body of POST /jobs")
    return spec


def with_file(spec: dict[str, Any], file_id: str) -> dict[str, Any]:
    dataset = spec.get("dataset") or {}
    if not isinstance(dataset, dict):
        raise BadInput("dataset should be an object")
    return {**spec, "dataset": {**dataset, "source": {"file": file_id}}}


def upload_file(client: Client, path: Path) -> str:
    """Upload the file and return its id; what the service found in it is printed on stderr."""
    file = client.upload(path)
    typer.echo(f"{path.name}: records {file.records}, layout {file.layout or 'not recognised'}", err=True)
    return file.id


@contextmanager
def temporary_upload(client: Client, path: Path) -> Iterator[str]:
    """Upload the file, yield its id, and delete the upload at the end, also after an error."""
    file_id = upload_file(client, path)
    try:
        yield file_id
    finally:
        _delete(client, file_id)


def _delete(client: Client, file_id: str) -> None:
    deadline = time.monotonic() + IN_USE_SECONDS
    while True:
        try:
            return client.delete_file(file_id)
        except (ApiError, ServiceAbsent) as error:
            is_in_use = isinstance(error, ApiError) and error.status == 409
            if not is_in_use or time.monotonic() > deadline:
                typer.echo(f"{file_id} stays on the server: {error}", err=True)
                return None
        time.sleep(0.2)
