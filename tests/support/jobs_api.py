"""The API on a test's database, with a bell that only remembers, and bodies of POST /jobs that need no upload."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.testclient import TestClient

from app.config import Settings
from app.main import create_app
from tests.support.checks import RecordingNotifier
from tests.support.serving import LOCAL


def hub_body(**groups: Any) -> dict[str, Any]:
    """A job on a dataset of the hub, which is not looked at before it is checked."""
    model = {"model_name": "org/model", **groups.pop("model", {})}
    return {"model": model, "dataset": {"source": {"hub": "org/chats"}}, **groups}


def an_app(settings: Settings, database_url: str) -> FastAPI:
    app = create_app(settings.model_copy(update={"database_url": database_url}))
    app.state.notifier = RecordingNotifier()
    return app


@contextmanager
def an_api(settings: Settings, database_url: str) -> Iterator[TestClient]:
    with TestClient(an_app(settings, database_url), base_url=LOCAL, raise_server_exceptions=False) as client:
        yield client


def error_of(answer: Any) -> tuple[int, str, str | None]:
    """Status, code and param of a refusal."""
    error = answer.json()["error"]
    return answer.status_code, error["code"], error["param"]
