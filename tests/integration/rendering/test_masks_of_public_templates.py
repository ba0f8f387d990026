"""In every public chat format exactly the answers and their end tokens are learned, behind the prompt of /generate."""

from collections.abc import Sequence

import pytest

from app.contracts.records import Message
from tests.chat_formats import FORMATS, ChatFormat
from tests.chat_formats.learner import Learner, Tools, assistant, call, result, system, user
from tests.chat_formats.published import (
    DEEPSEEK_R1,
    DEEPSEEK_R1_THINKING,
    GEMMA_2,
    GRANITE,
    LLAMA_31,
    MISTRAL_V3,
    PHI_3,
    PHI_4,
    QWEN_3,
    QWEN_25,
    ZEPHYR,
)
from worker.rendering.refusal import RowRefused

TALK = [
    user("Hello"),
    assistant("Hi."),
    user("What is two and two?"),
    assistant("It is four."),
    user("Thanks."),
    assistant("Bye!"),
]
# Read off each format by hand.
LEARNED = {
    "chatml": ("Hi.<|im_end|>", "It is four.<|im_end|>", "Bye!<|im_end|>"),
    "llama2": (" Hi. </s>", " It is four. </s>", " Bye! </s>"),
    "llama3": ("Hi.<|eot_id|>", "It is four.<|eot_id|>", "Bye!<|eot_id|>"),
    "llama31": ("Hi.<|eot_id|>", "It is four.<|eot_id|>", "Bye!<|eot_id|>"),
    "mistral_v1": (" Hi.</s>", " It is four.</s>", " Bye!</s>"),
    "mistral_v3": (" Hi.</s>", " It is four.</s>", " Bye!</s>"),
    "mistral_v7": (" Hi.</s>", " It is four.</s>", " Bye!</s>"),
    "mistral_v7_tekken": ("Hi.</s>", "It is four.</s>", "Bye!</s>"),
    "gemma2": ("Hi.<end_of_turn>", "It is four.<end_of_turn>", "Bye!<end_of_turn>"),
    "gemma3": ("Hi.<end_of_turn>", "It is four.<end_of_turn>", "Bye!<end_of_turn>"),
    "phi3": ("Hi.<|end|>", "It is four.<|end|>", "Bye!<|end|>"),
    "phi4": ("Hi.<|im_end|>", "It is four.<|im_end|>", "Bye!<|im_end|>"),
    "qwen25": ("Hi.<|im_end|>", "It is four.<|im_end|>", "Bye!<|im_end|>"),
    "qwen3": ("Hi.<|im_end|>", "It is four.<|im_end|>", "<think>\n\n</think>\n\nBye!<|im_end|>"),
    "zephyr": ("Hi.</s>", "It is four.</s>", "Bye!</s>"),
    "alpaca": ("Hi.</s>", "It is four.</s>", "Bye!</s>"),
    "deepseek_r1": ("Hi.<｜end▁of▁sentence｜>", "It is four.<｜end▁of▁sentence｜>", "Bye!<｜end▁of▁sentence｜>"),
    "granite": ("Hi.<|end_of_text|>", "It is four.<|end_of_text|>", "Bye!<|end_of_text|>"),
}
CONTENTS = {
    "leading blanks": "  Hi",
    "trailing blanks": "Hi  ",
    "leading line breaks": "\n\nHi",
    "trailing line breaks": "Hi\n\n",
    "emoji": "\U0001f30d and \U0001f469\u200d\U0001f467",
    "right to left": "שלום, مرحبا",
    "empty": "",
    "the word assistant": "assistant",
    "the word user": "user\n",
    "the answer before it": "Hi.",
    "the question": "What is two and two?",
    "another turn's end": "Hi.\n\nuser\nIt is four.",
}
TOOLS: Tools = [{"type": "function", "function": {"name": "weather", "description": "Tells it.", "parameters": {}}}]
CALLING = [
    user("Is it sunny in Rome?"),
    assistant("", tool_calls=call(city="Rome")),
    result("22 C"),
    assistant("Sunny."),
]
HERMES = '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call><|im_end|>'
CALLS = {
    LLAMA_31: '{"name": "weather", "parameters": {"city": "Rome"}}<|eot_id|>',
    MISTRAL_V3: '[TOOL_CALLS] [{"name": "weather", "arguments": {"city": "Rome"}, "id": "call00001"}]</s>',
    QWEN_25: HERMES,
    QWEN_3: HERMES,
}


def talk(learner: Learner, *turns: Message) -> list[Message]:
    """The turns, or the three questions with their answers, behind a system message where the format has them."""
    return [*([system()] if learner.format.supports_system else []), *(turns or TALK)]


def prompts(learner: Learner, messages: Sequence[Message], tools: Tools | None = None) -> list[list[int]]:
    """The ids that /generate feeds for each answer of a chat."""
    places = [place for place, message in enumerate(messages) if message.role == "assistant"]
    return [learner.prompt(messages[:place], tools) for place in places]


def test_the_answers_and_their_end_tokens_are_learned_and_nothing_else(learner: Learner) -> None:
    row = learner.chat(talk(learner))

    assert tuple(learner.learned(row)) == LEARNED[learner.format.name]
    assert row.findings == set()


def test_a_harmless_chat_has_the_ids_that_transformers_gives_it(learner: Learner) -> None:
    messages = talk(learner)

    assert learner.chat(messages).input_ids == learner.template(messages)
    assert learner.prompt(messages[:-1]) == learner.template(messages[:-1], add_generation_prompt=True)


def test_an_answer_of_weight_zero_is_not_learned(learner: Learner) -> None:
    first, _, last = LEARNED[learner.format.name]
    messages = talk(learner, *TALK[:3], assistant("It is four.", weight=0), *TALK[4:])

    row = learner.chat(messages)

    assert learner.learned(row) == [first, last]
    assert row.input_ids == learner.chat(talk(learner)).input_ids


def test_the_last_response_alone_is_learned_where_that_is_asked(learner: Learner) -> None:
    row = learner.chat(talk(learner), train_on="last_response")

    assert learner.learned(row) == [LEARNED[learner.format.name][2]]


def test_every_token_is_learned_where_that_is_asked(learner: Learner) -> None:
    row = learner.chat(talk(learner), train_on="all")

    assert row.labels == row.input_ids


@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
def test_an_answer_is_learned_and_a_question_is_not_whatever_they_say(learner: Learner, content: str) -> None:
    first, _, last = LEARNED[learner.format.name]
    messages = talk(learner, *TALK[:2], user(content), assistant(content), *TALK[4:])

    row = learner.chat(messages)

    assert learner.learned(row) == [first, learner.format.learned(content), last]
    assert [row.input_ids[: run.first] for run in learner.runs(row)] == prompts(learner, messages)


def test_the_end_of_the_last_answer_is_learned_where_padding_is_the_same_token(learner: Learner) -> None:
    padded = Learner(learner.format)
    padded.renderer.tokenizer.pad_token = learner.format.eos

    row = padded.chat(talk(learner))

    last = learner.runs(row)[-1].last - 1
    assert row.labels[last] == learner.tokenizer.convert_tokens_to_ids(learner.format.end)
    assert row.labels == learner.chat(talk(learner)).labels


@pytest.mark.parametrize("form", [form for form in FORMATS if form is not GRANITE], ids=lambda form: form.name)
def test_a_tool_call_is_learned_in_the_words_of_the_template_or_as_text(form: ChatFormat) -> None:
    learner = Learner(form)

    row = learner.chat(CALLING, TOOLS)

    asked = CALLS[form] if form.supports_tools else form.learned(HERMES.removesuffix("<|im_end|>"))
    assert learner.learned(row) == [asked, form.learned("Sunny.", is_last=True)]
    assert [row.input_ids[: run.first] for run in learner.runs(row)] == prompts(learner, CALLING, TOOLS)
    assert ("tools_as_text" in row.findings) is not form.supports_tools


@pytest.mark.parametrize("form", CALLS, ids=lambda form: form.name)
def test_a_chat_with_tools_has_the_ids_that_transformers_gives_it(form: ChatFormat) -> None:
    learner = Learner(form)

    assert learner.prompt(CALLING[:3], TOOLS) == learner.template(CALLING[:3], tools=TOOLS, add_generation_prompt=True)


def test_a_template_that_writes_definitions_and_no_calls_is_refused() -> None:
    with pytest.raises(RowRefused) as refused:
        Learner(GRANITE).chat(CALLING, TOOLS)

    assert refused.value.code == "template_without_tools"


THOUGHT = "<think>\nTwo.\n</think>\n\n"
NO_THOUGHT = "<think>\n\n</think>\n\nBye!<|im_end|>"
END_OF_R1 = "<｜end▁of▁sentence｜>"
# What assistants said, what is learned of it, and what is found.
THOUGHTS: list[tuple[ChatFormat, list[str], list[str], set[str]]] = [
    (QWEN_3, [f"{THOUGHT}Hi.", "Bye!"], ["Hi.<|im_end|>", NO_THOUGHT], {"thinking_left_out"}),
    (QWEN_3, ["Two.</think>Hi.", "Bye!"], ["Hi.<|im_end|>", NO_THOUGHT], {"thinking_left_out"}),
    (QWEN_3, [f"{THOUGHT}Hi."], [f"{THOUGHT}Hi.<|im_end|>"], set()),
    (
        DEEPSEEK_R1,
        ["Two.</think>Hi.", "<think>No.</think>\n\nBye!"],
        [f"Hi.{END_OF_R1}", f"\n\nBye!{END_OF_R1}"],
        {"thinking_left_out"},
    ),
]


@pytest.mark.parametrize(("form", "answers", "learned", "findings"), THOUGHTS, ids=lambda value: str(value)[:40])
def test_thinking_that_a_template_strips_is_named(
    form: ChatFormat, answers: list[str], learned: list[str], findings: set[str]
) -> None:
    learner = Learner(form)

    row = learner.chat([turn for answer in answers for turn in (user("a"), assistant(answer))])

    assert learner.learned(row) == learned
    assert row.findings == findings


def test_thinking_is_learned_in_the_models_own_tokens() -> None:
    learner = Learner(QWEN_3)

    row = learner.chat([user("a"), assistant(f"{THOUGHT}Hi.")])

    assert learner.tokenizer.convert_tokens_to_ids("<think>") in row.labels


def test_an_answer_that_no_prompt_leads_to_is_refused_or_named() -> None:
    learner = Learner(DEEPSEEK_R1_THINKING)
    try:
        findings = learner.chat(TALK).findings
    except RowRefused as refused:
        findings = {refused.code}

    assert findings, "learned behind <Assistant>, asked for behind <Assistant><think>"


def test_a_system_message_that_gemma_2_has_no_place_for_heads_the_first_question() -> None:
    learner = Learner(GEMMA_2)
    folded = [user("Be nice.\n\nHello"), *TALK[1:]]

    row = learner.chat([system(), *TALK])

    assert row.input_ids == learner.chat(folded).input_ids
    assert learner.prompt([system(), *TALK[:3]]) == learner.prompt(folded[:3])
    assert tuple(learner.learned(row)) == LEARNED["gemma2"]
    assert row.findings == {"system_folded"}


def test_a_system_message_that_mistral_v3_would_drop_heads_the_first_question() -> None:
    learner = Learner(MISTRAL_V3)

    row = learner.chat([system(), *TALK])

    assert learner.decoded(row.input_ids).startswith("<s>[INST] Be nice.\n\nHello[/INST] Hi.</s>")
    assert [row.input_ids[: run.first] for run in learner.runs(row)] == prompts(learner, [system(), *TALK])
    assert row.findings == {"system_folded"}


FINDINGS = {GRANITE: "content_left_out", PHI_3: "tools_as_text", PHI_4: "tools_as_text", ZEPHYR: "tools_as_text"}


@pytest.mark.parametrize("form", FINDINGS, ids=lambda form: form.name)
def test_a_result_that_the_template_leaves_out_is_named_or_stands_in_the_question(form: ChatFormat) -> None:
    learner = Learner(form)
    row = learner.chat([user("Sum?"), result("It is 42."), assistant("Hi.")])

    assert row.findings == {FINDINGS[form]}
    assert ("It is 42." in learner.decoded(row.input_ids)) == (form is not GRANITE)


def test_an_answer_that_llama_3_1_puts_into_the_users_mouth_is_refused() -> None:
    with pytest.raises(RowRefused):
        Learner(LLAMA_31).chat([assistant("Hi."), user("Hello")], TOOLS)
