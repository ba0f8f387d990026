"""Several files are one dataset: their records are counted through, and a damaged file is named."""

from pathlib import Path

import pytest

from app.datasets.rows import RawRow
from app.datasets.several_files import FilePart, NamedFile, count_records, read_parts
from app.errors import InvalidDataset, Problem
from tests.support.written_files import parquet

LIMIT = 10**6


def files(folder: Path) -> tuple[NamedFile, ...]:
    contents = {"a.jsonl": b'{"text": "a1"}\n{"text": "a2"}\n', "b.parquet": parquet({"text": "b1"}, {"text": "b2"})}
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return tuple(NamedFile(folder / name, name) for name in contents)


@pytest.mark.parametrize(
    ("start", "stop", "texts"),
    [(0, None, ["a1", "a2", "b1", "b2"]), (1, 3, ["a2", "b1"]), (3, 9, ["b2"]), (4, None, [])],
)
def test_records_are_counted_over_all_files(tmp_path: Path, start: int, stop: int | None, texts: list[str]) -> None:
    rows = list(read_parts([FilePart(files(tmp_path), start, stop)], LIMIT))

    assert [row.value["text"] for row in rows if isinstance(row, RawRow)] == texts
    assert [row.number for row in rows if isinstance(row, RawRow)] == list(range(1, len(texts) + 1))
    assert count_records(files(tmp_path), LIMIT) == 4


def test_a_damaged_record_is_numbered_through(tmp_path: Path) -> None:
    whole = files(tmp_path)
    (tmp_path / "c.jsonl").write_bytes(b'{"text": \n')

    rows = list(read_parts([FilePart((*whole, NamedFile(tmp_path / "c.jsonl", "c.jsonl")))], LIMIT))

    assert isinstance(rows[-1], Problem)
    assert (rows[-1].record, rows[-1].line) == (5, None)


def test_a_file_that_cannot_be_read_to_its_end_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_bytes(b'[{"text": "a"}')

    with pytest.raises(InvalidDataset) as refused:
        list(read_parts([FilePart((NamedFile(tmp_path / "x.json", "shard-7.json"),))], LIMIT))

    assert "shard-7.json" in str(refused.value.details[0].found)
