"""Reads every row of a dataset: good ones go to a sink as records, and a report says what became of all of them.

A dataset with a bad row is refused, or loses the row and says so; nothing is dropped in silence.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from app.contracts.records import Record
from app.contracts.spec import DatasetSpec
from app.errors import InvalidDataset, Problem
from app.files.choice import choose, never_seen
from app.files.findings import Findings
from app.files.formats import read_rows
from app.files.layouts import Layout, Row, Wish
from app.files.preview import Preview
from app.files.records import read_record
from app.files.refusal import refusal, too_many_dropped
from app.files.report import NAMED, DataReport, FileReport
from app.files.rows import Place, RawRow, Rows
from app.files.several import FilePart, read_parts
from app.files.tally import Tally
from app.files.unpack import DataFile, open_file
from app.files.values import describe, printable

__all__ = ["DataReport", "FileReport", "Place", "Progress", "Sink", "inspect_file", "normalise_file", "normalise_parts"]

Sink = Callable[[Record, Place], None]
# Called with how many bytes of the stored file have been read.
Progress = Callable[[int], None]
RECORDS_BETWEEN_PROGRESS = 1000
HUB_FORMAT = "hub"


def inspect_file(path: Path, *, filename: str, max_unpacked_bytes: int) -> FileReport:
    """What an upload holds, before any job says how to read it. Rows of a layout that is not known are no fault.

    Raises InvalidDataset for a file that cannot be read as a list of records, to its end.
    """
    preview = Preview()
    check = _Check(Wish(), preview.keep)
    with open_file(path, max_unpacked_bytes) as file:
        found, rows = read_rows(file, filename, max_unpacked_bytes)
        check.read(rows)
        sha256 = file.sha256()
    tally = check.tally
    if tally.damaged:
        raise refusal(tally.damaged, len(tally.damaged), tally.records)
    if check.columns is None:
        raise refusal(tally.problems, tally.problem_count, tally.records)
    report = tally.report(format_name=found, is_gzip=file.is_gzip, layout=check.layout, sha256=sha256)
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
    """Hand every good row to the sink, in file order, as the job's spec reads it. `progress` hears of every 1,000.

    Raises InvalidDataset with all problems up to the limit: for any bad row under `on_bad_row: fail`, and always when
    the layout is not known, the file cannot be read to its end, a mapped column is in no row, or fewer records are left
    than `max_dropped_fraction` asks for. The sink has rows by then.
    """
    check = _Check(Wish.of(dataset), sink)
    with open_file(path, max_unpacked_bytes) as file:
        found, rows = read_rows(file, filename, max_unpacked_bytes)
        check.read(_watched(rows, file, progress) if progress else rows, needs_layout=True)
        check.judge(dataset)
        sha256 = file.sha256()
    return check.tally.report(format_name=found, is_gzip=file.is_gzip, layout=check.layout, sha256=sha256)


def normalise_parts(
    parts: Sequence[FilePart], dataset: DatasetSpec, *, max_unpacked_bytes: int, sink: Sink
) -> DataReport:
    """As `normalise_file`, for the files of a hub dataset, which are read as one."""
    check = _Check(Wish.of(dataset), sink)
    check.read(read_parts(parts, max_unpacked_bytes), needs_layout=True)
    check.judge(dataset)
    return check.tally.report(format_name=HUB_FORMAT, is_gzip=False, layout=check.layout, sha256=None)


def _watched(rows: Rows, file: DataFile, progress: Progress) -> Rows:
    for count, row in enumerate(rows, 1):
        yield row
        if count % RECORDS_BETWEEN_PROGRESS == 0:
            progress(file.bytes_read)
    progress(file.bytes_read)


class _Check:
    """One pass over the rows. The first row decides the layout of all."""

    def __init__(self, wish: Wish, sink: Sink) -> None:
        self._wish = wish
        self._sink = sink
        self.layout: Layout | None = None
        self.columns: list[str] | None = None
        self.tally = Tally()
        self._unseen = dict(wish.columns or {})

    def read(self, rows: Rows, *, needs_layout: bool = False) -> None:
        """Raises InvalidDataset where the rows cannot be read to their end, or at the first of no known layout."""
        tally = self.tally
        try:
            for row in rows:
                self._take(row)
                if needs_layout and self._is_lost:
                    break
        except InvalidDataset as fault:
            problems = [*tally.problems, *fault.details]
            raise refusal(problems, tally.problem_count + len(fault.details), tally.records) from fault
        if needs_layout and self._is_lost:
            raise refusal(tally.problems, tally.problem_count, tally.records)
        if tally.records == 0:
            raise refusal([Problem(code="empty", found="an empty file", expected="at least one record")], 1, 0)

    def judge(self, dataset: DatasetSpec) -> None:
        """Raises InvalidDataset for rows that the job may not drop, and when too few are left."""
        tally = self.tally
        if tally.problems and (dataset.on_bad_row == "fail" or tally.kept == 0):
            raise refusal(tally.problems, tally.problem_count, tally.records)
        if tally.dropped / tally.records > dataset.max_dropped_fraction:
            raise too_many_dropped(tally, dataset.max_dropped_fraction)
        if self._unseen:
            problems = [never_seen(part, column) for part, column in self._unseen.items()]
            raise refusal(problems, len(problems), tally.records)

    @property
    def _is_lost(self) -> bool:
        """Whether the first row was seen and is of no layout that can be trained on."""
        return self.columns is not None and self.layout is None

    def _take(self, row: RawRow | Problem) -> None:
        self.tally.records += 1
        if isinstance(row, Problem):
            self.tally.add_damaged(row)
            return
        findings = Findings(row.number, row.line, row.is_arrow)
        record = self._record(row.value, findings)
        if record is None:
            self.tally.add_bad(findings)
            return
        self.tally.add(record, findings)
        self._sink(record, Place(row.number, row.line))

    def _record(self, value: Any, findings: Findings) -> Record | None:
        if not isinstance(value, dict):
            findings.wrong("record", "wrong_type", describe(value), "an object with the columns of the row")
            return None
        if self.columns is None:
            self.columns = [printable(str(name)) for name in value][:NAMED]
            self.layout = choose(Row.of(value, self._wish), self._wish, findings)
        if self._unseen:
            self._unseen = {part: column for part, column in self._unseen.items() if column not in value}
        return read_record(value, self.layout, self._wish, findings) if self.layout else None
