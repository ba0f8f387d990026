"""OpenAI's own client against this service and a real engine: what it sends is understood, and what comes back."""

import json
from pathlib import Path

import openai
import pytest

from app.config import Settings
from app.database.connection import Database
from tests.integration.openai_api.asking import BASE, CHAT, ask, complete
from tests.support.scripted_engine import add_adapter


def test_a_chat_is_answered_in_openais_form(client: openai.OpenAI) -> None:
    answer = ask(client)

    choice = answer.choices[0]
    assert answer.id.startswith("chatcmpl-")
    assert (answer.object, answer.model, choice.message.role) == ("chat.completion", BASE, "assistant")
    assert choice.message.content
    assert answer.usage.completion_tokens == 12
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 12
    assert answer.usage.prompt_tokens_details.cached_tokens >= 0
    assert choice.finish_reason == "length"


def test_an_adapter_answers_by_its_id_and_not_as_its_base(client: openai.OpenAI, adapter: str) -> None:
    answer, base = ask(client, model=adapter), ask(client)

    assert answer.model == f"{adapter}@v1"
    assert answer.choices[0].message.content != base.choices[0].message.content


def test_a_stream_is_the_whole_answer(client: openai.OpenAI, adapter: str) -> None:
    chunks = list(ask(client, model=adapter, stream=True, stream_options={"include_usage": True}))

    whole = ask(client, model=adapter)
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    assert (chunks[-1].choices, chunks[-1].usage) == ([], whole.usage)
    assert {chunk.id for chunk in chunks} == {chunks[0].id}


def test_the_stream_of_the_client_library_reads_it(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(model=BASE, messages=CHAT, max_tokens=8, temperature=0) as stream:
        stream.until_done()

    final = stream.current_completion_snapshot
    assert final.choices[0].message.content == ask(client, max_tokens=8).choices[0].message.content


def test_several_answers_have_seeds_of_their_own_and_the_first_is_that_of_one(client: openai.OpenAI) -> None:
    several = ask(client, n=3, temperature=1.5, seed=5)

    texts = [choice.message.content for choice in several.choices]
    assert [choice.index for choice in several.choices] == [0, 1, 2]
    assert len(set(texts)) == 3
    assert texts[0] == ask(client, temperature=1.5, seed=5).choices[0].message.content
    assert several.usage.total_tokens == several.usage.prompt_tokens + several.usage.completion_tokens


def test_several_answers_are_streamed_beside_each_other(client: openai.OpenAI) -> None:
    whole = ask(client, n=2, temperature=1.5, seed=5)

    texts = {0: "", 1: ""}
    for chunk in ask(client, n=2, temperature=1.5, seed=5, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    assert texts == {choice.index: choice.message.content for choice in whole.choices}


def test_log_probabilities_are_told_for_every_token(client: openai.OpenAI) -> None:
    answer = ask(client, logprobs=True, top_logprobs=3)

    tokens = answer.choices[0].logprobs.content
    assert len(tokens) == 12
    spelled = b"".join(bytes(token.bytes) for token in tokens if not token.token.startswith("<|"))
    assert spelled.decode("utf-8", "replace") == answer.choices[0].message.content
    for token in tokens:
        assert [other.logprob for other in token.top_logprobs] == sorted(
            (other.logprob for other in token.top_logprobs), reverse=True
        )
        assert token.top_logprobs[0].logprob == token.logprob  # greedy: the chosen one is the best


def test_streamed_log_probabilities_are_those_of_the_whole_answer(client: openai.OpenAI) -> None:
    whole = ask(client, logprobs=True, top_logprobs=1).choices[0].logprobs.content

    chunks = ask(client, logprobs=True, top_logprobs=1, stream=True)
    told = [chunk.choices[0].logprobs for chunk in chunks if chunk.choices]
    assert [token for each in told if each is not None for token in each.content] == whole


def test_a_stop_string_ends_the_answer(client: openai.OpenAI) -> None:
    whole = ask(client).choices[0].message.content

    choice = ask(client, stop=[whole[4:7]], logprobs=True).choices[0]

    assert choice.message.content == whole[: whole.index(whole[4:7])]
    assert choice.finish_reason == "stop"
    spelled = "".join(token.token for token in choice.logprobs.content)
    assert spelled.startswith(choice.message.content)


def test_a_schema_is_kept(client: openai.OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer"}, "word": {"enum": ["a", "b"]}},
        "required": ["n", "word"],
        "additionalProperties": False,
    }
    response_format = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}}

    answer = ask(client, response_format=response_format, max_tokens=200, temperature=1.0, seed=1)

    assert answer.choices[0].finish_reason == "stop"
    found = json.loads(answer.choices[0].message.content)
    assert isinstance(found["n"], int)
    assert found["word"] in ("a", "b")


def test_tools_are_told_to_the_model(client: openai.OpenAI) -> None:
    tools = [{"type": "function", "function": {"name": "look_up", "parameters": {"type": "object", "properties": {}}}}]

    with_tools, without = ask(client, tools=tools), ask(client, tools=tools, tool_choice="none")

    assert with_tools.usage.prompt_tokens > without.usage.prompt_tokens
    assert without.usage == ask(client).usage


def test_texts_and_tokens_are_continued(client: openai.OpenAI) -> None:
    one = complete(client, "The quick brown", logprobs=2)
    many = complete(client, ["The quick brown", "A teacher"], n=2)
    ids = complete(client, [1, 87, 85])

    assert (one.object, len(one.choices[0].logprobs.tokens)) == ("text_completion", 5)
    assert [choice.index for choice in many.choices] == [0, 1, 2, 3]
    assert many.choices[0].text == many.choices[1].text == one.choices[0].text != many.choices[2].text
    assert (ids.usage.prompt_tokens, many.usage.completion_tokens) == (3, 20)


def test_a_completion_is_streamed(client: openai.OpenAI) -> None:
    pieces = [chunk.choices[0].text for chunk in complete(client, "The quick", stream=True)]

    assert "".join(pieces) == complete(client, "The quick").choices[0].text


def test_bases_and_adapters_are_listed_and_found(client: openai.OpenAI, adapter: str) -> None:
    cards = {card.id: card for card in client.models.list()}

    assert cards[adapter].parent == BASE  # type: ignore[attr-defined]
    assert cards[BASE].parent is None  # type: ignore[attr-defined]
    assert client.models.retrieve(adapter) == cards[adapter]
    assert client.models.retrieve(BASE) == cards[BASE]


@pytest.mark.parametrize("model", ["no-such-model", "adapter-" + "a" * 24, "job-" + "a" * 24, "gpt:4", "../../etc"])
def test_an_unknown_model_is_not_found(client: openai.OpenAI, model: str) -> None:
    with pytest.raises(openai.NotFoundError) as found:
        ask(client, model=model)

    assert found.value.param == "model"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve(model)


def test_an_adapter_is_deleted_and_a_base_is_not(client: openai.OpenAI, home: Path) -> None:
    database = Database.open(Settings(home=home).database)
    row = add_adapter(database, home / "own", base_model=BASE)
    database.close()

    gone = client.models.delete(row.id)

    assert (gone.id, gone.object, gone.deleted) == (row.id, "model", True)
    with pytest.raises(openai.NotFoundError):
        client.models.delete(row.id)
    with pytest.raises(openai.BadRequestError) as refused:
        client.models.delete(BASE)
    assert refused.value.param == "model"


def test_an_answer_can_be_sent_back_as_the_library_dumps_it(client: openai.OpenAI) -> None:
    earlier = ask(client).choices[0].message.model_dump()

    answer = ask(client, messages=[{"role": "developer", "content": "Be brief."}, *CHAT, earlier, *CHAT])

    assert answer.usage.prompt_tokens > ask(client).usage.prompt_tokens


def test_a_chat_without_a_limit_goes_on_to_the_end_of_its_context(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="base-2", prompt=[5] * 2040, temperature=0)

    assert answer.usage is not None
    assert (answer.usage.completion_tokens, answer.choices[0].finish_reason) == (8, "length")
