"""OpenAI's door in front of an engine that follows a script: calls of tools, errors, and clients that leave."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.contracts.generation import EngineError, Finish, TextDelta
from app.database.connection import Database
from app.jobs.states import JobStatus
from tests.support.jobs import add_job
from tests.support.scripted_engine import FINISH, orders_of

CHAT: dict[str, Any] = {"model": "org/model", "messages": [{"role": "user", "content": "x"}]}
TOOLS = [{"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}, "strict": True}}]
CALLING = (
    TextDelta(text="I look.\n<tool_"),
    TextDelta(text='call>{"name": "look_up", "arguments": {"word": "é"}}</tool_call>'),
    FINISH,
)
AWAY = EngineError(status=503, code="engine_unavailable", message="the engine broke off")
FULL = EngineError(status=429, code="engine_busy", message="64 requests are waiting already")
REJECTED = EngineError(status=409, code="adapter_rejected", message="rejected", param="adapter")
TOO_LONG = EngineError(
    status=422, code="context_length_exceeded", message="max_new_tokens is too large", param="max_new_tokens"
)
MakeApi = Callable[..., TestClient]


def chat(api: TestClient, **fields: Any) -> Any:
    return api.post("/v1/chat/completions", json={**CHAT, **fields})


def chunks_of(text: str) -> list[Any]:
    """The data of an SSE answer; the last one is no JSON."""
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


def test_a_call_of_a_tool_is_no_text(make_api: MakeApi) -> None:
    api = make_api(*CALLING)

    choice = chat(api, tools=TOOLS).json()["choices"][0]

    (call,) = choice["message"]["tool_calls"]
    assert call.pop("id").startswith("call-")
    assert call == {"type": "function", "function": {"name": "look_up", "arguments": '{"word": "é"}'}}
    assert (choice["message"]["content"], choice["finish_reason"]) == ("I look.", "tool_calls")
    assert orders_of(api)[-1].tools == [
        {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}
    ]


def test_a_call_of_a_tool_is_streamed_whole(make_api: MakeApi) -> None:
    chunks = chunks_of(chat(make_api(*CALLING), tools=TOOLS, stream=True).text)

    choices = [chunk["choices"][0] for chunk in chunks[:-1]]
    calls = [call for choice in choices for call in choice["delta"].get("tool_calls", [])]
    assert "".join(choice["delta"].get("content", "") for choice in choices) == "I look."
    assert [(call["index"], call["function"]["name"]) for call in calls] == [(0, "look_up")]
    assert (choices[-1]["finish_reason"], chunks[-1]) == ("tool_calls", "[DONE]")


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/generate"])
def test_an_answer_of_one_call_at_most_ends_behind_it(make_api: MakeApi, path: str) -> None:
    api = make_api(*CALLING)

    for fields in ({}, {"parallel_tool_calls": False}):
        api.post(path, json={**CHAT, "tools": TOOLS, **fields})

    assert [order.stop_after for order in orders_of(api)] == [(), ("</tool_call>",)]


@pytest.mark.parametrize("fields", [{}, {"tools": TOOLS, "tool_choice": "none"}], ids=str)
def test_without_tools_marks_are_text(make_api: MakeApi, fields: dict[str, Any]) -> None:
    api = make_api(*CALLING)

    choice = chat(api, **fields).json()["choices"][0]

    assert "<tool_call>" in choice["message"]["content"]
    assert choice["finish_reason"] == "stop"
    assert orders_of(api)[-1].tools is None


def test_a_call_that_the_limit_cut_is_text_of_a_cut_answer(make_api: MakeApi) -> None:
    script = (TextDelta(text='<tool_call>{"name": "look'), Finish(reason="length", usage=FINISH.usage))

    choice = chat(make_api(*script), tools=TOOLS).json()["choices"][0]

    assert (choice["message"]["content"], choice["finish_reason"]) == ('<tool_call>{"name": "look', "length")


def test_results_of_tools_reach_the_template_as_objects(make_api: MakeApi) -> None:
    api = make_api(FINISH)
    call = {"id": "c1", "type": "function", "function": {"name": "look_up", "arguments": '{"word": 1}'}}
    messages = [
        *CHAT["messages"],
        {"role": "assistant", "content": None, "tool_calls": [call], "refusal": None},
        {"role": "tool", "tool_call_id": "c1", "content": "5"},
    ]

    assert chat(api, messages=messages).status_code == 200

    assert orders_of(api)[-1].messages[1].tool_calls[0]["function"] == {"name": "look_up", "arguments": {"word": 1}}
    assert orders_of(api)[-1].messages[2].tool_call_id == "c1"


TOLD: list[tuple[EngineError, int, str, str | None]] = [
    (AWAY, 503, "server_error", None),
    (FULL, 429, "rate_limit_error", None),
    (REJECTED, 409, "invalid_request_error", "model"),
    (TOO_LONG, 400, "invalid_request_error", "max_completion_tokens"),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("error", "status", "kind", "param"), TOLD, ids=lambda each: getattr(each, "code", None))
def test_a_refusal_of_the_engine_is_one_of_openais(
    make_api: MakeApi, error: EngineError, status: int, kind: str, param: str | None, stream: bool
) -> None:
    answer = chat(make_api(error), stream=stream)

    told = answer.json()["error"]
    assert (answer.status_code, told["type"], told["code"], told["param"]) == (status, kind, error.code, param)
    assert "max_new_tokens" not in told["message"]
    assert ("retry-after" in answer.headers) == (status in (429, 503))
    assert (answer.headers.get("x-should-retry") == "false") == (status in (408, 409))


def test_an_engine_that_dies_in_a_stream_ends_it_with_an_error(make_api: MakeApi) -> None:
    answer = chat(make_api(TextDelta(text="14"), AWAY), stream=True)

    chunks = chunks_of(answer.text)
    assert chunks[-1]["error"]["code"] == "engine_unavailable"
    assert "[DONE]" not in chunks
    assert not any(choice["finish_reason"] for chunk in chunks[:-1] for choice in chunk["choices"])


def test_an_engine_that_dies_in_one_of_several_answers_ends_all(make_api: MakeApi) -> None:
    answer = chat(make_api(TextDelta(text="14"), AWAY), n=4)

    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "engine_unavailable")


def test_a_job_that_still_runs_is_a_conflict_without_a_second_try(make_api: MakeApi, database: Database) -> None:
    api = make_api(FINISH)

    answer = chat(api, model=add_job(database, JobStatus.RUNNING))

    assert (answer.status_code, answer.headers["x-should-retry"]) == (409, "false")
    assert answer.json()["error"]["param"] == "model"


def test_several_answers_to_several_prompts_have_places_of_their_own(make_api: MakeApi) -> None:
    api = make_api(TextDelta(text="x"), FINISH)
    body = {"model": "org/model", "prompt": ["a", "b"], "n": 2, "seed": 3}

    answer = api.post("/v1/completions", json=body).json()

    orders = orders_of(api)
    assert [order.prompt for order in orders] == ["a", "a", "b", "b"]
    assert orders[0].sampling.seed == orders[2].sampling.seed == 3 != orders[1].sampling.seed
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    assert (answer["usage"]["prompt_tokens"], answer["usage"]["completion_tokens"]) == (6, 8)
