"""Every row is kept, or named: the report and the refusal account for all of them, in bounded space."""

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from app.contracts.records import Record
from app.datasets.check import FileReport, Place, inspect_file, normalise_file
from app.errors import InvalidDataset
from tests.support.written_files import LIMIT, a_dataset, chat, lines, normalised, parquet_of, refused, sharegpt

GOOD = chat(("user", "hi"), ("assistant", "hello"))
BAD = chat(("user", "hi"), ("assistant", 6))


def inspected(folder: Path, content: bytes, name: str = "rows.jsonl") -> FileReport:
    path = folder / "upload"
    path.write_bytes(content)
    return inspect_file(path, filename=name, max_unpacked_bytes=LIMIT)


def test_bad_rows_are_dropped_only_when_asked_and_then_named(tmp_path: Path) -> None:
    report, records = normalised(tmp_path, lines(GOOD, BAD, GOOD), on_bad_row="drop")

    assert (report.records, report.kept, report.dropped, len(records)) == (3, 2, 1, 2)
    assert [problem.record for problem in report.problems] == [2]


@pytest.mark.parametrize(("limit", "is_taken"), [(0.6, True), (0.59, False), (0.0, False), (1.0, True)])
def test_no_larger_share_is_dropped_than_the_job_allows(tmp_path: Path, limit: float, is_taken: bool) -> None:
    content = lines(GOOD, BAD, BAD, GOOD, BAD)
    if is_taken:
        assert normalised(tmp_path, content, on_bad_row="drop", max_dropped_fraction=limit)[0].dropped == 3
        return

    refusal = refused(tmp_path, content, on_bad_row="drop", max_dropped_fraction=limit)

    assert (refusal.code, [problem.record for problem in refusal.details]) == ("too_many_dropped", [2, 3, 5])
    assert refusal.message.startswith("found 3 of 5 records, a share of 0.6, that cannot be used; dataset.max_dropped_")
    assert f"allows a share of {limit:g}; the first problem: record 2, line 2, messages[1].content" in refusal.message


def test_a_share_is_compared_exactly(tmp_path: Path) -> None:
    content = lines(*[GOOD] * 71, *[BAD] * 29)

    assert normalised(tmp_path, content, on_bad_row="drop", max_dropped_fraction=0.29)[0].dropped == 29


def places_and_progress(folder: Path, content: bytes, **fields: Any) -> tuple[list[Place], list[int]]:
    """Where the records of a file stand, and what is told of its bytes meanwhile."""
    path, places, told = folder / "upload", list[Place](), list[int]()
    path.write_bytes(content)

    def keep(record: Record, place: Place) -> None:
        places.append(place)

    dataset = a_dataset(**fields)
    normalise_file(path, dataset, filename="x", max_unpacked_bytes=LIMIT, sink=keep, progress=told.append)
    return places, told


def test_progress_is_told_in_bytes_of_the_stored_file(tmp_path: Path) -> None:
    content = gzip.compress(lines(*[{"text": f"{number:09}" * 20} for number in range(2500)]))

    _, told = places_and_progress(tmp_path, content)

    assert len(told) == 3
    assert told == sorted(told)
    assert told[-1] == len(content)


def test_progress_is_told_of_parquet_too(tmp_path: Path) -> None:
    content = parquet_of(pa.table({"text": [os.urandom(50).hex() for _ in range(9000)]}), row_group_size=1000)

    _, told = places_and_progress(tmp_path, content)

    assert 0 < told[0] < len(content) / 4
    assert len(content) * 0.9 < told[-1] < len(content) * 1.1


def test_a_record_comes_with_its_place(tmp_path: Path) -> None:
    content = b"\n" + lines(GOOD, BAD) + b"\n" + lines(GOOD)

    places, _ = places_and_progress(tmp_path, content, on_bad_row="drop")

    assert places == [Place(1, 2), Place(3, 5)]


@pytest.mark.parametrize("content", [b"", b"\n \n", b"[]", b"text\n", lines(BAD, BAD)])
@pytest.mark.parametrize("on_bad_row", ["fail", "drop"])
def test_a_dataset_of_which_nothing_is_left_is_always_refused(tmp_path: Path, content: bytes, on_bad_row: str) -> None:
    assert refused(tmp_path, content, "rows.csv", on_bad_row=on_bad_row).details


def test_one_answer_names_fifty_problems_and_counts_all(tmp_path: Path) -> None:
    refusal = refused(tmp_path, lines(GOOD, *[BAD] * 120))

    assert len(refusal.details) == 50
    assert refusal.message.startswith("120 problems in 121 records, the first: record 2, line 2, messages[1].content")


def test_no_problem_hides_one_of_another_kind(tmp_path: Path) -> None:
    silent, broken = chat(("user", "hi"), ("assistant", "")), {"messages": "hi"}

    refusal = refused(tmp_path, lines(GOOD, *[BAD] * 120, silent, broken))

    assert len(refusal.details) == 50
    assert [(problem.record, problem.code) for problem in refusal.details[-2:]] == [
        (122, "empty_answer"),
        (123, "wrong_type"),
    ]
    assert "; also record 122, line 122, messages[1].content: found ''" in refusal.message


def test_what_is_quoted_of_a_row_is_short_and_can_be_stored(tmp_path: Path) -> None:
    row = sharegpt(("\0" + "x" * 10_000, "y"), **{"a\0" * 200: 1})

    refusal = refused(tmp_path, lines(row, {"z\0\ud800" * 500: 1}))

    assert max(len(str(problem.found)) for problem in refusal.details) <= 250
    assert "\0" not in refusal.message


def test_exact_duplicates_are_kept_and_named(tmp_path: Path) -> None:
    same = {"instruction": "hi", "output": "hello"}

    report, records = normalised(tmp_path, lines(same, {**same, "output": "x"}, {**same, "input": ""}))

    assert (report.duplicates.count, report.duplicates.records, len(records)) == (1, [3], 3)


def test_the_longest_record_is_named(tmp_path: Path) -> None:
    long = chat(("user", "short"), ("assistant", "x" * 300_000))

    report, _ = normalised(tmp_path, lines(GOOD, long, GOOD))

    assert (report.longest_record, report.longest_characters) == (2, 300_005)


def test_an_upload_of_no_known_layout_is_described_by_its_columns(tmp_path: Path) -> None:
    report = inspected(tmp_path, lines({"question": "a", "answer": "b"}, {"question": "c", "answer": "d"}))

    assert (report.layout, report.columns, report.records) == (None, ["question", "answer"], 2)
    assert [problem.code for problem in report.problems] == ["unknown_layout"]


def test_an_upload_with_bad_rows_is_described(tmp_path: Path) -> None:
    report = inspected(tmp_path, lines(GOOD, BAD))

    assert (report.layout, report.records, report.kept, report.problem_count) == ("messages", 2, 1, 1)


@pytest.mark.parametrize("content", [b"", lines(1, 2), lines(GOOD) + b'{"messages": [', b"\xff\xfe", b"\x1f\x8b\x08"])
def test_an_upload_that_is_no_list_of_records_is_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(InvalidDataset):
        inspected(tmp_path, content)


def test_damage_behind_many_bad_rows_still_refuses_an_upload(tmp_path: Path) -> None:
    with pytest.raises(InvalidDataset) as refusal:
        inspected(tmp_path, lines(GOOD, *[BAD] * 60) + b"{")

    assert [problem.line for problem in refusal.value.details] == [62]


def test_a_report_can_be_stored_and_read_again(tmp_path: Path) -> None:
    report = inspected(tmp_path, lines(GOOD, BAD, GOOD))

    assert FileReport.model_validate(json.loads(json.dumps(report.model_dump(mode="json")))) == report
