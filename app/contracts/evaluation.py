"""The arguments that say when a training is evaluated, and what follows from its evaluations.

Sources of names: transformers 5.17 `TrainingArguments` and `EarlyStoppingCallback`.
"""

from typing import Literal, Self

from pydantic import Field, model_validator

from app.contracts.base import Contract, Real, Whole

EVAL_LOSS = "eval_loss"
# The fields that follow from evaluations between two steps, and their values without any, as JSON writes them.
NEED_EVALUATIONS = {
    "load_best_model_at_end": "false",
    "early_stopping_patience": "null",
    "metric_for_best_model": "null",
    "eval_delay": "0",
}


class EvaluationArgs(Contract):
    """The part of `TrainingArgs` about evaluations. With rows to evaluate on, the last step is always evaluated."""

    eval_strategy: Literal["no", "steps", "epoch"] | None = Field(
        None, description='no: only at the end; null: "steps" beside eval_steps, else "no"'
    )
    eval_steps: Whole | None = Field(
        None, ge=1, le=10_000_000, description="optimizer steps between evaluations; null: only at the end"
    )
    eval_on_start: bool = Field(False, description="evaluate before the first step too")
    eval_delay: Real = Field(
        0.0, ge=0, le=10_000_000, description="the first evaluation: a step, or an epoch with eval_strategy epoch"
    )
    eval_accumulation_steps: Whole | None = Field(
        None, ge=1, le=1_000_000, description="batches of an evaluation whose losses are kept on the GPU"
    )
    load_best_model_at_end: bool = Field(
        False, description="the adapter is that of the best evaluation, not that of the last step"
    )
    metric_for_best_model: Literal["eval_loss", "loss"] | None = Field(
        None,
        description="the best evaluation has a checkpoint, which is kept beside the newest; null: no evaluation is "
        'the best, or "eval_loss" with load_best_model_at_end',
    )
    greater_is_better: bool | None = Field(None, description="null: false, since the metric is a loss")
    early_stopping_patience: Whole | None = Field(
        None, ge=1, le=100_000, description="evaluations in a row without a better one, after which the training ends"
    )
    early_stopping_threshold: Real = Field(
        0.0, ge=0, le=1_000_000, description="how much better than the best an evaluation has to be, for the patience"
    )

    @property
    def eval_strategy_in_force(self) -> Literal["no", "steps", "epoch"]:
        return self.eval_strategy or ("no" if self.eval_steps is None else "steps")

    @property
    def best_metric(self) -> str | None:
        """The metric by which one evaluation is the best. Returns None if none is."""
        return EVAL_LOSS if self.metric_for_best_model or self.load_best_model_at_end else None

    @model_validator(mode="after")
    def _strategy_and_steps_agree(self) -> Self:
        strategy = self.eval_strategy_in_force
        if strategy == "steps" and self.eval_steps is None:
            raise ValueError('eval_steps should be a number of steps beside eval_strategy "steps"')
        if strategy != "steps" and self.eval_steps is not None:
            raise ValueError(f'eval_steps should be null beside eval_strategy "{strategy}"')
        for name, without in NEED_EVALUATIONS.items():
            if strategy == "no" and getattr(self, name):
                raise ValueError(f'{name} should be {without} without eval_steps or eval_strategy "epoch"')
        return self

    @model_validator(mode="after")
    def _there_is_a_best_evaluation(self) -> Self:
        if self.early_stopping_patience is None and self.early_stopping_threshold:
            raise ValueError("early_stopping_threshold should be 0 without early_stopping_patience")
        if self.best_metric is not None:
            return self
        if self.early_stopping_patience is not None:
            raise ValueError(f'metric_for_best_model should be "{EVAL_LOSS}" beside early_stopping_patience')
        if self.greater_is_better is not None:
            raise ValueError("greater_is_better should be null without metric_for_best_model")
        return self
