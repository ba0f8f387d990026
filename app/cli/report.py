"""What a check found in a dataset, in lines for a person: counts, what was left out, what is worth a look, lengths."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import TypeAdapter

from app.cli.client_views import Failure, Json, View
from app.cli.text import in_line

MOST_NAMED = 5
LONGEST_BAR = 40
SOURCES = ("source", "eval_source")
SETS = ("train", "eval")
# The lists of a report that have a line for each entry.
NAMED_IN_LINES = ("fixes", "warnings", "left_out", "findings")


class Named(View):
    code: str
    message: str | None = None
    count: int
    records: list[int]


class SourceReport(View):
    """The rows of a source, before they are tokens."""

    format: str
    layout: str | None
    records: int
    dropped: int
    problem_count: int
    problems: list[Json]
    fixes: list[Named] = []
    warnings: list[Named] = []


class Bucket(View):
    up_to: int
    rows: int


class Spread(View):
    p50: int
    p99: int
    histogram: list[Bucket]


class SetReport(View):
    """The rows of a set, in tokens."""

    rows: int
    tokens: int
    supervised_tokens: int
    max_seq_length: int
    longest_row_tokens: int
    longest_record: int
    row_tokens: Spread
    truncated_rows: int
    truncated_tokens: int
    left_out: list[Named]
    findings: list[Named]
    duplicates: int


SOURCE, SET = TypeAdapter(SourceReport), TypeAdapter(SetReport)


def report_lines(report: Mapping[str, Any]) -> Iterator[str]:
    """Reports of a form that this client does not know are left out."""
    for name in SOURCES:
        if _has(report, name, SourceReport):
            yield from _source_lines(name, SOURCE.validate_python(report[name]))
    for name in SETS:
        if _has(report, name, SetReport):
            yield from _set_lines(name, SET.validate_python(report[name]))


def _has(report: Mapping[str, Any], name: str, form: type[View]) -> bool:
    required = {field for field, known in form.model_fields.items() if known.is_required()}
    return isinstance(report.get(name), dict) and report[name].keys() >= required


def _source_lines(name: str, report: SourceReport) -> Iterator[str]:
    yield f"{name}: {report.records:,} records, {report.dropped:,} dropped; {report.format}, {report.layout or '-'}"
    yield from problem_lines(report.problems, report.problem_count)
    for kind, named in (("fixed", report.fixes), ("warning", report.warnings)):
        yield from (_named_line(kind, each) for each in named)


def _set_lines(name: str, report: SetReport) -> Iterator[str]:
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


def _named_line(kind: str, named: Named) -> str:
    more = ", …" if named.count > MOST_NAMED else ""
    records = ", ".join(map(str, named.records[:MOST_NAMED]))
    return f"  {kind}: {named.count:,} × {in_line(named.message or named.code)} (records {records}{more})"


def notice_lines(notices: Sequence[Json], report: Mapping[str, Any]) -> Iterator[str]:
    """Those that the lines of the report do not say already."""
    said = {code for form in report.values() if isinstance(form, dict) for code in _codes(form)}
    for notice in notices:
        if notice.get("code") not in said:
            yield f"notice: {in_line(str(notice['message']))}"


def _codes(form: Mapping[str, Any]) -> Iterator[str]:
    """What is named in the report of one source or set."""
    for kind in NAMED_IN_LINES:
        yield from (named["code"] for named in form.get(kind) or [])


def failure_lines(failure: Failure) -> Iterator[str]:
    yield f"{failure.code} ({failure.category}): {in_line(failure.message)}"
    yield from problem_lines(failure.details, len(failure.details))
    if failure.hint:
        yield in_line(failure.hint)


def problem_lines(problems: Sequence[Json], count: int) -> Iterator[str]:
    yield from (problem_line(problem) for problem in problems[:MOST_NAMED])
    if count > MOST_NAMED:
        yield f"  and {count - MOST_NAMED:,} more problems"


def problem_line(detail: Json) -> str:
    """`record 3, line 7, messages.0: found 12, expected a string`."""
    places = [f"{name} {detail[name]}" for name in ("record", "line") if detail.get(name) is not None]
    places += [detail["field"]] if detail.get("field") is not None else []
    reason = [f"{name} {detail[name]}" for name in ("found", "expected") if detail.get(name) is not None]
    return in_line(f"  {', '.join(places)}: {', '.join(reason)}")
