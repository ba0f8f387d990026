"""What clients hear of an engine that makes room for a training: why, and when to come back."""

from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.config import Settings
from app.contracts.generation import EngineError, EngineHealth
from app.main import create_app
from tests.support.api_engines import let_answer
from tests.support.scripted_engine import ScriptedEngine
from tests.support.serving import LOCAL

REASON = "the engine has stepped aside: job-1 trains"
AWAY = EngineError(status=503, code="engine_unavailable", message=REASON, retry_after_seconds=30)
CHAT = [{"role": "user", "content": "hello"}]


class AwayEngine(ScriptedEngine):
    def __init__(self) -> None:
        super().__init__([AWAY])

    async def health(self) -> EngineHealth:
        return (await super().health()).model_copy(update={"stepped_aside": REASON})


@pytest.fixture
def api(migrated: Settings) -> Iterator[TestClient]:
    app = create_app(migrated)
    let_answer(app, AwayEngine())
    yield TestClient(app, base_url=LOCAL, raise_server_exceptions=False)
    app.state.database.close()


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/generate", {"messages": CHAT}),
        ("/v1/chat/completions", {"messages": CHAT}),
        ("/v1/completions", {"prompt": "hello"}),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_question_is_refused_with_the_reason_and_a_time(
    api: TestClient, path: str, body: dict[str, Any], stream: bool
) -> None:
    answer = api.post(path, json={"model": "org/model", "stream": stream, **body})

    assert (answer.status_code, answer.headers["retry-after"]) == (503, "30")
    assert (answer.json()["error"]["code"], answer.json()["error"]["message"]) == ("engine_unavailable", REASON)


def test_jobs_can_be_taken_meanwhile(api: TestClient) -> None:
    answer = api.get("/readyz")

    assert answer.status_code == 200
    told = answer.json()
    assert {name: told[name] for name in ("status", "database", "engine")} == {
        "status": "degraded",
        "database": True,
        "engine": True,
    }
    assert told["engine_reason"] == told["problems"]["engine"] == REASON
