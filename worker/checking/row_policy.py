"""Checks the rows of a source against the job's policy for bad and dropped rows."""

from collections.abc import Sequence

from app.contracts.spec import DatasetSpec
from app.datasets.check import DataReport
from app.datasets.problems import Problems
from app.errors import Problem
from worker.checking.pipeline import Outcome
from worker.checking.rows import TOO_LONG
from worker.failures import UserError


def check_row_policy(report: DataReport, outcome: Outcome, dataset: DatasetSpec, param: str) -> None:
    """Raises UserError if the job may not drop the bad records, too many are dropped, or none is left.

    Under `on_long_row: fail`, a row that is too long always fails the job, also under `on_bad_row: drop`.
    """
    dropped_for_length = sum(map(len, outcome.left_out.values()))
    dropped = report.dropped + outcome.problem_count + dropped_for_length
    if outcome.kept == 0:
        raise _refusal(_nothing_left(report, outcome), outcome, param)
    if outcome.problem_count and (dataset.on_bad_row == "fail" or TOO_LONG in outcome.refused):
        count = f"{outcome.problem_count} of {report.records} records cannot be trained on: "
        raise _refusal(count + _first(outcome.problems), outcome, param)
    if dropped / report.records > dataset.max_dropped_fraction:
        message = (
            f"{dropped} of {report.records} records would be dropped ({dropped_for_length} because of their length), "
            f"more than dataset.max_dropped_fraction, {dataset.max_dropped_fraction}"
        )
        details = Problems([*report.problems, *_all_problems(outcome)]).named
        raise UserError(
            "too_many_dropped",
            message,
            hint=_hint_for_dropped(dropped_for_length),
            param=param,
            details=_shown(details),
        )


def _nothing_left(report: DataReport, outcome: Outcome) -> str:
    if outcome.problems:
        return f"0 of {report.records} records have a supervised token: {_first(outcome.problems)}"
    reasons = ", ".join(f"{len(numbers)} {code}" for code, numbers in outcome.left_out.items())
    return f"0 of {report.records} records are left: {reasons}"


def _refusal(message: str, outcome: Outcome, param: str) -> UserError:
    problems = _all_problems(outcome)
    codes = {problem.code for problem in problems}
    code = codes.pop() if len(codes) == 1 else "invalid_dataset"
    fields = {problem.field for problem in problems}
    place = fields.pop() if len(fields) == 1 else None
    param = place if place and place.startswith("dataset.") else param  # it is a field of the spec, not of a row
    return UserError(code, message, hint=_hint(outcome), param=param, details=_shown(problems))


def _hint(outcome: Outcome) -> str:
    if not outcome.problems:
        return _hint_for_dropped(1)
    return 'dataset.on_bad_row "drop" drops and reports them' if outcome.kept else "no record can be used as it is"


def _all_problems(outcome: Outcome) -> list[Problem]:
    """Returns the problems of refused records, and one problem for each record that is dropped for its length."""
    long = [
        Problem(
            record=long.record, code=code, found=f"{long.tokens} tokens", expected="an answer within max_seq_length"
        )
        for long in outcome.long_records
        for code, numbers in outcome.left_out.items()
        if long.record in numbers
    ]
    return Problems([*outcome.problems, *long]).named


def _hint_for_dropped(for_length: int) -> str:
    return "raise model.max_seq_length" if for_length else "correct the data, or raise dataset.max_dropped_fraction"


def _first(problems: Sequence[Problem]) -> str:
    first = problems[0]
    return f"record {first.record}, {first.field or 'as a whole'}: found {first.found}, expected {first.expected}"


def _shown(problems: Sequence[Problem]) -> list[dict[str, object]]:
    return [problem.model_dump(exclude_none=True) for problem in problems]
