"""What the text of an answer has, what is told beside it, and how long it may take."""

from typing import Any

import openai
import pytest

from tests.integration.openai_api.asking import ask, complete


@pytest.mark.parametrize("seed", [-1, -(2**63), 2**63 - 1])
def test_every_seed_that_openai_takes_gives_one_answer(client: openai.OpenAI, seed: int) -> None:
    first, second = (ask(client, seed=seed, temperature=1.5) for _ in range(2))

    assert first.choices == second.choices


def test_a_stop_string_is_told_where_it_is_asked_for(client: openai.OpenAI) -> None:
    whole = ask(client).choices[0].message.content
    stop = whole[4:7]

    wanted = {"stop": stop, "extra_body": {"include_stop_str_in_output": True}}
    choice, chunks = ask(client, **wanted).choices[0], list(ask(client, stream=True, **wanted))

    assert choice.message.content == whole[: whole.index(stop) + len(stop)]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == choice.message.content


def test_ids_are_told_and_are_those_of_the_text(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"prompt": "The quick brown", "extra_body": {"return_token_ids": True}}

    told = complete(client, **asked).choices[0].model_dump()
    chunks = [chunk.choices[0].model_dump() for chunk in complete(client, stream=True, **asked)]

    streamed = [one for chunk in chunks for one in chunk.get("token_ids") or ()]
    assert streamed == told["token_ids"]
    assert len(streamed) == 5
    assert chunks[-1]["prompt_token_ids"] == told["prompt_token_ids"]
    assert complete(client, told["prompt_token_ids"]).choices[0].text == told["text"]


@pytest.mark.parametrize("prompt", ["The quick brown", [1, 87, 85]], ids=str)
def test_a_prompt_is_repeated_where_that_is_asked_for(client: openai.OpenAI, prompt: Any) -> None:
    answer = complete(client, prompt).choices[0].text

    echoed = complete(client, prompt, echo=True).choices[0].text
    streamed = "".join(chunk.choices[0].text for chunk in complete(client, prompt, echo=True, stream=True))

    assert echoed == streamed
    assert echoed.endswith(answer)
    assert len(echoed) > len(answer)
    assert not isinstance(prompt, str) or echoed == prompt + answer


QUESTION = {"role": "user", "content": "Who jumps?"}
WRITTEN = "<|im_start|>user\nWho jumps?<|im_end|>\n"


def test_an_answer_goes_on_with_the_last_message(client: openai.OpenAI) -> None:
    talk = [QUESTION, {"role": "assistant", "content": "The quick brown"}]

    goes_on = ask(client, messages=talk, max_tokens=8, extra_body={"continue_final_message": True})

    raw = complete(client, f"{WRITTEN}<|im_start|>assistant\nThe quick brown", max_tokens=8)
    assert goes_on.choices[0].message.content == raw.choices[0].text
    assert goes_on.usage.prompt_tokens == raw.usage.prompt_tokens


def test_the_model_speaks_for_itself_where_nothing_asks_for_an_answer(client: openai.OpenAI) -> None:
    answer = ask(client, messages=[QUESTION], max_tokens=8, extra_body={"add_generation_prompt": False})

    assert answer.choices[0].message.content == complete(client, WRITTEN, max_tokens=8).choices[0].text


def test_an_answer_that_takes_longer_than_asked_is_given_up(client: openai.OpenAI) -> None:
    with pytest.raises(openai.APIStatusError) as late:
        ask(client, model="base-2", max_tokens=1500, extra_body={"timeout": 0.05, "ignore_eos": True})

    assert (late.value.status_code, late.value.code, late.value.param) == (408, "timeout", "timeout")
    assert ask(client).choices[0].message.content
