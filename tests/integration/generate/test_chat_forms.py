"""Where a prompt ends and what its template is told: `add_generation_prompt`, `continue_final_message`,
`chat_template_kwargs`, in every public chat format."""

from typing import Any

import pytest

from app.contracts.chat import ChatForm
from tests.chat_formats import FORMATS
from tests.chat_formats.learner import Learner, assistant, call, result, user
from tests.chat_formats.published import GEMMA_2, LLAMA_2, LLAMA_31, QWEN_3, QWEN_25
from worker.rendering.refusal import RowRefused

TALK = [user("Hello"), assistant("Hi."), user("What is two and two?")]
BEGUN = ("It", "It is fo", "It is four.", "**", "\U0001f30d and", "a\n\nb", "It is <|im_end|> or </s>")
CONTINUES = ChatForm(continue_final_message=True)


@pytest.fixture(scope="module", params=FORMATS, ids=lambda form: form.name)
def learner(request: pytest.FixtureRequest) -> Learner:
    return Learner(request.param)


def ids_of(learner: Learner, *turns: Any, tools: Any = None, **form: Any) -> list[int]:
    return learner.renderer.prompt_ids(list(turns), tools, ChatForm(**form))


@pytest.mark.parametrize("words", BEGUN)
def test_the_prompt_of_a_begun_answer_is_the_question_and_its_words(learner: Learner, words: str) -> None:
    asked = learner.prompt(TALK)

    ids = learner.renderer.prompt_ids([*TALK, assistant(words)], None, CONTINUES)

    assert ids[: len(asked)] == asked
    assert learner.decoded(ids).endswith(words)
    learned = learner.learned(learner.chat([*TALK, assistant(words)]))[-1]
    begun = learner.decoded(ids)[len(learner.decoded(asked)) :]
    assert begun.strip()
    assert learned.startswith(begun)


def test_blanks_behind_the_words_are_those_that_the_template_leaves(learner: Learner) -> None:
    ids = learner.renderer.prompt_ids([*TALK, assistant("It is ")], None, CONTINUES)

    assert learner.decoded(ids).endswith("It is" if learner.format.trims else "It is ")


def test_nothing_asks_for_an_answer_where_that_is_not_wanted(learner: Learner) -> None:
    ids = ids_of(learner, *TALK, add_generation_prompt=False)

    assert ids == learner.template(TALK)


def test_a_name_that_the_template_does_not_read_is_refused_with_those_that_it_reads() -> None:
    with pytest.raises(RowRefused) as refused:
        ids_of(Learner(QWEN_3), *TALK, chat_template_kwargs={"enable_thinkin": False})

    assert (refused.value.code, refused.value.field) == ("unknown_template_variable", "chat_template_kwargs")
    assert "'enable_thinkin'" in str(refused.value)
    assert refused.value.expected == "names that it reads: enable_thinking"


def test_what_a_template_reads_is_known_from_what_it_sets_itself() -> None:
    asked = {"builtin_tools", "custom_tools", "date_string", "tools_in_user_message"}

    assert Learner(LLAMA_31).renderer.templates.variables == asked
    assert not Learner(LLAMA_2).renderer.templates.variables


@pytest.mark.parametrize("name", ["messages", "tools", "add_generation_prompt", "bos_token", "raise_exception", "loop"])
def test_what_is_not_the_users_to_say_is_refused(name: str) -> None:
    with pytest.raises(RowRefused, match="does not read"):
        ids_of(Learner(GEMMA_2), *TALK, chat_template_kwargs={name: "x"})


@pytest.mark.parametrize("thinks", [True, False])
def test_the_template_is_told_what_was_asked_for(thinks: bool) -> None:
    learner = Learner(QWEN_3)

    ids = ids_of(learner, *TALK, chat_template_kwargs={"enable_thinking": thinks})

    assert ids == learner.template(TALK, add_generation_prompt=True, enable_thinking=thinks)
    assert ("</think>" in learner.decoded(ids)) is not thinks


def test_earlier_answers_are_the_same_tokens_whatever_the_template_is_told() -> None:
    learner = Learner(QWEN_3)
    talk = [user("Hello"), assistant("\nHi."), user("And?")]

    plain, told = ids_of(learner, *talk), ids_of(learner, *talk, chat_template_kwargs={"enable_thinking": False})

    assert told[: len(plain)] == plain


def test_control_tokens_in_a_value_are_plain_text() -> None:
    learner = Learner(LLAMA_31)
    tokens = ("<|eot_id|>", "<|start_header_id|>")
    counts = [
        learner.controls(ids_of(learner, *TALK, chat_template_kwargs={"date_string": day}))
        for day in ("x", "".join(tokens))
    ]

    assert counts[0] == counts[1]


def test_an_answer_behind_a_tool_is_continued() -> None:
    learner = Learner(QWEN_25)
    talk = [user("Is it sunny?"), assistant("", tool_calls=call(city="Rome")), result("22 C"), assistant("Sun")]

    ids = learner.renderer.prompt_ids(talk, None, CONTINUES)

    assert ids[: len(learner.prompt(talk[:3]))] == learner.prompt(talk[:3])
    assert learner.decoded(ids).endswith("assistant\nSun")


def test_words_that_the_template_writes_differently_cannot_be_continued() -> None:
    with pytest.raises(RowRefused, match="changes the content of this message") as refused:
        ids_of(Learner(QWEN_3), *TALK, assistant("<think>a</think>\n\nb"), continue_final_message=True)

    assert refused.value.field == "messages"
