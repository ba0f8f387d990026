"""Reads every row of a dataset, passes the good ones to a sink as records, and reports on all of them.

A bad row is either refused or dropped, as the spec says. Every dropped row is counted in the report.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from app.contracts.methods import TrainingMethod
from app.contracts.records import Record
from app.contracts.spec import DatasetSpec
from app.datasets.decompress import DataFile, open_file
from app.datasets.formats import read_rows
from app.datasets.layout_detection import column_in_no_row, detect_layout
from app.datasets.layouts import Layout, LayoutHints, Row
from app.datasets.preview import Preview
from app.datasets.records import read_record
from app.datasets.refusal import refusal, too_many_dropped
from app.datasets.report import NAMED, DataReport, FileReport
from app.datasets.row_issues import RowIssues
from app.datasets.row_statistics import RowStatistics
from app.datasets.rows import Place, RawRow, Rows
from app.datasets.several_files import FilePart, read_parts
from app.datasets.values import describe, printable
from app.errors import InvalidDataset, Problem

__all__ = [
    "DataReport",
    "FileReport",
    "Place",
    "Progress",
    "Sink",
    "check_kind",
    "inspect_file",
    "normalise_file",
    "normalise_parts",
]

Sink = Callable[[Record, Place], None]
# Called with the number of bytes of the stored file that have been read.
Progress = Callable[[int], None]
RECORDS_BETWEEN_PROGRESS = 1000
HUB_FORMAT = "hub"


def inspect_file(path: Path, *, filename: str, max_unpacked_bytes: int) -> FileReport:
    """Describes the content of an upload without a job's settings. Rows of an unknown layout are not an error here.

    Raises InvalidDataset if the file cannot be read to its end as a list of records.
    """
    preview = Preview()
    check = _Check(LayoutHints(), preview.keep)
    with open_file(path, max_unpacked_bytes) as file:
        file_format, rows = read_rows(file, filename, max_unpacked_bytes)
        check.read(rows)
        sha256 = file.sha256()
    statistics = check.statistics
    if statistics.damaged:
        raise refusal(statistics.damaged, len(statistics.damaged), statistics.records)
    if check.columns is None:
        raise refusal(statistics.problems, statistics.problem_count, statistics.records)
    report = statistics.report(format_name=file_format, is_gzip=file.is_gzip, layout=check.layout, sha256=sha256)
    return FileReport(**dict(report), columns=check.columns, preview=preview.records)


def normalise_file(
    path: Path,
    dataset: DatasetSpec,
    *,
    filename: str,
    max_unpacked_bytes: int,
    sink: Sink,
    progress: Progress | None = None,
) -> DataReport:
    """Passes every good row to the sink, in file order. `progress` is called every 1,000 rows and at the end.

    Raises InvalidDataset, with a limited number of problems, if
    - there is a bad row and `on_bad_row` is `fail`, or more rows are dropped than `max_dropped_fraction` allows,
    - the layout is unknown, the file cannot be read to its end, or no row has a mapped column.
    The sink may have received rows before the error.
    """
    check = _Check(LayoutHints.of(dataset), sink)
    with open_file(path, max_unpacked_bytes) as file:
        file_format, rows = read_rows(file, filename, max_unpacked_bytes)
        check.read(_with_progress(rows, file, progress) if progress else rows, needs_layout=True)
        check.check_row_policy(dataset)
        sha256 = file.sha256()
    return check.statistics.report(format_name=file_format, is_gzip=file.is_gzip, layout=check.layout, sha256=sha256)


def normalise_parts(
    parts: Sequence[FilePart], dataset: DatasetSpec, *, max_unpacked_bytes: int, sink: Sink
) -> DataReport:
    """Does the same as `normalise_file` for the files of a hub dataset, which are read as one dataset."""
    check = _Check(LayoutHints.of(dataset), sink)
    check.read(read_parts(parts, max_unpacked_bytes), needs_layout=True)
    check.check_row_policy(dataset)
    return check.statistics.report(format_name=HUB_FORMAT, is_gzip=False, layout=check.layout, sha256=None)


def check_kind(record: Record, place: Place, method: TrainingMethod) -> None:
    """Raises InvalidDataset for a record that the training method cannot train on."""
    if record.kind not in method.records:
        found = f"a {record.kind} record"
        expected = f"{' or '.join(sorted(method.records))}: training.method {method.name!r} takes no other"
        where = {"record": place.number, "line": place.line}
        raise refusal([Problem(**where, code="wrong_kind_of_record", found=found, expected=expected)], 1, place.number)


def _with_progress(rows: Rows, file: DataFile, progress: Progress) -> Rows:
    for count, row in enumerate(rows, 1):
        yield row
        if count % RECORDS_BETWEEN_PROGRESS == 0:
            progress(file.bytes_read)
    progress(file.bytes_read)


class _Check:
    """Checks the rows in one pass. The first row decides the layout of all rows."""

    def __init__(self, hints: LayoutHints, sink: Sink) -> None:
        self._hints = hints
        self._sink = sink
        self.layout: Layout | None = None
        self.columns: list[str] | None = None
        self.statistics = RowStatistics()
        self._missing_columns = dict(hints.columns or {})

    def read(self, rows: Rows, *, needs_layout: bool = False) -> None:
        """Raises InvalidDataset if there are no rows or they cannot be read to the end.

        With `needs_layout`, it is also raised if the first row has no known layout.
        """
        statistics = self.statistics
        try:
            for row in rows:
                self._check_row(row)
                if needs_layout and self._has_no_layout:
                    break
        except InvalidDataset as fault:
            problems = [*statistics.problems, *fault.details]
            raise refusal(problems, statistics.problem_count + len(fault.details), statistics.records) from fault
        if needs_layout and self._has_no_layout:
            raise refusal(statistics.problems, statistics.problem_count, statistics.records)
        if statistics.records == 0:
            raise refusal([Problem(code="empty", found="an empty file", expected="at least one record")], 1, 0)

    def check_row_policy(self, dataset: DatasetSpec) -> None:
        """Raises InvalidDataset if the job may not drop the bad rows, or if no row has a mapped column."""
        statistics = self.statistics
        if statistics.problems and (dataset.on_bad_row == "fail" or statistics.kept == 0):
            raise refusal(statistics.problems, statistics.problem_count, statistics.records)
        if statistics.dropped / statistics.records > dataset.max_dropped_fraction:
            raise too_many_dropped(statistics, dataset.max_dropped_fraction)
        if self._missing_columns:
            problems = [column_in_no_row(part, column) for part, column in self._missing_columns.items()]
            raise refusal(problems, len(problems), statistics.records)

    @property
    def _has_no_layout(self) -> bool:
        """Whether the first row was read and has no layout that can be trained on."""
        return self.columns is not None and self.layout is None

    def _check_row(self, row: RawRow | Problem) -> None:
        self.statistics.records += 1
        if isinstance(row, Problem):
            self.statistics.add_damaged(row)
            return
        row_issues = RowIssues(row.number, row.line, row.is_arrow)
        record = self._record(row.value, row_issues)
        if record is None:
            self.statistics.add_bad(row_issues)
            return
        self.statistics.add(record, row_issues)
        self._sink(record, Place(row.number, row.line))

    def _record(self, value: Any, row_issues: RowIssues) -> Record | None:
        if not isinstance(value, dict):
            row_issues.add_problem("record", "wrong_type", describe(value), "an object with the columns of the row")
            return None
        if self.columns is None:
            self.columns = [printable(str(name)) for name in value][:NAMED]
            self.layout = detect_layout(Row.of(value, self._hints), self._hints, row_issues)
        if self._missing_columns:
            self._missing_columns = {
                part: column for part, column in self._missing_columns.items() if column not in value
            }
        return read_record(value, self.layout, self._hints, row_issues) if self.layout else None
