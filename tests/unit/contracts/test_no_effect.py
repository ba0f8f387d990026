"""A setting that was sent and has no effect is said; a default never is."""

from typing import Any

import pytest

from app.contracts.no_effect import RowTotals, StepTotals, by_rows, by_spec, by_steps
from app.contracts.plan import plan_of
from app.contracts.spec import JobSpec
from tests.support.specs import PAGE, a_spec

MANY = RowTotals(train=10_000, evaluation=0)
JOB = "job-" + "a" * 24


def said(spec: JobSpec, rows: RowTotals) -> list[str]:
    plan = plan_of(spec)
    return [notice.code for notice in (*by_spec(plan), *by_rows(plan, rows))]


@pytest.mark.parametrize(
    ("groups", "rows", "code"),
    [
        ({"training": {"lr_scheduler_type": "constant", "warmup_steps": 5}}, MANY, "warmup_unused"),
        ({"training": {"lr_scheduler_type": "constant", "warmup_ratio": 0.1}}, MANY, "warmup_unused"),
        ({"training": {"lr_scheduler_type": "cosine_with_restarts"}}, MANY, "no_restarts"),
        ({"training": {"optim": "sgd", "adam_beta1": 0.8}}, MANY, "adam_unused"),
        ({"training": {"optim": "lion_8bit", "adam_epsilon": 1e-6}}, MANY, "adam_unused"),
        ({"model": {"full_finetuning": True}, "lora": {"r": 8}}, MANY, "lora_unused"),
        ({"training": {"embedding_learning_rate": 1e-5}}, MANY, "embedding_rate_unused"),
        ({"training": {"method": "cpt"}, "dataset": {"train_on": "responses"}}, MANY, "train_on_unused"),
        ({"dataset": {"train_on": "last_response"}}, RowTotals(9, 0, is_text=True), "train_on_unused"),
        ({"training": {"per_device_eval_batch_size": 8}}, MANY, "eval_batch_unused"),
        ({"training": {"logging_strategy": "epoch", "logging_steps": 5}}, MANY, "logging_steps_unused"),
        ({"training": {"assistant_only_loss": True}}, RowTotals(9, 0, is_text=True), "assistant_only_loss_unused"),
        (
            {
                "dataset": {"eval_fraction": 0.1},
                "training": {"eval_steps": 9, "load_best_model_at_end": True, "greater_is_better": True},
            },
            RowTotals(900, 100),
            "worst_is_best",
        ),
        (
            {"dataset": {"eval_fraction": 0.1}, "training": {"max_steps": 5, "eval_steps": 1, "eval_delay": 9}},
            RowTotals(90, 10),
            "evaluated_at_the_end_only",
        ),
        ({"dataset": {"eval_fraction": 0.1}}, RowTotals(3, 0), "no_evaluation_rows"),
        ({"dataset": {"eval_fraction": 0.1}, "training": {"eval_steps": 999}}, RowTotals(3, 0), "no_evaluation_rows"),
        ({"training": {"per_device_train_batch_size": 4}}, RowTotals(3, 0), "batch_larger_than_data"),
        ({"training": {"gradient_accumulation_steps": 4}}, RowTotals(6, 0), "accumulation_longer_than_epoch"),
        ({"training": {"num_train_epochs": 0.2}}, RowTotals(16, 0), "epochs_below_a_step"),
        ({"training": {"max_steps": 5, "warmup_steps": 5}}, MANY, "warmup_longer_than_training"),
        ({"training": {"warmup_steps": 2}}, RowTotals(16, 0), "warmup_longer_than_training"),
        ({"training": {"max_steps": 5, "logging_steps": 6}}, MANY, "logged_at_the_end_only"),
        ({"training": {"max_steps": 5, "save_steps": 6}}, MANY, "no_checkpoints"),
        (
            {"dataset": {"eval_fraction": 0.1}, "training": {"max_steps": 5, "eval_steps": 6}},
            RowTotals(90, 10),
            "evaluated_at_the_end_only",
        ),
    ],
)
def test_what_was_sent_and_has_no_effect_is_said_once(groups: dict[str, Any], rows: RowTotals, code: str) -> None:
    assert said(a_spec(**groups), rows) == [code]


@pytest.mark.parametrize(
    ("groups", "rows"),
    [
        (PAGE, MANY),
        ({}, RowTotals(1, 0)),
        ({"training": {"lr_scheduler_type": "constant"}}, MANY),
        ({"training": {"lr_scheduler_type": "constant", "warmup_steps": 0}}, MANY),
        ({"training": {"lr_scheduler_type": "constant_with_warmup", "warmup_steps": 5}}, MANY),
        ({"training": {"max_steps": 3}}, MANY),
        ({"training": {"max_steps": 3, "warmup_ratio": 0.9}}, MANY),
        ({"training": {"lr_scheduler_type": "cosine_with_restarts", "lr_scheduler_kwargs": {"num_cycles": 2}}}, MANY),
        ({"training": {"optim": "lion_8bit", "adam_beta1": 0.8}}, MANY),
        ({"training": {"max_steps": 6, "warmup_steps": 5, "logging_steps": 6, "save_steps": 6}}, MANY),
        ({"model": {"full_finetuning": True}, "lora": {"random_state": 1}}, MANY),
        ({"model": {"full_finetuning": True}, "training": {"embedding_learning_rate": 1e-5}}, MANY),
        ({"lora": {"modules_to_save": ["lm_head"]}, "training": {"embedding_learning_rate": 1e-5}}, MANY),
        ({"dataset": {"train_on": "all"}, "training": {"method": "cpt"}}, MANY),
        ({"dataset": {"eval_fraction": 0.1}, "training": {"max_steps": 5, "eval_steps": 5}}, RowTotals(90, 10)),
    ],
)
def test_what_has_an_effect_and_what_was_not_sent_is_not_said(groups: dict[str, Any], rows: RowTotals) -> None:
    assert said(a_spec(**groups), rows) == []


def test_a_warmup_that_never_ends_is_said_with_the_rate_that_is_reached() -> None:
    spec = a_spec(training={"max_steps": 5, "warmup_steps": 100, "learning_rate": 2e-4})

    (notice,) = by_rows(plan_of(spec), MANY)

    assert (notice.field, notice.requested) == ("training.warmup_steps", 100)
    assert "reaches 8e-06 at most, never the 0.0002" in notice.message


@pytest.mark.parametrize("training", [{"packing": True}, {}])
def test_steps_that_only_the_trainer_knows_are_left_to_it(training: dict[str, Any]) -> None:
    origin = {} if training else {"continue_from": {"job": JOB}}
    plan = plan_of(a_spec(training={"warmup_steps": 9, **training}, **origin))

    assert by_rows(plan, RowTotals(8, 0)) == []
    assert [notice.code for notice in by_steps(plan, StepTotals(8, evaluates=False))] == ["warmup_longer_than_training"]
