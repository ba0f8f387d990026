"""Loss falls on the assistant's own words and their end token, found from the rendered text."""

from typing import Any

import pytest

from app.contracts.records import ChatRecord
from worker.training.masking import IGNORED, UnmaskableTemplate, labels_of, render_chat

END = "<|im_end|>"


def chatml(messages: list[dict[str, Any]], add_generation_prompt: bool) -> str:
    text = "".join(f"<|im_start|>{m['role']}\n{m['content']}{END}\n" for m in messages)
    return text + "<|im_start|>assistant\n" if add_generation_prompt else text


def forgetful(messages: list[dict[str, Any]], add_generation_prompt: bool) -> str:
    """A template that drops all but the last turn, as some drop earlier reasoning."""
    return chatml(messages[-1:], add_generation_prompt)


def a_chat(*turns: tuple[str, str], **last: Any) -> ChatRecord:
    messages: list[dict[str, Any]] = [{"role": role, "content": content} for role, content in turns]
    messages[-1].update(last)
    return ChatRecord.model_validate({"messages": messages})


def learned(chat: ChatRecord, *, all_tokens: bool = False) -> list[str]:
    rendered = render_chat(chat, chatml, [END], all_tokens=all_tokens)
    return [rendered.text[start:end] for start, end in rendered.spans]


CHAT = a_chat(("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"))


def test_every_assistant_turn_is_learned_with_its_end_token_and_nothing_else() -> None:
    assert learned(CHAT) == [f"b{END}", f"d{END}"]


def test_a_turn_of_weight_zero_carries_no_loss() -> None:
    assert learned(a_chat(("user", "a"), ("assistant", "b"), weight=0)) == []


def test_an_answer_that_repeats_the_question_is_told_from_it() -> None:
    assert learned(a_chat(("user", "same"), ("assistant", "same"))) == [f"same{END}"]


def test_full_sequence_loss_takes_every_character() -> None:
    assert learned(CHAT, all_tokens=True) == [chatml([m.for_template() for m in CHAT.messages], False)]


def test_a_template_that_rewrites_earlier_turns_is_refused() -> None:
    with pytest.raises(UnmaskableTemplate, match="turn 2"):
        render_chat(CHAT, forgetful, [END], all_tokens=False)


def test_labels_are_ids_inside_the_spans_and_ignored_elsewhere() -> None:
    offsets = [(0, 2), (2, 4), (4, 6), (6, 6), (6, 8)]

    assert labels_of([1, 2, 3, 4, 5], offsets, [(2, 6)]) == [IGNORED, 2, 3, IGNORED, IGNORED]


def test_a_token_that_reaches_out_of_a_span_is_not_learned() -> None:
    assert labels_of([1, 2], [(0, 3), (3, 5)], [(1, 5)]) == [IGNORED, 2]
