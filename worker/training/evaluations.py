"""Decides which evaluation of a training is the best, and when its patience is over. Pure functions.

The rules are those of transformers' `Trainer._determine_best_metric` and `EarlyStoppingCallback`.
"""

from dataclasses import dataclass

from app.contracts.evaluation import EvaluationArgs
from app.contracts.events import BestEvaluation


@dataclass(frozen=True)
class Evaluations:
    """What the evaluations up to a step have shown. It is a part of every checkpoint.

    `not_better`: how many evaluations in a row were not better than the best by more than the threshold. `is_over`: the
    training ends at `last_step`, because its patience is over.
    """

    last_step: int | None = None
    best_step: int | None = None
    best_value: float | None = None
    not_better: int = 0
    is_over: bool = False


def after(before: Evaluations, step: int, value: float | None, arguments: EvaluationArgs) -> Evaluations:
    """`value`: the metric of the evaluation; None if it was not finite, which is never better."""
    if arguments.best_metric is None:
        return Evaluations(last_step=step)
    gain = _gain(before.best_value, value, greater_is_better=bool(arguments.greater_is_better))
    not_better = 0 if gain > arguments.early_stopping_threshold else before.not_better + 1
    patience = arguments.early_stopping_patience
    return Evaluations(
        last_step=step,
        best_step=step if gain > 0 else before.best_step,
        best_value=value if gain > 0 else before.best_value,
        not_better=not_better,
        is_over=patience is not None and not_better >= patience,
    )


def _gain(best: float | None, value: float | None, *, greater_is_better: bool) -> float:
    """How much better a value is than the best before it."""
    if value is None:
        return float("-inf")
    if best is None:
        return float("inf")
    return value - best if greater_is_better else best - value


def best_of(found: Evaluations, arguments: EvaluationArgs) -> BestEvaluation | None:
    if arguments.best_metric is None or found.best_step is None or found.best_value is None:
        return None
    return BestEvaluation(step=found.best_step, metric=arguments.best_metric, value=found.best_value)


def why_over(found: Evaluations, arguments: EvaluationArgs) -> str | None:
    """Say why the training ended early. Returns None if it did not."""
    if not found.is_over:
        return None
    best = best_of(found, arguments)
    than = "finite" if best is None else f"better than {best.value:.6g}, that of step {best.step},"
    by = f" by more than {arguments.early_stopping_threshold:g}" if arguments.early_stopping_threshold else ""
    return f"{arguments.best_metric} was not {than}{by} in {found.not_better} evaluations in a row"
