"""A chat has to have what the job learns from: any answer, the last one, or nothing special."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.contracts.records import ChatRecord, TextRecord
from tests.support.written_files import called, chat, lines, normalised, refused, sharegpt, turns

HI = [("user", "hi"), ("assistant", "hello")]


def weighted(*weights: int | None) -> dict[str, Any]:
    row = chat(*HI * len(weights))
    for answer, weight in zip(row["messages"][1::2], weights, strict=True):
        answer["weight"] = weight
    return row


@pytest.mark.parametrize("row", [weighted(0, None), weighted(0, 1), chat(*HI, ("user", "bye"))])
def test_the_last_answer_is_enough(tmp_path: Path, row: dict[str, Any]) -> None:
    assert len(normalised(tmp_path, lines(row), train_on="last_response")[1]) == 1


@pytest.mark.parametrize("train_on", ["responses", "last_response"])
@pytest.mark.parametrize("row", [weighted(0, 0), chat(("user", "hi")), chat(("system", "a"), ("user", "b"))])
def test_a_chat_without_an_answer_that_counts_has_nothing_to_learn(
    tmp_path: Path, row: dict[str, Any], train_on: str
) -> None:
    assert refused(tmp_path, lines(row), train_on=train_on).details[0].code == "nothing_to_learn"


def test_a_last_answer_without_weight_is_named(tmp_path: Path) -> None:
    problem = refused(tmp_path, lines(weighted(1, 0)), train_on="last_response").details[0]

    assert (problem.code, problem.field) == ("nothing_to_learn", "messages")
    assert problem.found == "4 messages: user, assistant, user, assistant (weight 0)"
    assert problem.expected == "a last assistant message that carries loss"


@pytest.mark.parametrize("row", [weighted(0), chat(("user", "hi"))])
def test_who_trains_on_all_needs_no_answer(tmp_path: Path, row: dict[str, Any]) -> None:
    assert len(normalised(tmp_path, lines(row), train_on="all")[1]) == 1


EMPTY = ["", "<think>\n\n</think>\n\n", " \t\n", "\u00a0\u200b", []]


@pytest.mark.parametrize("answer", EMPTY)
@pytest.mark.parametrize(
    ("row", "field"),
    [
        (lambda answer: chat(("user", "hi"), ("assistant", answer)), "messages[1].content"),
        (lambda answer: chat(("user", "hi"), ("assistant", answer), *HI), "messages[1].content"),
        (lambda answer: sharegpt(("human", "hi"), ("gpt", answer)), "conversations[1].value"),
        (lambda answer: {"instruction": "hi", "output": answer or ""}, "output"),
        (lambda answer: {"prompt": "hi", "completion": answer or ""}, "completion"),
    ],
    ids=["messages", "in the middle", "sharegpt", "alpaca", "pair"],
)
def test_an_answer_of_nothing_is_a_bad_row(tmp_path: Path, row: Callable[[Any], Any], field: str, answer: Any) -> None:
    rows = lines(row("hello"), row(answer))

    problem = refused(tmp_path, rows).details[0]

    assert (problem.record, problem.code, problem.field) == (2, "empty_answer", field)
    assert normalised(tmp_path, rows, on_bad_row="drop")[0].dropped == 1


def test_an_empty_cell_is_an_answer_of_nothing(tmp_path: Path) -> None:
    refusal = refused(tmp_path, b"prompt,completion\nName a lake.,\nName a hill.,  \n", "rows.csv")

    assert [(problem.record, problem.field) for problem in refusal.details] == [(1, "completion"), (2, "completion")]


def test_null_and_empty_answers_are_named_together(tmp_path: Path) -> None:
    refusal = refused(tmp_path, lines(*(chat(("user", "hi"), ("assistant", answer)) for answer in (None, "", " "))))

    assert [(problem.record, problem.found) for problem in refusal.details] == [(1, "null"), (2, "''"), (3, "' '")]


def test_an_answer_that_is_not_learned_may_be_empty(tmp_path: Path) -> None:
    context = chat(("user", "hi"), ("assistant", ""), *HI)
    weightless = weighted(0, 1)
    weightless["messages"][1]["content"] = ""

    assert len(normalised(tmp_path, lines(context), train_on="last_response")[1]) == 1
    assert len(normalised(tmp_path, lines(weightless))[1]) == 1
    assert refused(tmp_path, lines(weightless), train_on="all").details[0].code == "empty_answer"


def test_a_call_without_text_is_an_answer(tmp_path: Path) -> None:
    row = called("{}")
    row["messages"][1]["content"] = ""

    assert len(normalised(tmp_path, lines(row, called("{}")))[1]) == 2


@pytest.mark.parametrize("behind", [[("user", "and?")], [("tool", "1"), ("user", "and?")]])
def test_turns_behind_the_last_answer_are_left_out_and_reported(tmp_path: Path, behind: list[tuple[str, str]]) -> None:
    report, records = normalised(tmp_path, lines(chat(*HI), chat(*HI, *behind)))

    assert [turns(record) for record in records] == [HI, HI]
    assert [(warning.code, warning.records) for warning in report.warnings] == [("trailing_turns", [2])]


def test_who_trains_on_all_keeps_the_last_question(tmp_path: Path) -> None:
    asked = [*HI, ("user", "and?")]

    report, records = normalised(tmp_path, lines(chat(*asked)), train_on="all")

    assert (turns(records[0]), report.warnings) == (asked, [])


@pytest.mark.parametrize(
    "turns",
    [
        [{"role": "user", "content": "hi"}, {"role": "bot", "content": ""}],
        [{"role": "user", "content": "hi"}, {"role": "assistant", "content": 6}],
        [{"role": "user", "content": "hi"}, {"role": "assistant", "content": None, "tool_calls": [{"name": 1}]}],
        [{"role": "user", "content": "hi"}, {"role": "assistant", "content": None, "tool_calls": "[{"}],
        [{"role": "user", "content": "hi"}, {"role": "function_call", "content": "{"}],
    ],
)
def test_what_follows_from_a_problem_is_not_named_beside_it(tmp_path: Path, turns: list[Any]) -> None:
    assert len(refused(tmp_path, lines({"messages": turns})).details) == 1


@pytest.mark.parametrize("train_on", ["responses", "last_response", "all"])
def test_raw_text_and_pairs_are_learned_whatever_is_asked(tmp_path: Path, train_on: str) -> None:
    for row in ({"text": "a"}, {"prompt": "a", "completion": "b"}):
        assert len(normalised(tmp_path, lines(row), train_on=train_on)[1]) == 1


def test_text_and_chats_are_fine_with_markers(tmp_path: Path) -> None:
    markers: dict[str, Any] = {"instruction_part": "### Q", "response_part": "### A"}

    texts = normalised(tmp_path, lines({"text": "### Q hi ### A hello"}), **markers)[1]
    chats = normalised(tmp_path, lines(chat(*HI)), **markers)[1]

    assert (type(texts[0]), type(chats[0])) == (TextRecord, ChatRecord)
