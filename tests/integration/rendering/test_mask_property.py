"""Any list of messages trains exactly what its assistant says, behind what /generate is fed, or is refused by name.

What is expected is worked out from the published formats, without the code under test.
"""

import json
from collections.abc import Sequence
from contextlib import suppress
from functools import cache

import pytest
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st

from app.contracts.records import Message
from tests.chat_formats import FORMATS, ChatFormat
from tests.chat_formats.chat_format import BLANKS
from tests.chat_formats.learner import Learner
from tests.tiers import examples
from worker.rendering.refusal import RowRefused
from worker.rendering.rows import TokenRow

EXAMPLES = examples(200)
CODES = {"template_refused", "template_not_maskable", "answer_changed", "special_tokens_in_content", "nothing_to_learn"}
CONTROLS = sorted({token for form in FORMATS for token in form.special_tokens})
THINKING = ["<think>\nTwo.\n</think>\n\nHi.", "Two.</think>Hi.", "</think>", "<think>"]
BLANK = ["", " ", "\n\n", "\r\n", "\t", "\x00", "\u2028"]
ODD = ["▁", "\ufdd0", "e\u0301", "\U0001f469\u200d\U0001f467", "שלום", "<0x41>"]
WORDS = ["Hi.", "assistant", "user\n", "model", "\n\nHi", "Hi  ", "  Hi", "Hi\n\n"]
MARKS = ["### Response:\n", "<|im_", "<tool_response>", "</tool_response>"]
PIECES = st.one_of(
    st.sampled_from([*WORDS, *MARKS, *BLANK, *ODD, *THINKING]), st.sampled_from(CONTROLS), st.text(max_size=6)
)
CONTENTS = st.lists(PIECES, max_size=3).map("".join)
WEIGHTS = st.sampled_from([None, 1, None, 0])


def a_message(role: str) -> st.SearchStrategy[Message]:
    call = "call00001" if role == "tool" else None
    weight = WEIGHTS if role == "assistant" else st.none()
    return st.builds(Message, role=st.just(role), content=CONTENTS, tool_call_id=st.just(call), weight=weight)


def messages_of(*roles: str) -> st.SearchStrategy[list[Message]]:
    return st.tuples(*map(a_message, roles)).map(list)


TURNS = ("user", "assistant")
ORDERLY = st.tuples(st.booleans(), st.integers(1, 3)).flatmap(
    lambda form: messages_of(*(["system"] if form[0] else []), *TURNS * form[1])
)
ANY_ROLE = st.sampled_from(["assistant", "user", "system", "assistant", "user", "tool"])
CHATS = ORDERLY | st.lists(ANY_ROLE, min_size=1, max_size=5).flatmap(lambda roles: messages_of(*roles))


@cache
def learner_of(form: ChatFormat) -> Learner:
    return Learner(form)


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
@settings(
    max_examples=EXAMPLES,
    derandomize=True,
    deadline=None,
    database=None,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)
@given(messages=CHATS)
def test_a_chat_trains_exactly_what_its_assistant_says_or_is_refused(form: ChatFormat, messages: list[Message]) -> None:
    learner = learner_of(form)
    note(repr([(message.role, message.content, message.weight) for message in messages]))
    try:
        row = learner.chat(messages)
    except RowRefused as refused:
        assert_is_a_reason(refused, messages)
        return

    assert_learns_the_answers(learner, messages, row)
    assert_is_plain_text(learner, messages, row)
    assert_names_what_is_lost(learner, messages, row)


def assert_is_a_reason(refused: RowRefused, messages: Sequence[Message]) -> None:
    """The rule is named, and an orderly chat breaks none."""
    assert refused.code in CODES
    assert refused.found
    assert refused.expected
    learns = any(is_learned(message) for message in messages)
    assert not (is_orderly(messages) and learns and refused.code != "special_tokens_in_content")


def assert_learns_the_answers(learner: Learner, messages: list[Message], row: TokenRow) -> None:
    """The runs are whole answers in their order, and each stands behind the prompt that asks for it."""
    assert len(row.labels) == len(row.input_ids)
    assert all(label in (-100, token) for label, token in zip(row.labels, row.input_ids, strict=True))
    wanted = [index for index, message in enumerate(messages) if is_learned(message)]
    for run in learner.runs(row):
        first, text = wanted[0], ""
        while wanted and len(text) < len(run.text):
            text += said(learner.format, messages, wanted.pop(0))
        assert run.text == text or is_later_answer(learner.format, messages, first, run.text)
        assert_stands_behind_its_prompt(learner, messages, first, row.input_ids[: run.first])
    assert wanted == []


def assert_stands_behind_its_prompt(learner: Learner, messages: list[Message], index: int, before: list[int]) -> None:
    """Not for an answer that nothing asked for, nor where a format rewrites earlier turns once others follow."""
    asked = messages[:index]
    if not asked or is_rewritten(learner.format, messages, asked):
        return
    try:
        prompt = learner.prompt(asked)
    except RowRefused:  # such a question is taken within a chat only
        return
    assert before == prompt


def is_rewritten(form: ChatFormat, messages: Sequence[Message], asked: Sequence[Message]) -> bool:
    """Qwen 3 shows thinking behind the last question only; DeepSeek R1 puts the last system message in front of all."""
    match form.name:
        case "qwen3":
            return asked[-1].role == "assistant" or any("</think>" in message.content for message in asked)
        case "deepseek_r1":
            return any(message.role == "system" for message in messages[len(asked) :])
        case _:
            return False


def assert_is_plain_text(learner: Learner, messages: Sequence[Message], row: TokenRow) -> None:
    """No content has become a control token, and contents that spell one are named."""
    harmless = [message.model_copy(update={"content": "x"}) for message in messages]
    spelled = any(token in message.content for token in learner.format.special_tokens for message in messages)

    with suppress(RowRefused):  # with words in it, a turn may have no place any more
        assert learner.controls(row.input_ids) == learner.controls(learner.chat(harmless).input_ids)
    assert spelled == ("special_tokens_in_content" in row.findings)


def assert_names_what_is_lost(learner: Learner, messages: Sequence[Message], row: TokenRow) -> None:
    text = learner.decoded(row.input_ids)
    others = [learner.format.read(m.content).strip(BLANKS).strip() for m in messages if m.role != "assistant"]
    lost = [
        content for content in others if content not in text and json.dumps(content, ensure_ascii=False) not in text
    ]

    assert not lost or "content_left_out" in row.findings


def is_learned(message: Message) -> bool:
    return message.role == "assistant" and message.weight != 0


def is_orderly(messages: Sequence[Message]) -> bool:
    """Questions and answers in turn, perhaps behind a system message: what every format takes."""
    turns = messages[1:] if messages[0].role == "system" else messages
    return bool(turns) and all(message.role == TURNS[place % 2] for place, message in enumerate(turns))


def said(form: ChatFormat, messages: Sequence[Message], index: int) -> str:
    """What is learned of one answer, by the format as published."""
    content = messages[index].content
    match form.name:
        case "deepseek_r1":
            return form.learned(content.rpartition("</think>")[2])
        case "qwen3":
            thought, answer = split_thinking(content)
            if is_thought_aloud(messages, index, thought):
                thinking = thought.strip("\n")
                return f"<think>\n{thinking}\n</think>\n\n" + form.learned(answer.lstrip("\n"))
            return form.learned(answer)
        case _:
            return form.learned(content)


def is_later_answer(form: ChatFormat, messages: Sequence[Message], index: int, learned: str) -> bool:
    """Qwen 3 shows thinking in an answer behind an answer once it is the last message: no prompt leads to that."""
    is_behind = form.name == "qwen3" and index > 0 and messages[index - 1].role == "assistant"
    return is_behind and learned.endswith(form.learned(split_thinking(messages[index].content)[1].lstrip("\n")))


def split_thinking(content: str) -> tuple[str, str]:
    """Thinking and answer, as Qwen 3 tells them apart."""
    if "</think>" not in content:
        return "", content
    thought = content.split("</think>")[0].rstrip("\n").split("<think>")[-1].lstrip("\n")
    return thought, content.split("</think>")[-1].lstrip("\n")


def is_thought_aloud(messages: Sequence[Message], index: int, thought: str) -> bool:
    """Behind the last question only, and in the last message even where there is no thought."""
    asked = [place for place, message in enumerate(messages) if message.role == "user" and not is_result(message)]
    return index > max(asked, default=len(messages) - 1) and (index == len(messages) - 1 or bool(thought))


def is_result(message: Message) -> bool:
    return message.content.startswith("<tool_response>") and message.content.endswith("</tool_response>")
