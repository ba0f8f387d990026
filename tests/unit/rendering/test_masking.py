"""Loss falls on the assistant's own words and their end token, found from the rendered text."""

from collections.abc import Sequence

import pytest

from app.contracts.records import Message
from worker.rendering.masking import Chat, Prefixes, Render, marked_spans, tokens_of
from worker.rendering.refusal import RowRefused

END = "<|im_end|>"


def chatml(messages: Sequence[Message], add_generation_prompt: bool) -> str:
    text = "".join(f"<|im_start|>{m.role}\n{m.content}{END}\n" for m in messages)
    return text + "<|im_start|>assistant\n" if add_generation_prompt else text


def thinking(messages: Sequence[Message], add_generation_prompt: bool) -> str:
    """A template that puts an empty thought before the last answer only, as some do."""
    *earlier, last = messages
    if last.role == "assistant":
        last = last.model_copy(update={"content": f"<think></think>{last.content}"})
    return chatml([*earlier, last], add_generation_prompt)


def forgetful(messages: Sequence[Message], add_generation_prompt: bool) -> str:
    """A template that leaves out all but the last turn."""
    return chatml(messages[-1:], add_generation_prompt)


def plain(messages: Sequence[Message], add_generation_prompt: bool) -> str:
    """A template without tokens that end a turn."""
    text = "".join(f"{m.role}: {m.content}\n" for m in messages)
    return text + "assistant:" if add_generation_prompt else text


def turns(*pairs: tuple[str, str]) -> list[Message]:
    return [Message.model_validate({"role": role, "content": content}) for role, content in pairs]


CHAT = turns(("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"))


def learned(messages: list[Message], render: Render = chatml) -> list[str]:
    text = render(messages, False)
    answers = [index for index, message in enumerate(messages) if message.role == "assistant"]
    return [text[turn.start : turn.end] for turn in Chat(Prefixes(messages, text, render), [END]).turns(answers)]


LEARNED: dict[str, tuple[list[Message], Render, list[str]]] = {
    "every answer with its end token and nothing else": (CHAT, chatml, [f"b{END}", f"d{END}"]),
    "an answer that repeats the question": (turns(("user", "same"), ("assistant", "same")), chatml, [f"same{END}"]),
    "an empty answer": (turns(("user", "a"), ("assistant", "")), chatml, [END]),
    "turns that change once others follow": (CHAT, thinking, [f"b{END}", f"<think></think>d{END}"]),
    "whole turns without end tokens": (CHAT, plain, [" b\n", " d\n"]),
}


@pytest.mark.parametrize(("messages", "render", "expected"), LEARNED.values(), ids=LEARNED)
def test_answers_are_learned(messages: list[Message], render: Render, expected: list[str]) -> None:
    assert learned(messages, render) == expected


@pytest.mark.parametrize("answer", ["Q", "Z", "J", "W", "Qx0J", "Zk7W", "Qx0J Zk7W", "x"])
def test_what_a_turn_says_is_found_whatever_it_has_in_common_with_the_probes(answer: str) -> None:
    chat = turns(("user", "a"), ("assistant", answer), ("user", "c"), ("assistant", "d"))

    assert learned(chat, thinking)[0] == answer + END


def test_a_template_that_leaves_a_learned_turn_out_is_refused_by_its_place() -> None:
    with pytest.raises(RowRefused, match=r"messages\[2\]: found a chat template"):
        learned(CHAT, forgetful)


def test_markers_give_what_stands_between_an_answer_and_the_next_question() -> None:
    text = "[INST] hi [/INST] hello</s>[INST] bye [/INST] goodbye</s>"

    assert [text[start:end] for start, end in marked_spans(text, "[INST]", "[/INST]")] == [" hello</s>", " goodbye</s>"]


def test_markers_that_are_not_there_give_nothing() -> None:
    assert marked_spans("plain text", "[INST]", "[/INST]") == []


OFFSETS = [(0, 2), (2, 4), (4, 4), (4, 6), (6, 7), (6, 7), (7, 9)]


@pytest.mark.parametrize(
    ("span", "tokens"),
    [
        ((0, 9), (0, 7)),
        ((2, 4), (1, 2)),
        ((4, 6), (2, 4)),  # a token without characters belongs to what follows it
        ((6, 7), (4, 6)),  # two tokens of one character
        ((1, 5), (1, 3)),  # tokens over the border are out
        ((9, 9), (7, 7)),
    ],
)
def test_the_tokens_of_a_span_are_those_that_lie_in_it_whole(span: tuple[int, int], tokens: tuple[int, int]) -> None:
    assert tokens_of("x" * 9, OFFSETS, span) == tokens
