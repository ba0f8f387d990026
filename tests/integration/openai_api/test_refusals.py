"""What cannot be done is refused with OpenAI's error and the name of the field; what means nothing here is taken."""

import re
from typing import Any

import openai
import pytest

from tests.integration.openai_api.asking import ask, complete

REFUSED_COMPLETIONS: list[tuple[dict[str, Any], str]] = [
    ({"prompt": ""}, "prompt"),
    ({"prompt": []}, "prompt"),
    ({"prompt": [""]}, "prompt"),
    ({"prompt": ["a", 1]}, "prompt"),
    ({"prompt": [-1]}, "prompt"),
    ({"prompt": [99_999]}, "prompt"),
    ({"prompt": ["x"] * 17}, "prompt"),
    ({"prompt": [5] * 3000}, "prompt"),
    ({"prompt": "x", "suffix": "y"}, "suffix"),
    ({"prompt": "x", "echo": True, "logprobs": 1}, "echo"),
    ({"prompt": "x", "stream": "yes"}, "stream"),
]


@pytest.mark.parametrize(("fields", "param"), REFUSED_COMPLETIONS, ids=lambda each: str(each)[:40])
def test_a_completion_that_cannot_be_given_names_its_field(
    client: openai.OpenAI, fields: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        complete(client, **fields)

    assert refused.value.param == param
    assert "prompt_token_ids" not in refused.value.message


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"extra_body": {"mood": "good"}}, "mood"),
    ({"store": True}, "store"),
    ({"service_tier": "priority"}, "service_tier"),
    ({"verbosity": "low"}, "verbosity"),
    ({"modalities": ["audio"]}, "modalities.0"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"temperature": 11}, "temperature"),
    ({"n": 17}, "n"),
    ({"top_logprobs": 21, "logprobs": True}, "top_logprobs"),
    ({"max_completion_tokens": 3}, "max_tokens"),
    ({"max_tokens": 100_000}, "max_tokens"),
    ({"stream": "yes"}, "stream"),
    ({"logprobs": 1}, "logprobs"),
    ({"seed": 2**63}, "seed"),
    ({"extra_body": {"echo": True}}, "echo"),
    ({"extra_body": {"chat_template_kwargs": {"enable_thinking": False}}}, "chat_template_kwargs"),
    ({"extra_body": {"chat_template_kwargs": {f"name_{i}": 1 for i in range(33)}}}, "chat_template_kwargs"),
    ({"extra_body": {"chat_template_kwargs": "thinking"}}, "chat_template_kwargs"),
    ({"extra_body": {"add_generation_prompt": 1}}, "add_generation_prompt"),
    ({"extra_body": {"continue_final_message": True}}, "continue_final_message"),
    (
        {
            "messages": [{"role": "assistant", "content": "So"}],
            "extra_body": {"continue_final_message": True, "add_generation_prompt": True},
        },
        "add_generation_prompt",
    ),
    (
        {"messages": [{"role": "assistant", "content": " "}], "extra_body": {"continue_final_message": True}},
        "continue_final_message",
    ),
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}}, "response_format.json_schema.schema"),
    ({"logit_bias": {"99999": 1}}, "logit_bias"),
    ({"logit_bias": {"5": 101}}, "logit_bias.5"),
    ({"extra_body": {"stop_token_ids": [99_999]}}, "stop_token_ids"),
    ({"extra_body": {"min_tokens": 13}}, "min_tokens"),
    ({"stream_options": {"include_usage": True}}, "stream_options"),
    ({"messages": [{"role": "assistant", "content": "x", "tool_calls": [{"id": "1"}]}]}, "messages.0.tool_calls"),
]


@pytest.mark.parametrize(("fields", "param"), REFUSED, ids=lambda each: str(each)[:60])
def test_what_cannot_be_done_is_refused_by_its_name(client: openai.OpenAI, fields: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        ask(client, **fields)

    assert str(refused.value.param).startswith(param)
    assert refused.value.type == "invalid_request_error"
    assert param.split(".")[0] in refused.value.message


OF_NO_EFFECT: list[dict[str, Any]] = [
    {"user": "me", "metadata": {"team": "a"}, "safety_identifier": "x", "prompt_cache_key": "y"},
    {"store": False, "service_tier": "auto", "parallel_tool_calls": True, "modalities": ["text"]},
    {"reasoning_effort": "medium", "verbosity": "medium", "parallel_tool_calls": False},
    {"temperature": 1.5, "top_p": 0},
    {"n": 1, "stop": None, "logit_bias": None, "tools": None, "response_format": {"type": "text"}},
]


@pytest.mark.parametrize("fields", OF_NO_EFFECT, ids=str)
def test_what_means_nothing_here_changes_nothing(client: openai.OpenAI, fields: dict[str, Any]) -> None:
    assert ask(client, **fields).choices == ask(client).choices


@pytest.mark.parametrize("stream", [False, True])
def test_a_conversation_that_is_too_long_is_refused_with_openais_sentence(client: openai.OpenAI, stream: bool) -> None:
    """Agents shorten a conversation by this code and this sentence."""
    with pytest.raises(openai.BadRequestError) as refused:
        ask(client, messages=[{"role": "user", "content": "word " * 3000}], stream=stream)

    assert (refused.value.code, refused.value.param) == ("context_length_exceeded", "messages")
    sentence = r"This model's maximum context length is \d+ tokens\. However, your messages resulted in \d+ tokens\. "
    assert re.search(sentence + r"Please reduce the length of the messages\.", refused.value.message)


def test_what_a_model_thought_before_changes_nothing(client: openai.OpenAI) -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]

    thought = [turns[0], {**turns[1], "reasoning_content": "so"}, turns[2]]

    assert ask(client, messages=thought).choices == ask(client, messages=turns).choices
