"""Why a dataset is not taken: one answer that names its problems up to a limit, and says how many there are."""

from app.datasets.problems import Problems
from app.datasets.row_statistics import RowStatistics
from app.errors import InvalidDataset, Problem

# In the message; the details name more.
KINDS_DESCRIBED = 3


def refusal(problems: list[Problem], count: int, records: int) -> InvalidDataset:
    """One answer that names the problems of every kind up to the limit, and says how many there are."""
    found = Problems(problems)
    first, *others = found.kinds
    many = f"{count} problems in {records} records, the first: " if count > 1 else ""
    also = "".join(f"; also {described(problem)}" for problem in others[: KINDS_DESCRIBED - 1])
    return InvalidDataset(f"{many}{described(first)}{also}", details=found.named)


def too_many_dropped(statistics: RowStatistics, limit: float) -> InvalidDataset:
    """A dataset that would lose a larger share of its records than the job allows."""
    dropped, records = statistics.dropped, statistics.records
    share = f"{dropped} of {records} records, a share of {dropped / records:.6g}"
    rule = f"found {share}, that cannot be used; dataset.max_dropped_fraction allows to drop {limit:.6g}"
    message = f"{rule}; the first problem: {described(statistics.problems[0])}"
    return InvalidDataset(message, code="too_many_dropped", details=statistics.problems)


def described(problem: Problem) -> str:
    """The place of a problem, what was found there and what would be right."""
    place = [f"{name} {number}" for name, number in (("record", problem.record), ("line", problem.line)) if number]
    where = ", ".join([*place, *([problem.field] if problem.field else [])]) or "file"
    return f"{where}: found {problem.found}, expected {problem.expected}"
