"""Builds the errors for a refused dataset."""

from app.datasets.problems import Problems
from app.datasets.row_statistics import RowStatistics
from app.errors import InvalidDataset, Problem

# The message describes this many kinds of problems. The details list more.
KINDS_DESCRIBED = 3


def refusal(problems: list[Problem], count: int, records: int) -> InvalidDataset:
    """Returns an error with the number of problems, and with problems of every kind up to a limit."""
    found = Problems(problems)
    first, *others = found.kinds
    many = f"{count} problems in {records} records, the first: " if count > 1 else ""
    also = "".join(f"; also {describe_problem(problem)}" for problem in others[: KINDS_DESCRIBED - 1])
    return InvalidDataset(f"{many}{describe_problem(first)}{also}", details=found.named)


def too_many_dropped(statistics: RowStatistics, limit: float) -> InvalidDataset:
    """Returns the error for a dataset that would lose a larger share of its records than the job allows."""
    dropped, records = statistics.dropped, statistics.records
    share = f"{dropped} of {records} records, a share of {dropped / records:.6g}"
    rule = f"found {share}, that cannot be used; dataset.max_dropped_fraction allows a share of {limit:.6g}"
    message = f"{rule}; the first problem: {describe_problem(statistics.problems[0])}"
    return InvalidDataset(message, code="too_many_dropped", details=statistics.problems)


def describe_problem(problem: Problem) -> str:
    """Returns a sentence with the place of a problem, what was found there and what was expected."""
    place = [f"{name} {number}" for name, number in (("record", problem.record), ("line", problem.line)) if number]
    where = ", ".join([*place, *([problem.field] if problem.field else [])]) or "file"
    return f"{where}: found {problem.found}, expected {problem.expected}"
