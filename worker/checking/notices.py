"""Turns the reports on prepared rows into notices of the job. Every warning in a report becomes a notice."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from app.contracts.events import Noticed
from app.contracts.tokens import Overlap, TokenReport
from app.datasets.layouts import PARTS
from app.datasets.problems import Problems
from app.datasets.refusal import describe_problem
from app.datasets.report import DataReport
from app.datasets.row_issues import WARNINGS
from worker.checking.split import SplitReport
from worker.checking.tokens import LEFT_OUT

# A notice is given if one of these keys (the last part of its path) is ignored. Other keys are the user's own.
MEANT_TO_BE_LEARNED = PARTS | {"reasoning_content", "reasoning", "thinking"}
# At most this many are in a message. The reports list more.
RECORDS_NAMED = 5
PROBLEMS_DESCRIBED = 3


def notices_of(reports: Mapping[str, Any]) -> Iterator[Noticed]:
    """Yields the notices of a job's data report, which covers the sources, the row sets, the split and the overlap."""
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
        reasons = "; ".join(
            describe_problem(problem) for problem in Problems(report.problems).kinds[:PROBLEMS_DESCRIBED]
        )
        message = f"{report.dropped} of {report.records} records of {field} are dropped: {reasons}"
        numbers = sorted({problem.record for problem in report.problems if problem.record is not None})
        yield Noticed(
            code="rows_dropped", message=message, field="dataset.on_bad_row", requested=numbers, effective="drop"
        )
    for warning in report.warnings:
        message = f"{_which_records('record', warning.count, warning.records)}: {WARNINGS[warning.code]}"
        yield Noticed(code=warning.code, message=message, field=field)

    ignored = [key for key in report.ignored_keys if key.rpartition(".")[2] in MEANT_TO_BE_LEARNED]
    if ignored:
        message = f"rows of {report.layout} are read without {', '.join(ignored)}, which is not trained on"
        yield Noticed(code="keys_ignored", message=message, field=field)


def _of_set(report: TokenReport, kind: str) -> Iterator[Noticed]:
    limit = report.max_seq_length
    for named in report.left_out:
        message = f"{_which_records(kind, named.count, named.records)} dropped: {named.message}"
        is_long = named.code in LEFT_OUT
        field, effective = ("model.max_seq_length", limit) if is_long else ("dataset.on_bad_row", "drop")
        yield Noticed(code=named.code, message=message, field=field, requested=named.records, effective=effective)
    if report.truncated_rows:
        cut = [long.record for long in report.long_records if long.record not in _dropped_numbers(report)]
        message = f"{_which_records(kind, report.truncated_rows, cut)} longer than max_seq_length: the ends are cut off"
        yield Noticed(code="rows_cut", message=message, field="model.max_seq_length", effective=limit)
    for named in report.findings:
        message = f"{_which_records(kind, named.count, named.records)}: {named.message}"
        yield Noticed(code=named.code, message=message, field="model.chat_template")


def _dropped_numbers(report: TokenReport) -> set[int]:
    return {number for named in report.left_out for number in named.records}


def _of_split(report: SplitReport) -> Iterator[Noticed]:
    if report.eval_rows and report.eval_rows != report.wanted_rows:
        message = (
            f"{report.eval_rows} of {report.rows} rows are used for evaluation, a share of {report.eval_share}: "
            f"equal rows stay together in the split, so {report.wanted_rows} rows as requested are not possible"
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
        records = _which_records("evaluation record", report.count, report.records)
        message = f"{records} equal to a training row: there the evaluation measures memorisation"
        yield Noticed(code="eval_rows_trained_on", message=message, field="dataset.eval_source")


def _which_records(kind: str, count: int, numbers: Sequence[int]) -> str:
    """Returns `record 2`, or `7 records (1, 2, 3, 4, 5, …)`."""
    if count == 1 and numbers:
        return f"{kind} {numbers[0]}"
    more = ", …" if count > RECORDS_NAMED else ""
    return f"{count} {kind}s ({', '.join(map(str, numbers[:RECORDS_NAMED]))}{more})"
