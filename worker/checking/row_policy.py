"""Whether what is left of a source may be trained on: the one place that says no for its rows."""

from collections.abc import Sequence

from app.contracts.spec import DatasetSpec
from app.datasets.check import DataReport
from app.datasets.problems import Problems
from app.errors import Problem
from worker.checking.pipeline import Outcome
from worker.checking.rows import TOO_LONG
from worker.failures import UserError


def judge(form: DataReport, outcome: Outcome, dataset: DatasetSpec, param: str) -> None:
    """Raises UserError for records that the job may not drop, for too many of them, and when none is left.

    A record that is refused for its length (`on_long_row: fail`) is no bad one, and is never dropped.
    """
    left_out = sum(map(len, outcome.left_out.values()))
    dropped = form.dropped + outcome.problem_count + left_out
    if outcome.kept == 0:
        raise _refusal(_nothing_left(form, outcome), outcome, param)
    if outcome.problem_count and (dataset.on_bad_row == "fail" or TOO_LONG in outcome.refused):
        count = f"{outcome.problem_count} of {form.records} records cannot be trained on: "
        raise _refusal(count + _first(outcome.problems), outcome, param)
    if dropped / form.records > dataset.max_dropped_fraction:
        message = (
            f"{dropped} of {form.records} records would be left out ({left_out} of them for their length), "
            f"more than dataset.max_dropped_fraction, {dataset.max_dropped_fraction}"
        )
        details = Problems([*form.problems, *_all_problems(outcome)]).named
        raise UserError("too_many_dropped", message, hint=_too_many(left_out), param=param, details=_shown(details))


def _nothing_left(form: DataReport, outcome: Outcome) -> str:
    if outcome.problems:
        return f"0 of {form.records} records have a supervised token: {_first(outcome.problems)}"
    reasons = ", ".join(f"{len(numbers)} {code}" for code, numbers in outcome.left_out.items())
    return f"0 of {form.records} records are left: {reasons}"


def _refusal(message: str, outcome: Outcome, param: str) -> UserError:
    problems = _all_problems(outcome)
    codes = {problem.code for problem in problems}
    code = codes.pop() if len(codes) == 1 else "invalid_dataset"
    fields = {problem.field for problem in problems}
    place = fields.pop() if len(fields) == 1 else None
    param = place if place and place.startswith("dataset.") else param  # a field of the spec, not of a row
    return UserError(code, message, hint=_hint(outcome), param=param, details=_shown(problems))


def _hint(outcome: Outcome) -> str:
    if not outcome.problems:
        return _too_many(1)
    return 'dataset.on_bad_row "drop" leaves them out, and says so' if outcome.kept else "no record is good as it is"


def _all_problems(outcome: Outcome) -> list[Problem]:
    """Those of refused records, and one for each record that is left out for its length."""
    long = [
        Problem(record=long.record, code=code, found=f"{long.tokens} tokens", expected="an answer in max_seq_length")
        for long in outcome.long_records
        for code, numbers in outcome.left_out.items()
        if long.record in numbers
    ]
    return Problems([*outcome.problems, *long]).named


def _too_many(left_out: int) -> str:
    return "raise model.max_seq_length" if left_out else "mend the data, or raise dataset.max_dropped_fraction"


def _first(problems: Sequence[Problem]) -> str:
    first = problems[0]
    return f"record {first.record}, {first.field or 'as a whole'}: found {first.found}, expected {first.expected}"


def _shown(problems: Sequence[Problem]) -> list[dict[str, object]]:
    return [problem.model_dump(exclude_none=True) for problem in problems]
