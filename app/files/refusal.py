"""Why a dataset is not taken: one answer that names its problems up to a limit, and says how many there are."""

from app.errors import InvalidDataset, Problem
from app.files.problems import Problems
from app.files.tally import Tally

# In the message; the details name more.
KINDS_DESCRIBED = 3


def refusal(problems: list[Problem], count: int, records: int) -> InvalidDataset:
    """One answer that names the problems of every kind up to the limit, and says how many there are."""
    found = Problems(problems)
    first, *others = found.kinds
    many = f"{count} problems in {records} records, the first: " if count > 1 else ""
    also = "".join(f"; also {described(problem)}" for problem in others[: KINDS_DESCRIBED - 1])
    return InvalidDataset(f"{many}{described(first)}{also}", details=found.named)


def too_many_dropped(tally: Tally, limit: float) -> InvalidDataset:
    """A dataset that would lose a larger share of its records than the job allows."""
    share = f"{tally.dropped} of {tally.records} records, a share of {tally.dropped / tally.records:.6g}"
    rule = f"found {share}, that cannot be used; dataset.max_dropped_fraction allows to drop {limit:.6g}"
    message = f"{rule}; the first problem: {described(tally.problems[0])}"
    return InvalidDataset(message, code="too_many_dropped", details=tally.problems)


def described(problem: Problem) -> str:
    """The place of a problem, what was found there and what would be right."""
    place = [f"{name} {number}" for name, number in (("record", problem.record), ("line", problem.line)) if number]
    where = ", ".join([*place, *([problem.field] if problem.field else [])]) or "file"
    return f"{where}: found {problem.found}, expected {problem.expected}"
