"""Detects the format of a file by its content. The file name decides only if the content has no clear structure."""

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
# A first line with two of these cells is a header.
COLUMN_NAMES = frozenset((*PARTS, "response", "question", "answer", "id"))
# Structured text that no reader supports. Its lines must not be read as plain text.
UNSUPPORTED_SUFFIXES = frozenset({".yaml", ".yml", ".xml"})
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
    """Returns the format of an open file and an iterator over its rows.

    Bytes that are not UTF-8 become lone surrogates, so that a problem can name their record. Raises InvalidDataset
    for content that is not text. The iterator raises it if the file cannot be read further.
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
            delimiter = "\t" if found is FileFormat.TSV else _separator(_first_line(_decoded(sample)))
            return found, read_table(text, delimiter)
        case _:
            return found, read_text_lines(text)


def sniff(sample: bytes, filename: str) -> FileFormat:
    """Returns the format of a file that begins with these bytes. Raises InvalidDataset if no format fits."""
    if sample.startswith(PARQUET_MAGIC):
        return FileFormat.PARQUET
    text = _decoded(sample)
    start = text.lstrip()
    if ARRAY_START.match(start):
        return FileFormat.JSON
    if OBJECT_START.match(start):
        return FileFormat.JSONL
    _check_text(sample)
    if _suffix(filename) in UNSUPPORTED_SUFFIXES:
        raise unreadable(Problem(code="unknown_format", found=f"a {_suffix(filename)} file", expected=EXPECTED))
    by_name = BY_NAME.get(_suffix(filename), FileFormat.TEXT)
    header = _first_line(text)
    if by_name in (FileFormat.CSV, FileFormat.TSV):
        return _table(header, by_name)
    table = _table(header, FileFormat.CSV)
    cells = _cells(header, "\t" if table is FileFormat.TSV else _separator(header))
    return table if len(COLUMN_NAMES.intersection(cells)) > 1 else by_name


def _decoded(sample: bytes) -> str:
    return sample.removeprefix(codecs.BOM_UTF8).decode("utf-8", errors="replace")


def _check_text(sample: bytes) -> None:
    """Refuses anything but UTF-8 text, such as Latin-1, UTF-16, archives, pickles and images."""
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


def _table(header: str, by_name: FileFormat) -> FileFormat:
    tabs, commas = header.count("\t"), header.count(_separator(header))
    if tabs == commas:
        return by_name
    return FileFormat.TSV if tabs > commas else FileFormat.CSV


def _separator(header: str) -> str:
    """Returns a comma or a semicolon. Spreadsheets write semicolons in locales with a decimal comma."""
    return max(",", ";", key=header.count)


def _cells(line: str, delimiter: str) -> list[str]:
    return [cell.strip(' "').lower() for cell in line.split(delimiter)]
