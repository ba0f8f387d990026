"""The first good records of an upload, as a default job reads them, in little space."""

import json
from pathlib import Path
from typing import Any

import pytest

from app.datasets.check import FileReport, inspect_file
from app.datasets.preview import PreviewRecord
from tests.support.written_files import CALL, LIMIT, called, chat, lines, sharegpt

HI = [("user", "hi"), ("assistant", "hello")]


def previewed(folder: Path, *rows: Any) -> list[PreviewRecord]:
    path = folder / "upload"
    path.write_bytes(lines(*rows))
    return inspect_file(path, filename="rows.jsonl", max_unpacked_bytes=LIMIT).preview


def shown(record: PreviewRecord) -> list[tuple[str, str, bool]]:
    return [(turn.role, turn.content, turn.trained) for turn in record.turns]


def test_the_first_three_good_records_are_shown_with_their_places(tmp_path: Path) -> None:
    bad = chat(("user", "hi"))

    records = previewed(tmp_path, bad, chat(*HI), bad, *[chat(*HI)] * 5)

    assert [(record.record, record.line, record.kind) for record in records] == [
        (2, 2, "chat"), (4, 4, "chat"), (5, 5, "chat")
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("row", "turns"),
    [
        (sharegpt(("human", "a"), ("gpt", "b")), [("user", "a", False), ("assistant", "b", True)]),
        ({"prompt": "a", "completion": " b"}, [("prompt", "a", False), ("completion", " b", True)]),
        ({"text": "a"}, [("text", "a", True)]),
    ],
)
def test_what_carries_loss_is_marked(tmp_path: Path, row: dict[str, Any], turns: list[tuple[str, str, bool]]) -> None:
    assert shown(previewed(tmp_path, row)[0]) == turns


def test_a_turn_of_weight_zero_is_not_trained(tmp_path: Path) -> None:
    row = chat(*HI, *HI)
    row["messages"][1]["weight"] = 0

    assert [turn.trained for turn in previewed(tmp_path, row)[0].turns] == [False, False, False, True]


def test_a_long_text_is_clipped_with_its_length(tmp_path: Path) -> None:
    record = previewed(tmp_path, chat(("user", "x" * 501), ("assistant", "y" * 500)))[0]

    assert [turn.content for turn in record.turns] == ["x" * 500 + "… (501 characters)", "y" * 500]


def test_calls_are_shown_as_they_are_and_long_arguments_in_part(tmp_path: Path) -> None:
    short, long = previewed(tmp_path, called({"city": "Lisbon"}), called({"city": "x" * 600}))

    assert short.turns[1].tool_calls == [{"id": "call_1", "type": "function", "function": CALL}]
    arguments = (long.turns[1].tool_calls or [{}])[0]["function"]["arguments"]
    assert arguments.startswith('{"city": "xxx')
    assert arguments.endswith("… (612 characters)")


@pytest.mark.parametrize("text", ["x", "東", "😀", "x\x01"])
@pytest.mark.parametrize("calls", [0, 30])
def test_a_preview_stays_below_20_kilobytes(tmp_path: Path, text: str, calls: int) -> None:
    turn = {"role": "assistant", "content": text * 999, "tool_calls": [{"name": text * 99, "arguments": {}}] * calls}

    records = previewed(tmp_path, *[{"messages": [{"role": "user", "content": text}, *[turn] * 20]}] * 3)

    assert len(json.dumps([record.model_dump() for record in records])) < 20_000
    assert [len(record.turns) + record.turns_left_out for record in records] == [21] * 3


def test_a_report_that_was_stored_without_a_preview_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "upload"
    path.write_bytes(lines(chat(*HI)))
    report = inspect_file(path, filename="x", max_unpacked_bytes=LIMIT)

    stored = report.model_dump(mode="json", exclude={"preview"})

    assert FileReport.model_validate(stored).preview == []
