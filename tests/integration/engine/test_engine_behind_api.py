"""The API in front of a real engine process, over real connections."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.config import Settings
from app.main import create_app
from tests.integration.engine.model_caches import ServedModel
from tests.integration.engine.processes import KEY, EngineProcess
from tests.support.serving import serving
from tests.support.waiting import wait_for

ASK: dict[str, Any] = {"model": "base-0", "messages": [{"role": "user", "content": "hi"}], "seed": 1}
ENDLESS = {**ASK, "model": "base-2", "stream": True, "max_new_tokens": 2000}


def an_api(served_model: ServedModel, home: Path, engine: EngineProcess) -> Any:
    """A server for the models of the world. Base models need no database."""
    models = served_model.base.folder.parent
    return serving(create_app(Settings(home=home, models_dir=models, engine_url=engine.url, engine_key=KEY)))


@pytest.fixture
def api(served_model: ServedModel, tmp_path: Path, engine_process: EngineProcess) -> Iterator[httpx.Client]:
    with an_api(served_model, tmp_path, engine_process) as url, httpx.Client(base_url=url, timeout=30) as client:
        yield client


def events_of(response: httpx.Response) -> Iterator[tuple[str, dict[str, Any]]]:
    kind = ""
    for line in response.iter_lines():
        if line.startswith("event: "):
            kind = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield kind, json.loads(line.removeprefix("data: "))


@pytest.mark.parametrize("fields", [{}, {"temperature": 0}, {"stop": "a"}, {"max_new_tokens": 1}], ids=str)
def test_a_streamed_text_is_the_whole_text(api: httpx.Client, fields: dict[str, Any]) -> None:
    whole = api.post("/generate", json={**ASK, **fields}).json()

    with api.stream("POST", "/generate", json={**ASK, **fields, "stream": True}) as response:
        events = list(events_of(response))

    assert "".join(event["text"] for kind, event in events if kind == "delta") == whole["text"]
    assert (events[-1][0], events[-1][1]["usage"]) == ("finish", whole["usage"])


def test_a_refusal_of_the_engine_names_the_field(api: httpx.Client) -> None:
    answer = api.post("/generate", json={**ASK, "stream": True, "max_new_tokens": 100_000})

    assert answer.status_code == 422
    assert answer.json()["error"]["param"] == "max_new_tokens"


CHAT = {name: ENDLESS[name] for name in ("model", "messages", "stream", "seed")} | {"max_tokens": 2000, "n": 2}


@pytest.mark.parametrize(("path", "body"), [("/generate", ENDLESS), ("/v1/chat/completions", CHAT)], ids=["own", "v1"])
def test_a_client_that_leaves_stops_the_engine(
    api: httpx.Client, engine_process: EngineProcess, path: str, body: dict[str, Any]
) -> None:
    with api.stream("POST", path, json=body) as response:
        events = events_of(response)
        next(events)

    wait_for("the engine is idle", lambda: not engine_process.health().is_busy)


def test_an_engine_that_is_killed_ends_the_stream_with_an_error_and_is_away(
    served_model: ServedModel, tmp_path: Path
) -> None:
    with EngineProcess() as process, an_api(served_model, tmp_path, process) as url:
        with httpx.stream("POST", f"{url}/generate", json=ENDLESS, timeout=30) as response:
            events = events_of(response)
            first, _ = next(events)
            process.end(signal.SIGKILL)
            *others, (last, told) = events
        afterwards = httpx.post(f"{url}/generate", json=ASK)

    assert (first, last, told["error"]["code"]) == ("delta", "error", "engine_unavailable")
    assert "error" not in [kind for kind, _ in others]
    assert (afterwards.status_code, afterwards.headers["retry-after"]) == (503, "5")
