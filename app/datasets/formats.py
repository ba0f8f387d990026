"""Which format a file has, by its content; the name decides only where the content has no structure of its own."""

import codecs
import io
import re
from enum import StrEnum
from pathlib import PurePath

from app.datasets.arrow_rows import read_parquet
from app.datasets.decompress import CHUNK_BYTES, DataFile
from app.datasets.json_array import read_json_array
from app.datasets.json_lines import read_json_lines
from app.datasets.layouts import PARTS
from app.datasets.rows import Rows, unreadable
from app.datasets.table_rows import read_table, read_text_lines
from app.errors import Problem

PARQUET_MAGIC = b"PAR1"
ARRAY_START = re.compile(r"\[\s*(?:[{\"\]]|$)")
OBJECT_START = re.compile(r"\{\s*(?:[\"}]|$)")
# A first line that has two of these among its cells is a header.
COLUMN_NAMES = frozenset((*PARTS, "response", "question", "answer", "id"))


# Of texts with a structure that is not read: their lines are no raw text.
NOT_READ = frozenset({".yaml", ".yml", ".xml"})
EXPECTED = "JSON, JSON Lines, CSV, TSV or plain text in UTF-8, Parquet, or gzip of one of these"


class FileFormat(StrEnum):
    JSON = "json"
    JSONL = "jsonl"
    CSV = "csv"
    TSV = "tsv"
    PARQUET = "parquet"
    TEXT = "text"


BY_NAME = {
    ".json": FileFormat.JSONL,
    ".jsonl": FileFormat.JSONL,
    ".ndjson": FileFormat.JSONL,
    ".csv": FileFormat.CSV,
    ".tsv": FileFormat.TSV,
}


def read_rows(file: DataFile, filename: str, max_unpacked_bytes: int) -> tuple[FileFormat, Rows]:
    """The format of a file and its rows, to be read while it is open.

    Bytes that are not UTF-8 come as lone surrogates, so that the record which holds them can be named. Raises
    InvalidDataset for content that is not text, and the rows do where nothing more can be read.
    """
    sample = file.stream.peek(CHUNK_BYTES)
    found = sniff(sample, filename)
    if found is FileFormat.PARQUET:
        return found, read_parquet(file, max_unpacked_bytes)
    text = io.TextIOWrapper(file.stream, encoding="utf-8-sig", errors="surrogateescape", newline="\n")
    match found:
        case FileFormat.JSON:
            return found, read_json_array(text)
        case FileFormat.JSONL:
            return found, read_json_lines(text)
        case FileFormat.CSV | FileFormat.TSV:
            delimiter = "\t" if found is FileFormat.TSV else _comma(_first_line(_decoded(sample)))
            return found, read_table(text, delimiter)
        case _:
            return found, read_text_lines(text)


def sniff(sample: bytes, filename: str) -> FileFormat:
    """The format of a file that begins with these bytes. Raises InvalidDataset when they are not text."""
    if sample.startswith(PARQUET_MAGIC):
        return FileFormat.PARQUET
    text = _decoded(sample)
    start = text.lstrip()
    if ARRAY_START.match(start):
        return FileFormat.JSON
    if OBJECT_START.match(start):
        return FileFormat.JSONL
    _check_text(sample)
    if _suffix(filename) in NOT_READ:
        raise unreadable(Problem(code="unknown_format", found=f"a {_suffix(filename)} file", expected=EXPECTED))
    named = BY_NAME.get(_suffix(filename), FileFormat.TEXT)
    header = _first_line(text)
    if named in (FileFormat.CSV, FileFormat.TSV):
        return _table(header, named)
    table = _table(header, FileFormat.CSV)
    cells = _cells(header, "\t" if table is FileFormat.TSV else _comma(header))
    return table if len(COLUMN_NAMES.intersection(cells)) > 1 else named


def _decoded(sample: bytes) -> str:
    return sample.removeprefix(codecs.BOM_UTF8).decode("utf-8", errors="replace")


def _check_text(sample: bytes) -> None:
    """Refuses Latin-1, UTF-16, archives, pickles and pictures, by the first byte that no UTF-8 text has."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(sample)
    except UnicodeDecodeError as error:
        line = sample.count(b"\n", 0, error.start) + 1
        found = f"byte 0x{sample[error.start]:02x} in line {line}"
        raise unreadable(Problem(line=line, code="unknown_format", found=found, expected=EXPECTED)) from error


def _suffix(filename: str) -> str:
    name = PurePath(filename.lower())
    return PurePath(name.stem).suffix if name.suffix == ".gz" else name.suffix


def _first_line(text: str) -> str:
    return text.lstrip("\r\n").split("\n", 1)[0].rstrip("\r")


def _table(header: str, named: FileFormat) -> FileFormat:
    tabs, commas = header.count("\t"), header.count(_comma(header))
    if tabs == commas:
        return named
    return FileFormat.TSV if tabs > commas else FileFormat.CSV


def _comma(header: str) -> str:
    """A spreadsheet writes semicolons where its country's numbers have a comma."""
    return max(",", ";", key=header.count)


def _cells(line: str, delimiter: str) -> list[str]:
    return [cell.strip(' "').lower() for cell in line.split(delimiter)]
