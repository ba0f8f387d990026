"""Explains why a record of a dataset is not among the rows of a job, from the reports of its check."""

from collections.abc import Iterator
from pathlib import Path

from app.contracts.rows import EVAL_REPORT, TRAIN_REPORT
from app.contracts.stored import Stored, read, read_json
from app.contracts.tokens import TokenReport
from app.errors import Problem
from app.jobs.models import Job
from app.jobs.stored import look_at_plan
from app.jobs.views.data_schemas import Split

REPORTS: dict[Split, str] = {"train": TRAIN_REPORT, "eval": EVAL_REPORT}


class _SourceReport(Stored):
    """The fields of an `app.datasets.report.DataReport` that this module reads."""

    records: int
    problems: list[Problem]


def sets_of_source(job: Job) -> list[Split]:
    """Return the splits whose record numbers are those of the training source: `eval` is one without an eval_source.

    Raises Conflict if the spec cannot be read.
    """
    return ["train"] if look_at_plan(job).dataset.eval_source else ["train", "eval"]


def sets_beside(job: Job, name: Split | None) -> list[Split]:
    """Return the splits of the same source without the named one."""
    sets = sets_of_source(job)
    return [known for known in sets if known != name] if name in sets else []


def explain(job: Job, folder: Path, record: int, name: Split | None, elsewhere: Split | None) -> str:
    """Return a sentence with the number of records and the reason. `elsewhere` is another split that has the record."""
    is_own_source = name == "eval" and "eval" not in sets_of_source(job)
    source = "eval_source" if is_own_source else "source"
    report = _source_report(job, source)
    if report is not None and record > report.records:
        return f"there is no record {record}: dataset.{source} has {_counted(report.records)}"
    of = f" of the {_counted(report.records)} of dataset.{source}" if report is not None else ""
    sentence = f"record {record}{of} is not among the {name or 'train'} rows"
    if elsewhere is not None:
        return f"{sentence}: it is one of the {elsewhere} rows"
    sets: list[Split] = ["eval"] if is_own_source else sets_of_source(job)
    why = next(_reasons(report, _token_reports(folder, sets), record), None)
    return f"{sentence}: {why or 'it was left out, and the reports list only the first records that were left out'}"


def _reasons(report: _SourceReport | None, tokens: list[TokenReport], record: int) -> Iterator[str]:
    problems = report.problems if report is not None else []
    for problem in (problem for problem in problems if problem.record == record):
        yield f"{problem.field or 'it'} was refused, found {problem.found}, expected {problem.expected}"
    for each in tokens:
        yield from (named.message for named in each.left_out if record in named.records)
        for long in (long for long in each.long_records if long.record == record):
            yield f"it has {long.tokens} tokens, and max_seq_length is {each.max_seq_length}"


def _source_report(job: Job, source: str) -> _SourceReport | None:
    """Return the report of a source, or None if there is none that can be read."""
    return read(_SourceReport, (job.data_report or {}).get(source))


def _token_reports(folder: Path, sets: list[Split]) -> list[TokenReport]:
    paths = [folder / REPORTS[name] for name in sets]
    found = [read_json(TokenReport, path.read_bytes()) for path in paths if path.exists()]
    return [report for report in found if report is not None]


def _counted(records: int) -> str:
    return "1 record" if records == 1 else f"{records} records"
