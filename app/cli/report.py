"""Prints the report of a check for a person: counts, omitted rows, warnings, and lengths in tokens."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from app.cli.text import in_line, problem_line
from app.contracts.stored import read
from app.contracts.tokens import Bucket, RecordIssue, TokenReport
from app.datasets.report import Counted, DataReport
from app.jobs.schemas import JobError

MOST_NAMED = 5
LONGEST_BAR = 40
SOURCES = ("source", "eval_source")
SETS = ("train", "eval")
# The lists of a report that have a line for each entry.
NAMED_IN_LINES = ("fixes", "warnings", "left_out", "findings")
Json = Mapping[str, Any]


def report_lines(report: Json) -> Iterator[str]:
    """The sources as they were read, then the sets in tokens. A report of another version's form is omitted."""
    for name in SOURCES:
        if source := read(DataReport, report.get(name)):
            yield from _source_lines(name, source)
    for name in SETS:
        if tokens := read(TokenReport, report.get(name)):
            yield from _set_lines(name, tokens)


def _source_lines(name: str, report: DataReport) -> Iterator[str]:
    yield f"{name}: {report.records:,} records, {report.dropped:,} dropped; {report.format}, {report.layout or '-'}"
    yield from problem_lines([problem.model_dump() for problem in report.problems], report.problem_count)
    for kind, named in (("fixed", report.fixes), ("warning", report.warnings)):
        yield from (_named_line(kind, each) for each in named)


def _set_lines(name: str, report: TokenReport) -> Iterator[str]:
    share = f" ({100 * report.supervised_tokens / report.tokens:.1f} %)" if report.tokens else ""
    yield f"{name}: {report.rows:,} rows, {report.tokens:,} tokens, {report.supervised_tokens:,} of them trained{share}"
    length = report.row_tokens
    yield (
        f"  tokens a row: half have at most {length.p50:,}, 99 % at most {length.p99:,}; the longest "
        f"{report.longest_row_tokens:,} (record {report.longest_record}), max_seq_length {report.max_seq_length:,}"
    )
    yield from _bars(length.histogram)
    if report.truncated_rows:
        yield f"  cut: {report.truncated_rows:,} rows, {report.truncated_tokens:,} tokens"
    if report.duplicates:
        yield f"  duplicates: {report.duplicates:,} rows equal an earlier one"
    for kind, named in (("left out", report.left_out), ("finding", report.findings)):
        yield from (_named_line(kind, each) for each in named)


def _bars(histogram: Sequence[Bucket]) -> Iterator[str]:
    most = max((bucket.rows for bucket in histogram), default=1)
    for bucket in histogram:
        bar = "█" * max(1, round(LONGEST_BAR * bucket.rows / most))
        yield f"  {bucket.up_to:>9,} {bar} {bucket.rows:,}"


def _named_line(kind: str, named: RecordIssue | Counted) -> str:
    more = ", …" if named.count > MOST_NAMED else ""
    records = ", ".join(map(str, named.records[:MOST_NAMED]))
    text = named.message if isinstance(named, RecordIssue) else named.code
    return f"  {kind}: {named.count:,} × {in_line(text)} (records {records}{more})"


def notice_lines(notices: Sequence[Json], report: Json) -> Iterator[str]:
    """The notices that the lines of the report do not contain."""
    reported = {code for part in report.values() if isinstance(part, dict) for code in _codes(part)}
    for notice in notices:
        if "message" in notice and notice.get("code") not in reported:
            yield f"notice: {in_line(str(notice['message']))}"


def _codes(part: Json) -> Iterator[str]:
    """The codes in the report of one source or set."""
    for kind in NAMED_IN_LINES:
        yield from (named["code"] for named in part.get(kind) or [])


def failure_lines(failure: JobError) -> Iterator[str]:
    yield f"{failure.code} ({failure.category}): {in_line(failure.message)}"
    yield from problem_lines(failure.details, len(failure.details))
    if failure.hint:
        yield in_line(failure.hint)


def problem_lines(problems: Sequence[Json], count: int) -> Iterator[str]:
    yield from (problem_line(problem) for problem in problems[:MOST_NAMED])
    if count > MOST_NAMED:
        yield f"  and {count - MOST_NAMED:,} more problems"
