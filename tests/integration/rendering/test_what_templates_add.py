"""What a chat template adds to an answer or takes away, and what it asks for answers with: right, or named."""

from dataclasses import replace
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from app.contracts.chat import ChatForm
from app.contracts.records import ChatRecord, CompletionRecord, Message
from tests.chat_formats import FORMATS, ChatFormat
from tests.chat_formats.learner import Learner, assistant, system, user
from tests.chat_formats.published import CHATML, DEEPSEEK_R1, QWEN_3
from worker.rendering.refusal import RowRefused
from worker.rendering.renderer import Renderer
from worker.rendering.rows import Learned, tokenise

LONE = "It is three times three.\n</think>\n\nNo."
TURN = "{{ '<|im_start|>' ~ m.role ~ '\n' ~ m.content ~ '<|im_end|>\n' }}"
NO_PROMPT = "{% for m in messages %}" + TURN + "{% endfor %}"
OPENS_THOUGHT = NO_PROMPT + "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}"
ASKS = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
REMINDS = (
    "{% for m in messages %}{% if m.role == 'user' and loop.revindex <= 2 %}[last]{% endif %}" + TURN + "{% endfor %}"
)


def learner_of(template: str, form: ChatFormat = CHATML) -> Learner:
    return Learner(replace(form, template=template))


def found(learner: Learner, *turns: Message, **learned: Any) -> set[str]:
    row = learner.chat(list(turns), **learned)
    return row.findings | row.named.keys()


def test_a_lone_end_of_thinking_that_is_learned_is_named() -> None:
    assert found(Learner(CHATML), user("a"), assistant(LONE)) == {"thinking_unpaired"}
    assert found(Learner(CHATML), user("a"), assistant("<think>No")) == {"thinking_unpaired"}
    assert found(Learner(CHATML), user("a"), assistant(f"<think>{LONE}")) == set()


def test_a_lone_end_of_thinking_behind_a_prompt_that_begins_a_thought_is_not_unpaired() -> None:
    learner = learner_of(
        OPENS_THOUGHT.replace("m.content", "('<think>\n' if m.role == 'assistant' else '') ~ m.content")
    )

    assert found(learner, user("a"), assistant(LONE)) == set()
    assert found(learner_of(OPENS_THOUGHT), user("a"), assistant(LONE)) == {"prompt_differs", "thinking_unpaired"}


def test_what_a_template_adds_to_an_answer_is_named_with_its_text() -> None:
    row = Learner(QWEN_3).chat([user("a"), assistant(LONE)])

    assert row.named == {"text_added": ["'<think>\\n'"]}


def test_blanks_that_a_template_changes_within_an_answer_are_no_lost_thinking() -> None:
    chat = [user("a"), assistant("<think>Two.</think>Hi.")]

    assert found(Learner(QWEN_3), *chat) == {"answer_rewritten"}


def test_thinking_that_is_cut_away_is_named_also_where_the_question_has_its_words() -> None:
    chat = [user(f"What is wrong with {LONE}"), assistant(LONE)]

    assert found(Learner(DEEPSEEK_R1), *chat) == {"thinking_left_out"}


@pytest.mark.parametrize("train_on", ["all", "last_response"])
def test_an_answer_that_is_changed_is_never_learned_without_a_word(train_on: str) -> None:
    learner = learner_of(NO_PROMPT.replace("m.content", "m.content | upper") + ASKS)
    try:
        named = found(learner, user("A"), assistant("b"), train_on=train_on)
    except RowRefused as refused:
        named = {refused.code}

    assert named == {"content_left_out" if train_on == "all" else "answer_changed"}


def test_what_a_template_without_a_prompt_writes_before_an_answer_is_the_prompt() -> None:
    learner, chat = learner_of(NO_PROMPT), [system(), user("a"), assistant("b"), user("c"), assistant("d")]
    row = learner.chat(chat)

    assert learner.learned(row) == ["b<|im_end|>", "d<|im_end|>"]
    assert [row.input_ids[: run.first] for run in learner.runs(row)] == [learner.prompt(chat[:n]) for n in (2, 4)]
    assert row.input_ids == learner.template(chat)
    assert row.named == {"prompt_found": ["'<|im_start|>assistant\\n'"]}


def test_a_prompt_that_was_found_stands_only_where_an_answer_is_asked_for() -> None:
    renderer, begun = learner_of(NO_PROMPT).renderer, [user("a"), assistant("b")]

    assert renderer.render(begun[:1], add_generation_prompt=True).endswith("<|im_start|>assistant\n")
    for form in (ChatForm(continue_final_message=True), ChatForm(add_generation_prompt=False)):
        assert renderer.decode(renderer.prompt_ids(begun, None, form)).count("<|im_start|>assistant\n") == 1


def test_a_blank_behind_the_prompt_that_was_found_belongs_to_the_answer() -> None:
    learner = learner_of("{% for m in messages %}{{ m.role ~ ': ' ~ m.content ~ '<|im_end|>' }}{% endfor %}")

    assert learner.renderer.traits.found_prompt == "assistant:"
    assert learner.learned(learner.chat([user("a"), assistant("b")])) == [" b<|im_end|>"]


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
def test_no_prompt_is_looked_for_in_a_public_format(form: ChatFormat) -> None:
    assert Learner(form).renderer.traits.found_prompt == ""


def test_a_history_that_generate_would_write_otherwise_is_named() -> None:
    chat = [user("a"), assistant("b"), user("c"), assistant("d")]

    assert found(learner_of(REMINDS + ASKS), *chat[:2]) == set()
    assert found(learner_of(REMINDS + ASKS), *chat) == {"prompt_differs"}


# Llama 3's form, for a tokenizer that has none of its marks.
HEADED = (
    "{% for m in messages %}{{ '<|header|>' ~ m.role ~ '<|end_header|>\n\n' ~ m.content ~ '<|eot|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|header|>assistant<|end_header|>\n\n' }}{% endif %}"
)


def headed_renderer(normalizer: normalizers.Normalizer | None = None) -> Renderer:
    """Of a tokenizer as GPT-2's: two line breaks are one token at the end of a text, and two before a word."""
    letters = {letter: number for number, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE({**letters, "ĊĊ": len(letters)}, [("Ċ", "Ċ")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", clean_up_tokenization_spaces=False)
    fast.chat_template = HEADED
    return Renderer(fast)


@pytest.fixture(scope="module")
def by_lines() -> Renderer:
    return headed_renderer()


def test_a_prompt_of_plain_text_is_the_same_tokens_whatever_answers_it(by_lines: Renderer) -> None:
    chat = [user("a"), assistant("b"), user("c"), assistant("d")]
    row = tokenise(ChatRecord(messages=chat), by_lines, Learned())
    prompts = [by_lines.prompt_ids(chat[:count]) for count in (1, 3)]

    assert prompts[0][-1] == by_lines.encode("\n\n").ids[0]
    assert [row.input_ids[: len(prompt)] for prompt in prompts] == prompts
    assert "prompt_tokens_differ" not in row.findings


def test_a_prompt_of_a_completion_is_the_same_tokens_whatever_completes_it(by_lines: Renderer) -> None:
    row = tokenise(CompletionRecord(prompt="a\n\n", completion="b"), by_lines, Learned())

    assert row.input_ids[:2] == by_lines.text_ids("a\n\n")


def test_tokens_that_cannot_be_made_the_same_are_named() -> None:
    renderer = headed_renderer(normalizers.Replace("\n\nb", "\n\nc"))

    row = tokenise(ChatRecord(messages=[user("a"), assistant("b")]), renderer, Learned())

    assert "prompt_tokens_differ" in row.findings
