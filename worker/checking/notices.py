"""The notices of prepared rows, read off their reports: every warning of a report is one, so that none is missed."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from app.contracts.events import Noticed
from app.contracts.tokens import Overlap, TokenReport
from app.datasets.layouts import PARTS
from app.datasets.problems import Problems
from app.datasets.refusal import described
from app.datasets.report import DataReport
from app.datasets.row_issues import WARNINGS
from worker.checking.split import SplitReport
from worker.checking.tokens import LEFT_OUT

# Keys and columns that a row is learned from elsewhere, by their last name; others are the user's own.
MEANT_TO_BE_LEARNED = PARTS | {"reasoning_content", "reasoning", "thinking"}
# In a message; the reports name more.
RECORDS_NAMED = 5
PROBLEMS_DESCRIBED = 3


def notices_of(reports: Mapping[str, Any]) -> Iterator[Noticed]:
    """`reports` is the data report of a job: of its sources, of the sets that became of them, and of their overlap."""
    for name in ("source", "eval_source"):
        if name in reports:
            report, field = DataReport.model_validate(reports[name]), f"dataset.{name}"
            yield from _of_files(report, field)
            yield from _of_source(report, field)
    for name, kind in (("train", "record"), ("eval", "evaluation record")):
        if name in reports:
            yield from _of_set(TokenReport.model_validate(reports[name]), kind)
    if "split" in reports:
        yield from _of_split(SplitReport.model_validate(reports["split"]))
    if "overlap" in reports:
        yield from _of_overlap(Overlap.model_validate(reports["overlap"]))


def _of_files(report: DataReport, field: str) -> Iterator[Noticed]:
    unread = report.unread_files
    if unread is not None:
        message = f"{unread.count} files of {field} are of another format than most and are not read"
        yield Noticed(code="hub_files_left_out", message=message, field=field, requested=unread.names)


def _of_source(report: DataReport, field: str) -> Iterator[Noticed]:
    if report.dropped:
        reasons = "; ".join(described(problem) for problem in Problems(report.problems).kinds[:PROBLEMS_DESCRIBED])
        message = f"{report.dropped} of {report.records} records of {field} are dropped: {reasons}"
        numbers = sorted({problem.record for problem in report.problems if problem.record is not None})
        yield Noticed(
            code="rows_dropped", message=message, field="dataset.on_bad_row", requested=numbers, effective="drop"
        )
    for warning in report.warnings:
        message = f"{_who('record', warning.count, warning.records)}: {WARNINGS[warning.code]}"
        yield Noticed(code=warning.code, message=message, field=field)

    ignored = [key for key in report.ignored_keys if key.rpartition(".")[2] in MEANT_TO_BE_LEARNED]
    if ignored:
        message = f"rows of {report.layout} are read without {', '.join(ignored)}: nothing of it is learned"
        yield Noticed(code="keys_ignored", message=message, field=field)


def _of_set(report: TokenReport, kind: str) -> Iterator[Noticed]:
    limit = report.max_seq_length
    for named in report.left_out:
        message = f"{_who(kind, named.count, named.records)} left out: {named.message}"
        is_long = named.code in LEFT_OUT
        field, effective = ("model.max_seq_length", limit) if is_long else ("dataset.on_bad_row", "drop")
        yield Noticed(code=named.code, message=message, field=field, requested=named.records, effective=effective)
    if report.truncated_rows:
        cut = [long.record for long in report.long_records if long.record not in _left_out(report)]
        message = f"{_who(kind, report.truncated_rows, cut)} longer than max_seq_length: the ends are cut off"
        yield Noticed(code="rows_cut", message=message, field="model.max_seq_length", effective=limit)
    for named in report.findings:
        message = f"{_who(kind, named.count, named.records)}: {named.message}"
        yield Noticed(code=named.code, message=message, field="model.chat_template")


def _left_out(report: TokenReport) -> set[int]:
    return {number for named in report.left_out for number in named.records}


def _of_split(report: SplitReport) -> Iterator[Noticed]:
    if report.eval_rows and report.eval_rows != report.wanted_rows:
        message = (
            f"{report.eval_rows} of {report.rows} rows are evaluated on, a share of {report.eval_share}: "
            f"equal rows stay on one side of the split, so the {report.wanted_rows} that were asked for cannot be met"
        )
        yield Noticed(
            code="eval_fraction_not_met",
            message=message,
            field="dataset.eval_fraction",
            requested=report.eval_fraction,
            effective=report.eval_share,
        )


def _of_overlap(report: Overlap) -> Iterator[Noticed]:
    if report.count:
        who = _who("evaluation record", report.count, report.records)
        message = f"{who} equal to a row that is trained on: what is measured there is memory"
        yield Noticed(code="eval_rows_trained_on", message=message, field="dataset.eval_source")


def _who(kind: str, count: int, numbers: Sequence[int]) -> str:
    """`record 2`, or `7 records (1, 2, 3, 4, 5, …)`."""
    if count == 1 and numbers:
        return f"{kind} {numbers[0]}"
    more = ", …" if count > RECORDS_NAMED else ""
    return f"{count} {kind}s ({', '.join(map(str, numbers[:RECORDS_NAMED]))}{more})"
