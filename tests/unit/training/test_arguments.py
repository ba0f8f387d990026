"""Every field of the spec that a library knows reaches the call it is named after."""

from pathlib import Path
from typing import Any

import pytest

from app.contracts.methods.sft import SftArgs
from app.contracts.order import BaseRef, TrainingOrder
from app.contracts.plan import plan_of
from app.contracts.spec import LoraSpec, ModelSpec
from tests.support.specs import a_spec
from worker.training.arguments import (
    OURS,
    Hardware,
    load_arguments,
    lora_arguments,
    precision,
    sft_arguments,
    trainer_arguments,
)

BF16, NO_BF16 = Hardware("gpu", supports_bf16=True), Hardware("gpu", supports_bf16=False)


def an_order(**groups: Any) -> TrainingOrder:
    names = ("train_rows", "tokenizer", "events", "work_dir", "adapter_dir", "checkpoints", "pulse")
    paths = {name: Path("/job") / name for name in names}
    base = BaseRef(source="org/model", is_local=False)
    return TrainingOrder(job_id="job-x", epoch=1, spec=plan_of(a_spec(**groups)), base=base, eval_rows=None, **paths)


# For each field a value that is not its default.
MODEL = {
    "max_seq_length": 4096,
    "dtype": "float16",
    "load_in_4bit": False,
    "load_in_8bit": True,
    "full_finetuning": True,
    "revision": "main",
}
LORA = {
    "r": 8,
    "target_modules": ["q_proj"],
    "lora_alpha": 32,
    "lora_dropout": 0.1,
    "bias": "all",
    "use_gradient_checkpointing": True,
    "random_state": 1,
    "use_rslora": True,
    "use_dora": True,
    "layers_to_transform": [0, 2],
    "rank_pattern": {"q_proj": 4},
    "alpha_pattern": {"q_proj": 8},
    "init_lora_weights": "gaussian",
    "loftq_config": {"loftq_bits": 8, "loftq_iter": 2},
    "modules_to_save": ["lm_head"],
}
TRAINING = {
    "per_device_train_batch_size": 8,
    "per_device_eval_batch_size": 4,
    "gradient_accumulation_steps": 2,
    "warmup_steps": 9,
    "max_steps": 77,
    "num_train_epochs": 2.5,
    "learning_rate": 1e-3,
    "embedding_learning_rate": 1e-5,
    "fp16": True,
    "bf16": True,
    "logging_steps": 3,
    "optim": "adamw_torch",
    "adam_beta1": 0.8,
    "adam_beta2": 0.95,
    "adam_epsilon": 1e-6,
    "label_smoothing_factor": 0.1,
    "neftune_noise_alpha": 5.0,
    "weight_decay": 0.5,
    "max_grad_norm": 0.3,
    "lr_scheduler_type": "cosine",
    "seed": 5,
    "packing": True,
    "train_sampling_strategy": "sequential",
    "logging_strategy": "epoch",
    "logging_first_step": True,
    "torch_empty_cache_steps": 10,
    "eval_accumulation_steps": 3,
}


VALUES: dict[str, dict[str, Any]] = {"model": MODEL, "lora": LORA, "training": TRAINING}


@pytest.mark.parametrize(("group", "name"), [(group, name) for group in VALUES for name in VALUES[group]])
def test_a_field_reaches_the_call_that_it_is_named_after(group: str, name: str) -> None:
    value = VALUES[group][name]
    order = an_order(**{"model": {"load_in_4bit": False}, group: {name: value}})

    arguments = {
        "model": load_arguments(order, order.spec.lora.use_gradient_checkpointing),
        "lora": lora_arguments(order.spec, order.spec.lora.use_gradient_checkpointing),
        "training": trainer_arguments(order, BF16, True, evaluates=False) | sft_arguments(order.spec),
    }
    assert arguments[group][name] == value


def test_the_very_repository_is_loaded_that_was_checked_and_fetched() -> None:
    assert load_arguments(an_order(), False)["use_exact_model_name"] is True


def test_no_field_of_the_spec_is_left_out_of_these_tests() -> None:
    elsewhere = {"model_name", "chat_template", "method", "output_dir", "layout", *OURS}
    elsewhere |= {"eval_steps", "eval_strategy", "eval_on_start", "eval_delay"}
    elsewhere |= {"token"}  # tests/integration/supervising/test_job_secrets.py
    elsewhere |= {"layout", "load_in"}  # tests/unit/contracts/test_layout_choice.py
    elsewhere |= {"report_to", "run_name", "tracker_urls"}  # tests/integration/training/test_trackers.py
    elsewhere |= {"warmup_ratio", "lr_scheduler_kwargs"}  # tests/integration/training/test_schedules.py
    fields = {*ModelSpec.model_fields, *LoraSpec.model_fields, *SftArgs.model_fields}

    assert fields - elsewhere == {*MODEL, *LORA, *TRAINING}


@pytest.mark.parametrize("save_steps", [11, "auto", None])
def test_transformers_neither_saves_nor_rotates_by_itself(save_steps: int | str | None) -> None:
    order = an_order(training={"save_steps": save_steps, "save_total_limit": 3})

    arguments = trainer_arguments(order, BF16, True, evaluates=False)

    assert arguments["save_strategy"] == "no"
    assert set(OURS).isdisjoint(set(arguments) - {"save_strategy"})


def test_what_unsloth_has_a_default_for_is_passed_on_only_if_it_was_sent() -> None:
    arguments = trainer_arguments(an_order(), BF16, True, evaluates=False)

    assert {"torch_empty_cache_steps", "eval_accumulation_steps"}.isdisjoint(arguments)


def test_what_the_trainer_calls_otherwise_reaches_its_config() -> None:
    order = an_order(
        model={"max_seq_length": 4096},
        dataset={"eval_fraction": 0.1, "dataset_num_proc": 2},
        training={"eval_steps": 4, "output_dir": "mine", "eval_on_start": True, "eval_delay": 8},
    )

    arguments = trainer_arguments(order, BF16, True, evaluates=True) | sft_arguments(order.spec)

    assert arguments["output_dir"] == "/job/work_dir/mine"
    assert (arguments["max_length"], arguments["dataset_num_proc"]) == (4096, 2)
    assert (arguments["eval_strategy"], arguments["eval_steps"]) == ("steps", 4)
    assert (arguments["eval_on_start"], arguments["eval_delay"]) == (True, 8)
    without = trainer_arguments(order, BF16, True, evaluates=False)
    assert (without["eval_strategy"], without["eval_on_start"]) == ("no", False)


@pytest.mark.parametrize(
    ("asked", "hardware", "expected"),
    [
        ({}, BF16, (False, True)),
        ({}, NO_BF16, (True, False)),
        ({"fp16": True}, BF16, (True, False)),
        ({"bf16": True}, NO_BF16, (False, True)),
        ({"fp16": False, "bf16": False}, BF16, (False, False)),
    ],
)
def test_precision_is_as_asked_or_as_the_hardware_allows(
    asked: dict[str, bool], hardware: Hardware, expected: tuple[bool, bool]
) -> None:
    assert precision(a_spec(training=asked), hardware) == expected


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [("float32", (False, False)), ("float16", (True, False)), ("bfloat16", (False, True)), (None, (False, True))],
)
def test_precision_that_is_not_asked_for_is_the_models(dtype: str | None, expected: tuple[bool, bool]) -> None:
    assert precision(a_spec(model={"dtype": dtype}), BF16) == expected
