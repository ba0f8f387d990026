"""Which evaluation is the best, and when the patience is over."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import EarlyStoppingCallback, TrainerControl, TrainerState

from app.contracts.evaluation import EvaluationArgs
from worker.training.evaluations import Evaluations, after, why_over


def arguments(**sent: Any) -> EvaluationArgs:
    return EvaluationArgs(eval_steps=1, **sent)


def seen(values: list[float | None], sent: EvaluationArgs) -> Evaluations:
    found = Evaluations()
    for step, value in enumerate(values, 1):
        found = after(found, step, value, sent)
    return found


@pytest.mark.parametrize(
    ("values", "sent", "best_step", "is_over"),
    [
        ([3.0, 2.0, 2.5], {}, 2, False),
        ([3.0, 2.0, 2.0], {}, 2, False),
        ([3.0, 2.0, 2.5], {"greater_is_better": True}, 1, False),
        ([None, 2.0, None], {}, 2, False),
        ([None, None], {"early_stopping_patience": 2}, None, True),
        ([3.0, 3.5, 2.0, 2.5], {"early_stopping_patience": 2}, 3, False),
        ([3.0, 3.5, 2.0, 2.5, 2.5], {"early_stopping_patience": 2}, 3, True),
        # It is the best, but not by enough for the patience.
        ([3.0, 2.9, 2.8], {"early_stopping_patience": 2, "early_stopping_threshold": 0.2}, 3, True),
    ],
)
def test_the_best_evaluation_and_the_end_of_the_patience(
    values: list[float | None], sent: dict[str, Any], best_step: int | None, is_over: bool
) -> None:
    found = seen(values, arguments(metric_for_best_model="eval_loss", **sent))

    assert (found.last_step, found.best_step, found.is_over) == (len(values), best_step, is_over)


def test_without_a_metric_no_evaluation_is_the_best() -> None:
    assert seen([3.0, 2.0], arguments()) == Evaluations(last_step=2)


def test_the_reason_names_the_best_and_how_long_it_was_not_beaten() -> None:
    sent = arguments(metric_for_best_model="loss", early_stopping_patience=2, early_stopping_threshold=0.5)

    assert why_over(seen([3.0, 2.9, 2.8], sent), sent) == (
        "eval_loss was not better than 2.8, that of step 3, by more than 0.5 in 2 evaluations in a row"
    )
    assert why_over(seen([3.0], sent), sent) is None


@pytest.mark.parametrize("greater", [True, False])
@pytest.mark.parametrize("threshold", [0.0, 0.25])
def test_a_training_ends_when_transformers_own_callback_would_end_it(threshold: float, greater: bool) -> None:
    sent = arguments(
        metric_for_best_model="eval_loss",
        greater_is_better=greater,
        early_stopping_patience=4,
        early_stopping_threshold=threshold,
    )
    callback, state, control = EarlyStoppingCallback(4, threshold), TrainerState(), TrainerControl()
    args: Any = SimpleNamespace(metric_for_best_model="eval_loss", greater_is_better=greater)
    found, step = Evaluations(), 0

    while not found.is_over and step < 40:
        step += 1
        value = math.sin(step * step)
        callback.on_evaluate(args, state, control, metrics={"eval_loss": value})
        if state.best_metric is None or (value > state.best_metric if greater else value < state.best_metric):
            state.best_metric = value
        found = after(found, step, value, sent)
        assert (found.best_value, found.is_over) == (state.best_metric, control.should_training_stop)

    assert found.is_over
