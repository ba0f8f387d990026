"""A chat has to have what the job learns from: any answer, the last one, or nothing special."""

from pathlib import Path
from typing import Any

import pytest

from app.contracts.records import ChatRecord, TextRecord
from tests.unit.datasets import chat, lines, normalised, refused

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
    assert problem.found == "4 turns: user, assistant, user, assistant (weight 0)"
    assert problem.expected == "a last turn of the assistant that carries loss"


@pytest.mark.parametrize("row", [weighted(0), chat(("user", "hi"))])
def test_who_trains_on_all_needs_no_answer(tmp_path: Path, row: dict[str, Any]) -> None:
    assert len(normalised(tmp_path, lines(row), train_on="all")[1]) == 1


def test_an_empty_answer_counts_only_where_it_is_learned(tmp_path: Path) -> None:
    row = chat(("user", "hi"), ("assistant", ""), *HI)

    warned = [normalised(tmp_path, lines(row), train_on=which)[0].warnings for which in ("responses", "last_response")]

    assert [len(warnings) for warnings in warned] == [1, 0]


@pytest.mark.parametrize("train_on", ["responses", "last_response", "all"])
def test_raw_text_and_pairs_are_learned_whatever_is_asked(tmp_path: Path, train_on: str) -> None:
    for row in ({"text": "a"}, {"prompt": "a", "completion": "b"}):
        assert len(normalised(tmp_path, lines(row), train_on=train_on)[1]) == 1


def test_text_and_chats_are_fine_with_markers(tmp_path: Path) -> None:
    markers: dict[str, Any] = {"instruction_part": "### Q", "response_part": "### A"}

    texts = normalised(tmp_path, lines({"text": "### Q hi ### A hello"}), **markers)[1]
    chats = normalised(tmp_path, lines(chat(*HI)), **markers)[1]

    assert (type(texts[0]), type(chats[0])) == (TextRecord, ChatRecord)
