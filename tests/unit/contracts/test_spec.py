"""The spec takes what Unsloth's page shows and refuses what cannot work."""

import json
import re
from hashlib import sha256
from itertools import chain
from typing import Any, get_args

import pytest
from pydantic import BaseModel, ValidationError

from app.contracts.plan import JobPlan, plan_of
from app.contracts.spec import SPEC_VERSION, JobSpec
from tests.support.specs import PAGE, a_body, a_spec


def test_every_argument_of_the_page_is_taken_under_its_own_name() -> None:
    spec = JobSpec.model_validate(PAGE).model_dump()

    kept = {group: {name: spec[group][name] for name in fields} for group, fields in PAGE.items()}

    assert kept | {"dataset": PAGE["dataset"]} == PAGE
    assert spec["dataset"]["source"]["hub"] == "mlabonne/FineTome-100k"


OUT_OF_BOUNDS: dict[str, list[Any]] = {
    "lora.r": [0, -4, 8.5, "8x", True],
    "lora.lora_alpha": [0],
    "lora.lora_dropout": [1.5],
    "lora.target_modules": [[], "all"],
    "lora.init_lora_weights": ["pissa", "olora", "eva"],
    "lora.bias": ["some"],
    "lora.layers_to_transform": [[], [-1], "last"],
    "lora.rank_pattern": [{"q_proj": 0}, ["q_proj"]],
    "lora.alpha_pattern": [{"q_proj": "x"}],
    "training.learning_rate": ["fast", -1, 0, float("nan"), 1e9],
    "training.warmup_ratio": [1, -0.1],
    "training.adam_beta1": [1],
    "training.adam_epsilon": [0],
    "training.neftune_noise_alpha": [0],
    "training.label_smoothing_factor": [1, -0.1],
    "training.lr_scheduler_kwargs": [{"cycles": 2}],
    "training.max_steps": [0, 10**30],
    "training.optim": ["adamw_9bit"],
    "training.save_steps": [0],
    "training.save_strategy": ["never"],
    "training.logging_strategy": ["best"],
    "training.eval_strategy": ["always"],
    "training.eval_delay": [-1],
    "training.metric_for_best_model": ["eval_accuracy"],
    "training.early_stopping_patience": [0],
    "training.early_stopping_threshold": [-0.1],
    "training.train_sampling_strategy": ["batch_rebalance"],
    "training.torch_empty_cache_steps": [0],
    "training.output_dir": ["../x"],
    "model.model_name": ["../../etc", "/etc/passwd"],
    "model.max_seq_length": [0],
    "model.dtype": ["int4"],
    "model.chat_template": ["llama-9"],
    "dataset.train_on": ["prompts"],
    "dataset.eval_fraction": [0.9],
    "resources.gpus": [0],
}


@pytest.mark.parametrize(("path", "value"), [(path, value) for path in OUT_OF_BOUNDS for value in OUT_OF_BOUNDS[path]])
def test_a_value_out_of_bounds_is_refused_by_its_field(path: str, value: Any) -> None:
    group, field = path.split(".")

    with pytest.raises(ValidationError) as refusal:
        a_spec(**{group: {field: value}})

    place = [part for part in refusal.value.errors()[0]["loc"] if part != "sft"]  # the member of a union
    assert place[:2] == [group, field]


PATHS = ["../../escape", "/etc/cron.d/x", "a/../../b", "..\\..\\win", "%2e%2e%2fenc"]


@pytest.mark.parametrize("name", [*PATHS, "name\0.txt", ".", "..", "", "a" * 400, "CON", "\U0001f942"])
def test_a_name_that_is_no_plain_name_is_refused(name: str) -> None:
    with pytest.raises(ValidationError, match="name"):
        JobSpec.model_validate({**a_body(), "name": name})


def test_trls_minus_one_means_no_limit_of_steps() -> None:
    assert a_spec(training={"max_steps": -1, "num_train_epochs": 2}).training.max_steps is None


def test_a_learning_rate_in_quotes_is_read_as_the_number() -> None:
    assert a_spec(training={"learning_rate": "2e-4"}).training.learning_rate == 2e-4


@pytest.mark.parametrize(
    ("kind", "own", "named"),
    [
        ("cosine", {"lr_end": 0}, 'lr_end should be left out: lr_scheduler_type "cosine" may have num_cycles'),
        ("constant", {"power": 2}, 'lr_scheduler_type "constant" takes none'),
        ("cosine_with_restarts", {"num_cycles": 1.5}, "num_cycles should be whole"),
        ("cosine_with_min_lr", {}, "should have min_lr or min_lr_rate"),
        ("cosine_with_min_lr", {"min_lr": 1e-5, "min_lr_rate": 0.1}, "should have min_lr or min_lr_rate"),
        ("cosine_with_min_lr", {"min_lr": 0.5}, "min_lr should be less than learning_rate"),
        ("polynomial", {"lr_end": 0.5}, "lr_end should be less than learning_rate"),
        ("warmup_stable_decay", {}, "should have num_decay_steps"),
    ],
)
def test_arguments_that_a_schedule_cannot_use_are_refused(kind: str, own: dict[str, Any], named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        a_spec(training={"lr_scheduler_type": kind, "lr_scheduler_kwargs": own})


EVALUATED = {"dataset": {"eval_fraction": 0.1}}
BY_STEPS = {"eval_steps": 5}


@pytest.mark.parametrize(
    ("sent", "strategy", "metric"),
    [
        ({}, "no", None),
        (BY_STEPS, "steps", None),
        ({"eval_strategy": "epoch"}, "epoch", None),
        ({**BY_STEPS, "load_best_model_at_end": True}, "steps", "eval_loss"),
        ({**BY_STEPS, "metric_for_best_model": "loss"}, "steps", "eval_loss"),
    ],
)
def test_what_is_not_said_of_evaluations_follows_from_what_is(
    sent: dict[str, Any], strategy: str, metric: str | None
) -> None:
    training = a_spec(**EVALUATED, training=sent).training

    assert (training.eval_strategy_in_force, training.best_metric) == (strategy, metric)


@pytest.mark.parametrize(
    ("sent", "named"),
    [
        ({"eval_strategy": "steps"}, "eval_steps should be a number of steps"),
        ({"eval_strategy": "epoch", **BY_STEPS}, 'eval_steps should be null beside eval_strategy "epoch"'),
        ({"eval_strategy": "no", **BY_STEPS}, 'eval_steps should be null beside eval_strategy "no"'),
        ({"load_best_model_at_end": True}, "load_best_model_at_end should be false without eval_steps"),
        ({"early_stopping_patience": 3}, "early_stopping_patience should be null without eval_steps"),
        ({"metric_for_best_model": "loss"}, "metric_for_best_model should be null without eval_steps"),
        ({"eval_delay": 3}, "eval_delay should be 0 without eval_steps"),
        ({**BY_STEPS, "early_stopping_patience": 3}, 'metric_for_best_model should be "eval_loss" beside early_stop'),
        ({**BY_STEPS, "early_stopping_threshold": 0.1}, "early_stopping_threshold should be 0 without"),
        ({**BY_STEPS, "greater_is_better": False}, "greater_is_better should be null without metric_for_best_model"),
        ({"save_strategy": "steps"}, "save_steps should be a number of steps"),
        ({"save_strategy": "epoch", "save_steps": 5}, 'save_steps should be null beside save_strategy "epoch"'),
        ({"save_strategy": "best"}, "save_strategy should be .* without metric_for_best_model"),
    ],
)
def test_arguments_of_evaluations_and_checkpoints_that_contradict_each_other_are_refused(
    sent: dict[str, Any], named: str
) -> None:
    with pytest.raises(ValidationError, match=named):
        a_spec(**EVALUATED, training=sent)


@pytest.mark.parametrize("strategy", ["no", "epoch", "best"])
def test_a_strategy_of_saving_replaces_the_default_of_save_steps(strategy: str) -> None:
    best = {**BY_STEPS, "metric_for_best_model": "eval_loss"}

    training = a_spec(**EVALUATED, training={"save_strategy": strategy, **best}).training

    assert training.save_steps is None
    assert JobSpec.model_validate(a_spec().model_dump()).training.save_steps == "auto"


@pytest.mark.parametrize(
    ("sent", "train_on", "is_taken"),
    [
        (True, "responses", True), (False, "all", True), (None, "last_response", True), (True, "all", False),
        (True, "last_response", False), (False, "responses", False), (False, "last_response", False),
    ],
)  # fmt: skip
def test_assistant_only_loss_says_the_same_as_train_on_or_is_refused(
    sent: bool | None, train_on: str, is_taken: bool
) -> None:
    groups = {"dataset": {"train_on": train_on}, "training": {"assistant_only_loss": sent}}

    if is_taken:
        a_spec(**groups)
        return
    with pytest.raises(ValidationError, match=r"assistant_only_loss should be null beside dataset\.train_on"):
        a_spec(**groups)


@pytest.mark.parametrize(
    ("lora", "named"),
    [
        ({"init_lora_weights": "loftq"}, "init_lora_weights should be true without loftq_config"),
        ({"init_lora_weights": "gaussian", "loftq_config": {}}, "loftq_config should be null"),
        ({"init_lora_weights": "orthogonal", "r": 7}, "r should be even"),
        ({"init_lora_weights": "orthogonal", "rank_pattern": {"q_proj": 3}}, "rank_pattern.q_proj should be even"),
    ],
)
def test_initial_weights_that_are_not_possible_are_refused(lora: dict[str, Any], named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        a_spec(model={"load_in_4bit": False}, lora=lora)


@pytest.mark.parametrize(("dtype", "precision"), [("float16", "bf16"), ("bfloat16", "fp16")])
def test_a_model_in_one_precision_is_not_trained_in_another(dtype: str, precision: str) -> None:
    with pytest.raises(ValidationError, match=f"training.{precision} should be left out beside model.dtype {dtype}"):
        a_spec(model={"dtype": dtype}, training={precision: True})


def test_a_choice_by_the_memory_decides_no_precision_yet() -> None:
    chosen = a_spec(model={"load_in": "auto"}).model

    assert (chosen.load_in_4bit, chosen.load_in_8bit, chosen.full_finetuning) == (False, False, False)
    assert JobPlan.model_validate(plan_of(a_spec(model={"load_in": "auto"})).model_dump()).model.load_in == "auto"


@pytest.mark.parametrize("other", ["load_in_4bit", "load_in_8bit", "full_finetuning"])
def test_a_choice_by_the_memory_excludes_a_precision(other: str) -> None:
    with pytest.raises(ValidationError, match=f'{other} should be left out beside load_in "auto"'):
        a_spec(model={"load_in": "auto", other: True})


def test_a_checkpoint_is_loaded_as_its_job_did() -> None:
    with pytest.raises(ValidationError, match=r"model\.load_in should be left out beside continue_from\.job"):
        a_spec(model={"load_in": "auto"}, continue_from={"job": "job-" + "a" * 24})


def test_initial_weights_that_need_16_bits_exclude_a_choice_by_the_memory() -> None:
    with pytest.raises(ValidationError, match=r"should be true beside model\.load_in"):
        a_spec(model={"load_in": "auto"}, lora={"init_lora_weights": "orthogonal"})


@pytest.mark.parametrize("other", ["load_in_8bit", "full_finetuning"])
def test_another_way_of_loading_replaces_the_default_of_four_bits(other: str) -> None:
    assert a_spec(model={other: True}).model.load_in_4bit is False


@pytest.mark.parametrize("source", [{}, {"file": "x", "hub": "a/b"}, "file", None, [], {"url": "http://x"}])
def test_a_source_is_exactly_one_of_file_hub_and_path(source: Any) -> None:
    with pytest.raises(ValidationError, match="source"):
        a_spec(dataset={"source": source})


@pytest.mark.parametrize(
    ("training", "named"),
    [
        ({"per_device_train_batch_size": 1, "gradient_accumulation_steps": 3}, "at most 3"),
        ({"neftune_noise_alpha": 5}, "null"),
    ],
)
def test_every_gpu_has_rows_whose_gradient_it_can_compute_alone(training: dict[str, Any], named: str) -> None:
    assert a_spec(resources={"gpus": 4}).resources.gpus == 4

    with pytest.raises(ValidationError, match=named):
        a_spec(resources={"gpus": 4}, training=training)


def test_the_json_schema_names_bounds_as_json_schema_does() -> None:
    schema = JobSpec.model_json_schema()

    steps = schema["$defs"]["SftArgs"]["properties"]["max_steps"]
    assert steps["anyOf"][0] == {"type": "integer", "minimum": 1, "maximum": 10_000_000}
    assert not re.search(r'"(ge|gt|le|lt)": \d', json.dumps(schema))


def test_a_field_more_or_less_makes_a_new_version_of_the_spec() -> None:
    """Where this fails, raise SPEC_VERSION, so that older workers leave such jobs alone, and then set the digest."""
    assert (SPEC_VERSION, sha256("\n".join(field_names(JobSpec)).encode()).hexdigest()[:16]) == (5, "3851b0dd3adb8ba5")


def field_names(kind: Any, path: str = "") -> list[str]:
    """All fields of a model and of those below it, as dotted paths."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        below = (field_names(field.annotation, f"{path}.{name}") for name, field in kind.model_fields.items())
        return sorted({path, *chain(*below)})
    inner = [name for argument in get_args(kind) for name in field_names(argument, path)]
    return sorted({path, *inner})
