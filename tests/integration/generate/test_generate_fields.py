"""The fields of `POST /generate`, and those that it shares with /v1: they reach the engine, and vLLM behind it."""

import json
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.config import Settings
from app.contracts.generation import Sampling, ScoredToken, TextDelta, TokenScore
from app.database.connection import Database
from tests.support.scripted_engine import FINISH, ScriptedEngine, add_adapter, orders_of
from worker.inference.engine import ModelFolder, TokenRequest
from worker.inference.vllm.translate import completion_body

ASK: dict[str, Any] = {"model": "org/model", "messages": [{"role": "user", "content": "x"}]}
TOOLS = [{"type": "function", "function": {"name": "f"}}]
SCORED = ScoredToken(id=5, token="a", bytes=[97], logprob=-0.5, top_logprobs=[])
CALL = '<tool_call>{"name": "f", "arguments": {}}</tool_call>'


def ask(api: TestClient, *script: Any, **fields: Any) -> dict[str, Any]:
    if script:
        api.app.state.engine = ScriptedEngine(script)  # type: ignore[attr-defined]
    answer: dict[str, Any] = api.post("/generate", json={**ASK, **fields}).json()
    return answer


def test_several_answers_have_seeds_that_can_be_asked_for_again(api: TestClient) -> None:
    answer = ask(api, n=3, seed=7)

    seeds = [choice["seed"] for choice in answer["choices"]]
    assert seeds[0] == 7
    assert len(set(seeds)) == 3
    assert [order.sampling.seed for order in orders_of(api)] == seeds
    assert answer["usage"]["completion_tokens"] == 6
    assert seeds == [choice["seed"] for choice in ask(api, n=3, seed=7)["choices"]]


def test_the_seeds_of_neighbours_have_nothing_in_common(api: TestClient) -> None:
    several = [{choice["seed"] for choice in ask(api, n=16, seed=seed)["choices"]} for seed in (1, 2)]

    assert not several[0] & several[1]


def test_base_and_adapter_answer_side_by_side_with_one_seed(
    api: TestClient, database: Database, settings: Settings, tmp_path: Path
) -> None:
    adapter = add_adapter(database, tmp_path)

    answer = ask(api, model=None, adapter=adapter.id, compare=True, n=2)

    asked = orders_of(api)
    assert [order.adapter for order in asked] == [adapter.ref(settings), adapter.ref(settings), None, None]
    assert [order.sampling.seed for order in asked[:2]] == [order.sampling.seed for order in asked[2:]]
    assert {order.base for order in asked} == {adapter.base(settings)}
    assert (len(answer["choices"]), len(answer["base"])) == (2, 2)
    assert answer["model"] == f"{adapter.id}@v1"


def test_log_probabilities_are_told_where_they_are_asked_for(api: TestClient) -> None:
    score = TokenScore(id=6, token="b", bytes=[98], logprob=-1.0)
    told = SCORED.model_copy(update={"top_logprobs": [score]})

    answer = ask(api, TextDelta(text="a", tokens=[told]), FINISH, logprobs=1)

    assert answer["logprobs"] == [told.model_dump()]
    assert orders_of(api)[0].sampling.logprobs == 1


def test_log_probabilities_are_streamed_with_their_text(api: TestClient) -> None:
    api.app.state.engine = ScriptedEngine([TextDelta(text="a", tokens=[SCORED]), FINISH])  # type: ignore[attr-defined]

    text = api.post("/generate", json={**ASK, "logprobs": 0, "stream": True}).text

    first = next(line for line in text.splitlines() if line.startswith("data: "))
    assert json.loads(first.removeprefix("data: ")) == {"text": "a", "logprobs": [SCORED.model_dump()]}


@pytest.mark.parametrize("tool_choice", ["auto", "none"])
def test_a_call_of_an_offered_tool_is_told_as_one(api: TestClient, tool_choice: str) -> None:
    answer = ask(api, TextDelta(text=CALL), FINISH, tools=TOOLS, tool_choice=tool_choice)

    if tool_choice == "none":
        assert (answer["text"], answer["tool_calls"], answer["finish_reason"]) == (CALL, None, "stop")
        assert orders_of(api)[0].tools is None
    else:
        assert (answer["text"], answer["finish_reason"]) == ("", "tool_calls")
        assert answer["tool_calls"][0]["function"] == {"name": "f", "arguments": "{}"}
        assert orders_of(api)[0].tools == TOOLS


def test_token_ids_are_a_prompt(api: TestClient) -> None:
    ask(api, messages=None, prompt_token_ids=[1, 2])

    assert orders_of(api)[0].prompt_token_ids == [1, 2]


def test_a_format_reaches_the_engine_as_it_was_sent(api: TestClient) -> None:
    schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "integer"}}}

    ask(api, response_format=schema)

    assert json.loads(orders_of(api)[0].model_dump_json())["response_format"]["json_schema"]["schema"] == {
        "type": "integer"
    }


# For each field a value that is not its default.
VALUES: dict[str, Any] = {
    **{"min_tokens": 2, "temperature": 0.5, "top_p": 0.5, "top_k": 5, "min_p": 0.5, "repetition_penalty": 1.5},
    **{"presence_penalty": 0.5, "frequency_penalty": 0.5, "logit_bias": {"5": 1.0}, "seed": 7, "stop": ["x"]},
    **{"stop_token_ids": [9], "ignore_eos": True, "use_cache": False, "max_new_tokens": 9, "logprobs": 3},
}
ROUTES = ("/generate", "/v1/chat/completions", "/v1/completions")
# What OpenAI calls otherwise.
RENAMED: dict[tuple[str, str], dict[str, Any]] = {
    ("/v1/chat/completions", "max_new_tokens"): {"max_completion_tokens": 9},
    ("/v1/chat/completions", "logprobs"): {"logprobs": True, "top_logprobs": 3},
    ("/v1/completions", "max_new_tokens"): {"max_tokens": 9},
}


@pytest.mark.parametrize("name", Sampling.model_fields)
@pytest.mark.parametrize("route", ROUTES)
def test_a_field_of_sampling_is_accepted_and_reaches_the_engine(api: TestClient, route: str, name: str) -> None:
    asked = {"model": "org/model", "prompt": "x"} if route == "/v1/completions" else ASK
    fields = RENAMED.get((route, name), {name: VALUES[name]})

    answer = api.post(route, json={**asked, **fields})

    assert answer.status_code == 200, answer.text
    expected = getattr(Sampling(**{name: VALUES[name]}), name)
    assert getattr(orders_of(api)[0].sampling, name) == expected != getattr(Sampling(), name)


@pytest.mark.parametrize("name", [name for name in Sampling.model_fields if name != "stop"])
def test_a_field_of_sampling_reaches_vllm(name: str) -> None:
    """Stop strings are found in the text, whichever engine answers."""

    def sent(**fields: Any) -> dict[str, Any]:
        return completion_body(
            TokenRequest(ModelFolder("m", Path("m")), None, [1], frozenset(), Sampling(**fields)), "m"
        )

    assert sent(**{name: VALUES[name]}) != sent()


SAME: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"max_tokens": 7}, {"max_new_tokens": 7}),
    ({"max_completion_tokens": 700, "min_tokens": 500}, {"max_new_tokens": 700, "min_tokens": 500}),
    ({"logprobs": True}, {"logprobs": 0}),
    ({"logprobs": True, "top_logprobs": 3}, {"logprobs": 3}),
    ({"logprobs": False}, {"logprobs": None}),
    ({"top_k": -1}, {"top_k": 0}),
    ({"user": "me"}, {}),
]


@pytest.mark.parametrize(("fields", "ours"), SAME, ids=str)
def test_the_names_of_others_mean_what_ours_do(api: TestClient, fields: dict[str, Any], ours: dict[str, Any]) -> None:
    ask(api, **fields, seed=1)

    assert orders_of(api)[0].sampling.model_dump().items() >= {"seed": 1, **ours}.items()


def test_how_the_text_is_written_reaches_the_engine(api: TestClient) -> None:
    asked = {"skip_special_tokens": False, "include_stop_str_in_output": True, "return_token_ids": True, "echo": True}

    ask(api, messages=None, prompt="x", timeout=2.5, **asked)

    assert orders_of(api)[0].wording.model_dump() == asked
    assert orders_of(api)[0].timeout == 2.5


def test_ids_are_told_where_they_are_asked_for(api: TestClient) -> None:
    finish = FINISH.model_copy(update={"prompt_token_ids": [1, 2, 3]})

    answer = ask(
        api, TextDelta(text="a", token_ids=[5]), TextDelta(text="b", token_ids=[6, 7]), finish, return_token_ids=True
    )

    assert (answer["token_ids"], answer["prompt_token_ids"]) == ([5, 6, 7], [1, 2, 3])


@pytest.mark.parametrize(
    ("route", "body", "wrong", "meant"),
    [
        ("/generate", {"prompt": "x"}, "max_new_token", "max_new_tokens"),
        ("/v1/completions", {"model": "tiny", "prompt": "x"}, "max_token", "max_tokens"),
    ],
)
def test_an_unknown_field_is_compared_with_those_of_its_route(
    api: TestClient, route: str, body: dict[str, Any], wrong: str, meant: str
) -> None:
    answer = api.post(route, json={**body, wrong: 5})

    assert answer.status_code in (400, 422)
    assert f"did you mean {meant}" in answer.json()["error"]["message"]
