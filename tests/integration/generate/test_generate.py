"""Generation over HTTP, with an engine that follows a script."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.config import Settings
from app.contracts.generation import EngineError, EngineEvent, TextDelta
from app.contracts.order import BaseRef
from app.database.connection import Database
from app.generate.exchange import Opening, messages
from app.generate.parallel import generate_all
from app.generate.schemas import GenerateRequest, Generation
from app.generate.service import prepare
from app.generate.shape import GenerationShape
from app.generate.targets import Target
from app.ids import new_id
from app.jobs.states import JobStatus
from tests.support.jobs import add_job, read
from tests.support.scripted_engine import FINISH, ScriptedEngine, add_adapter, orders_of

ASK = {"model": "org/model", "messages": [{"role": "user", "content": "What comes after 89?"}]}
MakeApi = Callable[..., TestClient]


def ask(api: TestClient, **fields: Any) -> dict[str, Any]:
    answer: dict[str, Any] = api.post("/generate", json={**ASK, **fields}).json()
    return answer


def messages_of(text: str) -> list[tuple[str, dict[str, Any]]]:
    """The events of an SSE answer; comments are left out."""
    blocks = [block.splitlines() for block in text.split("\r\n\r\n")]
    fields = [dict(line.split(": ", 1) for line in lines if line[0] != ":") for lines in blocks]
    return [(block["event"], json.loads(block["data"])) for block in fields if block]


def test_a_whole_answer_tells_who_answered_and_how(api: TestClient) -> None:
    answer = ask(api, temperature=0, max_new_tokens=9, stop="\n")

    assert answer.keys() == Generation.model_fields.keys()
    assert answer.pop("id").startswith("gen-")
    assert answer.pop("sampling").items() >= {"temperature": 0, "max_new_tokens": 9, "stop": ["\n"], "top_p": 1}.items()
    cached = {"prompt_tokens_details": {"cached_tokens": 0}}
    assert {name: value for name, value in answer.items() if value is not None} == {
        "object": "generation",
        "model": "org/model",
        "text": "144 é\u2028😀",
        "finish_reason": "stop",
        "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5, **cached},
    }


def test_a_streamed_answer_is_the_whole_one_in_pieces(api: TestClient) -> None:
    streamed = messages_of(api.post("/generate", json={**ASK, "stream": True, "seed": 1}).text)
    whole = ask(api, seed=1)

    assert [kind for kind, _ in streamed] == ["delta", "delta", "finish"]
    assert "".join(fields["text"] for kind, fields in streamed if kind == "delta") == whole["text"]
    assert {**streamed[-1][1], "id": ""} == {key: whole[key] for key in streamed[-1][1]} | {"id": ""}


def test_a_seed_is_drawn_and_told(api: TestClient) -> None:
    seed = ask(api, temperature=1.0)["sampling"]["seed"]

    assert orders_of(api)[-1].sampling.seed == seed
    assert seed != ask(api, temperature=1.0)["sampling"]["seed"]


@pytest.mark.parametrize("field", ["adapter", "model"])
def test_every_name_of_an_adapter_orders_it(
    api: TestClient, database: Database, settings: Settings, tmp_path: Path, field: str
) -> None:
    adapter = add_adapter(database, tmp_path)

    for name in (adapter.id, f"{adapter.id}@v1", adapter.job_id):
        answer = api.post("/generate", json={"prompt": "1, 1, 2,", field: name}).json()

        assert (answer["model"], answer["adapter"]) == (f"{adapter.id}@v1", adapter.id)
        assert (orders_of(api)[-1].adapter, orders_of(api)[-1].base) == (adapter.ref(settings), adapter.base(settings))


def test_a_local_model_is_ordered_by_its_folder(api: TestClient, settings: Settings) -> None:
    folder = settings.models / "tiny"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")

    assert ask(api, model="tiny")["model"] == "tiny"
    assert (orders_of(api)[-1].base.source, orders_of(api)[-1].base.is_local) == (str(folder), True)


def test_text_parts_are_joined(api: TestClient) -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]

    ask(api, messages=[{"role": "user", "content": parts}])

    assert orders_of(api)[-1].messages[0].content == "ab"


IN_JSON: dict[str, Any] = {"response_format": {"type": "json_object"}}
TOOLS = [{"type": "function", "function": {"name": "f"}}]
BAD: list[tuple[dict[str, Any], str]] = [
    ({"adapter": "adapter-x"}, "exactly one of adapter and model"),
    ({"model": None}, "exactly one of adapter and model"),
    ({"prompt": "x"}, "exactly one of messages, prompt and prompt_token_ids"),
    ({"messages": None}, "exactly one of messages, prompt and prompt_token_ids"),
    ({"messages": []}, "at least 1 item"),
    ({"messages": None, "prompt": ""}, "at least 1 character"),
    ({"messages": [{"role": "robot", "content": "x"}]}, "messages.0.role"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "url": "x"}]}]}, "messages.0.content"),
    ({"messages": [{"role": "user", "content": 7}]}, "messages.0.content"),
    (
        {"messages": [{"role": "user", "content": "x", "weight": 1}]},
        "messages.0.weight: found 1, expected nothing: it is for training only",
    ),
    ({"messages": [{"role": "user", "content": "x", "mood": "good"}]}, "no such field"),
    ({"max_tokens": 0}, "max_new_tokens"),
    ({"stream": "yes"}, "stream"),
    ({"stream_options": {"include_usage": True}}, "stream_options"),
    ({"echo": True}, "echo: found True, expected false beside messages"),
    ({"timeout": 0}, "timeout"),
    ({"temperature": -1}, "temperature"),
    ({"temperature": True}, "temperature"),
    ({"temperature": 11}, "temperature"),
    ({"max_new_tokens": 0}, "max_new_tokens"),
    ({"top_p": -0.1}, "top_p"),
    ({"top_k": -2}, "top_k"),
    ({"top_k": True}, "top_k"),
    ({"min_p": 2}, "min_p"),
    ({"seed": -1}, "seed"),
    ({"stop": [""]}, "stop"),
    ({"stop": ["x"] * 17}, "stop"),
    ({"model": "../../etc"}, "model"),
    ({"model": "no such thing"}, "model"),
    ({"model": "nothing-here"}, "a hub id (owner/name) or a local model"),
    ({"adapter": "a\x00", "model": None}, "adapter"),
    ({**IN_JSON, "tools": TOOLS}, "response_format: found"),
    ({**IN_JSON, "ignore_eos": True}, "ignore_eos: found"),
    ({**IN_JSON, "min_tokens": 1}, "min_tokens: found"),
    ({"prompt": "x", "messages": None, "tools": TOOLS}, "tools: found"),
    ({"compare": True}, "compare: org/model is a base, only an adapter has one"),
    ({"stream": True, "compare": True}, "compare: found"),
    ({"tool_choice": "required"}, "tool_choice: found"),
    ({"echo": True, "messages": None, "prompt": "x", "logprobs": 1}, "echo: found"),
    ({"max_tokens": 7, "max_completion_tokens": 7}, "max_tokens: found"),
    ({"continue_final_message": True}, "continue_final_message: found"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema: found"),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "x"}}}},
        "response_format.json_schema.schema: found",
    ),
    ({"response_format": {"type": "text", "mood": 1}}, "response_format.mood: found"),
]


@pytest.mark.parametrize(("fields", "reason"), BAD, ids=str)
def test_a_bad_request_is_refused_with_the_reason(api: TestClient, fields: dict[str, Any], reason: str) -> None:
    answer = api.post("/generate", json={**ASK, **fields})

    assert answer.status_code == 422
    assert reason in answer.json()["error"]["message"]
    assert orders_of(api) == []


@pytest.mark.parametrize(
    "name", [new_id("adapter"), f"{new_id('adapter')}@v1", new_id("job")], ids=["adapter", "version", "job"]
)
@pytest.mark.parametrize("field", ["adapter", "model"])
def test_an_unknown_adapter_is_not_found_and_never_the_base(api: TestClient, field: str, name: str) -> None:
    answer = api.post("/generate", json={"prompt": "x", field: name})

    assert answer.status_code == 404
    assert answer.json()["error"]["param"] == field


def test_an_unknown_model_is_answered_with_the_adapters_that_could_be_meant(
    api: TestClient, database: Database, tmp_path: Path
) -> None:
    job_id = add_job(database, JobStatus.SUCCEEDED)
    adapter = add_adapter(database, tmp_path, job_id=job_id, age=9)
    newer = [add_adapter(database, tmp_path, age=age).id for age in (1, 2, 3)]
    name = read(database, job_id).name

    called, other = (api.post("/generate", json={**ASK, "model": model}).json() for model in (name, "fib6"))

    assert called["error"]["message"].endswith(f", or an adapter ({adapter.id} of the job {name!r})")
    assert other["error"]["message"].endswith(f", or an adapter ({', '.join(newer)})")


def test_a_job_that_still_runs_is_a_conflict(api: TestClient, database: Database) -> None:
    answer = api.post("/generate", json={"prompt": "x", "adapter": add_job(database, JobStatus.RUNNING)})

    assert answer.status_code == 409
    assert "is running" in answer.json()["error"]["message"]


AWAY = EngineError(status=503, code="engine_unavailable", message="the engine is not running")
FULL = EngineError(status=429, code="engine_busy", message="64 requests are waiting already; try again later")
REJECTED = EngineError(status=409, code="adapter_rejected", message="rejected: a key is missing", param="adapter")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("error", [AWAY, FULL, REJECTED], ids=lambda error: error.code)
def test_a_refusal_of_the_engine_has_its_status(make_api: MakeApi, error: EngineError, stream: bool) -> None:
    answer = make_api(error).post("/generate", json={**ASK, "stream": stream})

    told = answer.json()["error"]
    assert (answer.status_code, told["code"], told["message"], told["param"]) == (
        error.status,
        error.code,
        error.message,
        error.param,
    )
    assert ("retry-after" in answer.headers) == (error.status in (429, 503))


def test_an_engine_that_dies_in_the_middle_is_an_error_and_no_short_answer(make_api: MakeApi) -> None:
    answer = make_api(TextDelta(text="14"), AWAY).post("/generate", json=ASK)

    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "engine_unavailable")


def test_an_engine_that_dies_in_a_stream_ends_it_with_an_error(make_api: MakeApi) -> None:
    answer = make_api(TextDelta(text="14"), AWAY).post("/generate", json={**ASK, "stream": True})

    (first, text), (last, told) = messages_of(answer.text)
    assert (first, text["text"], last) == ("delta", "14", "error")
    assert told["error"]["code"] == "engine_unavailable"
    assert told["error"]["request_id"] == answer.headers["x-request-id"]


def test_a_refusal_that_comes_late_ends_a_stream_that_has_begun() -> None:
    body = GenerateRequest(model="m", prompt="x")
    prepared = prepare(Target(BaseRef(source="m", is_local=True), None, "m"), body)

    async def late() -> list[str]:
        gate = asyncio.Event()
        opening = Opening(generate_all(ScriptedEngine([REJECTED], gate), prepared.orders))
        await opening.check(patience_seconds=0)
        gate.set()
        return [message["event"] async for message in messages(opening, GenerationShape(body, prepared), "req-1")]

    assert asyncio.run(late()) == ["error"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("script", [(None,), (TextDelta(text="1"), None, FINISH)], ids=["waiting", "speaking"])
def test_a_client_that_leaves_cancels_its_answer(
    make_api: MakeApi, script: tuple[EngineEvent | None, ...], stream: bool
) -> None:
    api = make_api(*script)

    asyncio.run(leave(api.app, {**ASK, "stream": stream}))

    assert api.app.state.engine.cancelled == 1  # type: ignore[attr-defined]


async def leave(app: Any, body: dict[str, Any]) -> None:
    """Send a request, and go away as soon as the engine has it."""
    engine, parts = app.state.engine, iter([{"type": "http.request", "body": json.dumps(body).encode()}])

    async def receive() -> dict[str, Any]:
        for part in parts:
            return part
        while not engine.orders:
            await asyncio.sleep(0)
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        """Nobody listens."""

    headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
    where = {"type": "http", "method": "POST", "path": "/generate", "raw_path": b"/generate", "query_string": b""}
    async with asyncio.timeout(20):
        await app({**where, "headers": headers, "http_version": "1.1", "scheme": "http"}, receive, send)
