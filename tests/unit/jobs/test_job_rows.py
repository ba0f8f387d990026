"""Rows are found in an Arrow stream by their record numbers, without reading the rest."""

from pathlib import Path

import pytest

from app.jobs.views.rows import RowFile
from tests.support.learned_text import chat_parts, tokens_of, write_rows

RECORDS = [1, 2, 5, 6, 7, 11, 12]


@pytest.fixture(params=[1, 3, 100], ids=["batches of 1", "batches of 3", "one batch"])
def rows(request: pytest.FixtureRequest, tmp_path: Path) -> RowFile:
    path = tmp_path / "train.arrow"
    kept = {number: chat_parts(f"q{number}", "a" * number) for number in RECORDS}
    write_rows(path, kept, cut=4, rows_in_batch=request.param)
    return RowFile(path)


@pytest.mark.parametrize("record", RECORDS)
def test_a_record_is_found_by_its_number(rows: RowFile, record: int) -> None:
    found = rows.find(record)

    assert found is not None
    assert (found.record, found.cut) == (record, 4)
    assert (found.ids, found.labels) == tokens_of(chat_parts(f"q{record}", "a" * record))


@pytest.mark.parametrize("record", [0, 3, 4, 8, 10, 13, 2**31 - 1])
def test_a_record_that_no_row_was_made_of_is_none(rows: RowFile, record: int) -> None:
    assert rows.find(record) is None


@pytest.mark.parametrize("after", range(14))
def test_rows_behind_a_record_come_in_order(rows: RowFile, after: int) -> None:
    assert [row.record for row in rows.after(after)] == [record for record in RECORDS if record > after]


def test_rows_are_counted_in_tokens(rows: RowFile) -> None:
    second = next(rows.after(1))

    assert len(rows) == len(RECORDS)
    assert (second.record, second.supervised, second.cut) == (2, len("aa") + 1, 4)
    assert second.tokens == len(tokens_of(chat_parts("q2", "aa"))[0])


def test_a_set_may_be_empty(tmp_path: Path) -> None:
    write_rows(tmp_path / "eval.arrow", {})
    rows = RowFile(tmp_path / "eval.arrow")

    assert (len(rows), rows.find(1), list(rows.after(0))) == (0, None, [])


def test_a_file_written_anew_is_read_anew(tmp_path: Path) -> None:
    path, other = tmp_path / "train.arrow", tmp_path / "other.arrow"
    write_rows(path, {1: chat_parts("q", "a")})
    assert len(RowFile(path)) == 1

    write_rows(other, {1: chat_parts("q", "a"), 2: chat_parts("q", "b")})
    other.rename(path)

    assert len(RowFile(path)) == 2


def test_a_file_that_is_open_may_be_deleted(tmp_path: Path) -> None:
    path = tmp_path / "train.arrow"
    write_rows(path, {9: chat_parts("q", "a")})
    rows = RowFile(path)
    path.unlink()

    assert rows.find(9) is not None
