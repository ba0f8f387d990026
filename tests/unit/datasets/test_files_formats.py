"""Content decides how a file is read; what cannot be read is named by record, line and column."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from app.contracts.records import TextRecord
from app.datasets.decompress import RATIO_COUNTS_FROM_BYTES
from app.datasets.formats import FileFormat, sniff
from app.datasets.json_array import CHUNK_CHARACTERS
from app.datasets.rows import LONGEST_RECORD
from tests.support.written_files import lines, normalised, parquet, refused

ONE, TWO = {"text": "one"}, {"text": "two"}


def texts(folder: Path, content: bytes, name: str = "rows.jsonl", **fields: Any) -> list[str]:
    records = normalised(folder, content, name, **fields)[1]
    assert all(isinstance(record, TextRecord) for record in records)
    return [record.text for record in records if isinstance(record, TextRecord)]


@pytest.mark.parametrize(
    ("content", "name", "expected"),
    [
        (b'[\n {"text": "x"}\n]', "rows.jsonl", FileFormat.JSON),
        (b'{"text": "x"}\n', "rows.json", FileFormat.JSONL),
        (b'\xef\xbb\xbf{"text": "x"}\n', "rows.txt", FileFormat.JSONL),
        (b"prompt,completion\na,b\n", "rows", FileFormat.CSV),
        (b"prompt\tcompletion\na\tb\n", "rows.csv", FileFormat.TSV),
        (b"a;b\n1;2\n", "rows.csv", FileFormat.CSV),
        (b"text\na, b\n", "rows.tsv", FileFormat.TSV),
        (b"[INST] hi [/INST]\n", "rows.txt", FileFormat.TEXT),
        (b"Hello, world\n", "rows", FileFormat.TEXT),
        (b"hello\n", "rows.jsonl.gz", FileFormat.JSONL),
        (b"PAR1...", "rows.json", FileFormat.PARQUET),
    ],
)
def test_the_name_of_a_file_decides_only_what_its_content_leaves_open(
    content: bytes, name: str, expected: FileFormat
) -> None:
    assert sniff(content, name) is expected


@pytest.mark.parametrize(
    "content",
    [
        lines(ONE, TWO),
        b"\xef\xbb\xbf" + lines(ONE, TWO),
        lines(ONE, TWO).replace(b"\n", b"\r\n"),
        b"\n" + lines(ONE) + b"   \n\n" + lines(TWO).rstrip(),
        json.dumps([ONE, TWO]).encode(),
        json.dumps([ONE, TWO], indent=2).encode() + b"\n\n",
        b"\n".join(json.dumps(row, indent=2).encode() for row in (ONE, TWO)),
        gzip.compress(lines(ONE, TWO), mtime=0),
        gzip.compress(lines(ONE), mtime=0) + gzip.compress(lines(TWO), mtime=0),
        b"text\none\n\ntwo\n",
        b'\xef\xbb\xbftext\r\n"one"\r\ntwo',
        parquet(ONE, TWO),
        gzip.compress(parquet(ONE, TWO), mtime=0),
    ],
)
def test_one_dataset_is_read_alike_in_every_form(tmp_path: Path, content: bytes) -> None:
    assert texts(tmp_path, content, "rows.csv") == ["one", "two"]


def test_one_object_is_one_record(tmp_path: Path) -> None:
    report, _ = normalised(tmp_path, json.dumps(ONE, indent=4).encode())

    assert (report.records, report.longest_record) == (1, 1)


def test_a_text_file_has_a_record_a_line(tmp_path: Path) -> None:
    assert texts(tmp_path, b"first, line\r\n\n second\tline \n", "wiki.txt") == ["first, line", " second\tline "]


def test_a_csv_cell_stays_the_text_that_was_written(tmp_path: Path) -> None:
    content = b'prompt,completion\n007,1.50\nnull,NA\nTRUE,"He said ""stop"",\ntwice"\n,12345678901234567890\n'

    _, records = normalised(tmp_path, content, "rows.csv")

    pairs = [(record.prompt, record.completion) for record in records if record.kind == "completion"]
    assert pairs == [
        ("007", "1.50"), ("null", "NA"), ("TRUE", 'He said "stop",\ntwice'), ("", "12345678901234567890")
    ]  # fmt: skip


def test_a_damaged_line_is_named_and_the_next_is_read(tmp_path: Path) -> None:
    content = lines(ONE, TWO) + b'{"text": "cut off he\n' + lines(ONE) + b"{'text': 1}\n"

    problems = refused(tmp_path, content).details

    assert [(problem.record, problem.line, problem.code) for problem in problems] == [
        (3, 3, "invalid_json"),
        (5, 5, "invalid_json"),
    ]
    assert problems[0].found == "column 10: a string is not closed"


def test_a_line_cut_off_between_two_values_does_not_swallow_the_next(tmp_path: Path) -> None:
    content = b'{"text": "x", "more": [{"a": 1},\n' + lines(ONE, TWO)

    report, records = normalised(tmp_path, content, on_bad_row="drop")

    assert (report.kept, report.dropped, report.problems[0].record) == (2, 1, 1)
    assert len(records) == 2


def test_a_damaged_object_of_many_lines_hides_no_other(tmp_path: Path) -> None:
    content = b'{\n "text": "x\n",\n "a": 1\n}\n' + json.dumps(TWO, indent=1).encode()

    report, _ = normalised(tmp_path, content, on_bad_row="drop")

    assert (report.records, report.kept, report.problems[0].line) == (2, 1, 1)
    assert report.problems[0].found == "column 10: a string is not closed, in line 2 of the record"


@pytest.mark.parametrize(
    ("content", "line", "found"),
    [
        (b'[\n {"text": "a"},\n {"text": "b" "c"}\n]', 3, "column 15: expecting ',' delimiter"),
        (b'[\n {"text": "a"}\n {"text": "b"}\n]', 3, "column 2: expected ',' or the end of the array"),
        (b'[\n {"text": "a"},\n {"text": "b', 3, "column 11: a string is not closed"),
        (b'[\n {"text": "a\n"}]', 2, "column 13: a string is not closed on its line"),
        (b'[\n {"text": "a"}\n', 3, "column 1: the array is not closed"),
        (b'[{"text": "a"}]\n{}', 2, "column 1: more text after the array"),
    ],
)
def test_a_damaged_array_is_refused_by_line_and_column(tmp_path: Path, content: bytes, line: int, found: str) -> None:
    problem = refused(tmp_path, content, on_bad_row="drop").details[-1]

    assert (problem.line, problem.found) == (line, found)


def test_no_cut_of_an_array_into_pieces_changes_its_records(tmp_path: Path) -> None:
    cut = {"text": 'é "\\ \ud83c\udf78', "n": [-1.5e3, True, None]}

    for place in range(90):
        padding = {"text": "a" * (CHUNK_CHARACTERS - place)}
        found = texts(tmp_path, json.dumps([padding, cut, TWO]).encode(), format="text")
        assert found[1:] == ['é "\\ 🍸', "two"]


@pytest.mark.parametrize(("before", "behind"), [(b'{"text": "', b'"}'), (b'[{"text": "', b'"}]'), (b"", b"")])
def test_a_record_without_end_is_refused_before_it_fills_the_memory(
    tmp_path: Path, before: bytes, behind: bytes
) -> None:
    content = before + b"a" * (LONGEST_RECORD + 1) + behind

    assert refused(tmp_path, content, "rows.txt").details[0].code == "record_too_long"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (b'{"text": "a", "text": "b"}', "the key 'text' occurs twice in one object"),
        (b'{"text": ' + b"[" * 100_000, "nested too deeply"),
        (b'{"text": ' + b"9" * 5000 + b"}", "Exceeds the limit"),
        (b'{"text": "a"} {"text": "b"}', "more text after the value"),
    ],
)
def test_json_that_others_read_in_two_ways_is_refused(tmp_path: Path, row: bytes, reason: str) -> None:
    assert reason in str(refused(tmp_path, row).details[0].found)


HEADER = b"prompt,completion\n"
# A file, its name, the code of its refusal, and what is found in it.
DAMAGED: list[tuple[bytes, str, str, str]] = [
    (HEADER + b"a\n", "rows.csv", "invalid_csv", "1 cells"),
    (HEADER + b'"a"b,c\n', "rows.csv", "invalid_csv", "',' expected after '\"'"),
    (HEADER + b'"a,b\n', "rows.csv", "invalid_csv", "unexpected end of data"),
    (HEADER + b"a,b\n" + HEADER + b"c,d\n", "rows.csv", "invalid_csv", "the header line again"),
    (b"prompt,prompt\na,b\n", "rows.csv", "invalid_header", "empty or duplicate column names: ['prompt']"),
    (b"- role: user\n  content: hi\n", "rows.yaml", "unknown_format", "a .yaml file"),
    (b"one\ncaf\xe9\n", "rows.txt", "unknown_format", "byte 0xe9 in line 2"),
    (b"\xff\xfeh\x00i\x00", "rows.txt", "unknown_format", "byte 0xff in line 1"),
    (b"PK\x03\x04\x9c", "rows.txt", "unknown_format", "byte 0x9c in line 1"),
    (b"\x80\x04\x95pickle", "rows.txt", "unknown_format", "byte 0x80 in line 1"),
]


@pytest.mark.parametrize(("content", "name", "code", "found"), DAMAGED)
def test_what_is_no_table_and_no_text_is_named(
    tmp_path: Path, content: bytes, name: str, code: str, found: str
) -> None:
    problem = refused(tmp_path, content, name).details[0]

    assert (problem.code, problem.found) == (code, found)


def test_a_row_of_many_lines_is_named_by_its_first(tmp_path: Path) -> None:
    refusal = refused(tmp_path, HEADER + b'"a\nb",1\n"c\nd"\n' + HEADER, "rows.csv")

    assert [(problem.record, problem.line) for problem in refusal.details] == [(2, 4), (3, 6)]


def test_a_byte_that_is_not_utf8_is_named_by_its_record(tmp_path: Path) -> None:
    problem = refused(tmp_path, lines(ONE) + b'{"text": "caf\xe9"}\n').details[0]

    assert (problem.record, problem.field, problem.code) == (2, "text", "invalid_unicode")


def test_a_gzip_bomb_is_refused_by_its_size_and_by_its_ratio(tmp_path: Path) -> None:
    large = gzip.compress(lines({"text": "a" * 200_000}))
    well_packed = gzip.compress(lines({"text": "a" * 99_991}) * (RATIO_COUNTS_FROM_BYTES // 100_000 + 1))

    by_size, by_ratio = refused(tmp_path, large, limit=100_000), refused(tmp_path, well_packed, limit=10**9)

    assert "size of more than 100000 bytes" in by_size.message
    assert by_ratio.details[0].expected == "at most 200 times the compressed size"


@pytest.mark.parametrize("damage", [slice(0, -9), slice(0, 20)])
def test_a_damaged_gzip_file_is_refused(tmp_path: Path, damage: slice) -> None:
    assert refused(tmp_path, gzip.compress(lines(ONE, TWO))[damage]).details[0].code == "invalid_gzip"
