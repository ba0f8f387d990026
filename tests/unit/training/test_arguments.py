"""Every field of the spec that a library knows reaches the call it is named after."""

from pathlib import Path
from typing import Any

import pytest

from app.contracts.order import BaseRef, TrainingOrder
from app.contracts.spec import LoraSpec, ModelSpec, TrainingArgs
from tests.support.specs import a_spec
from worker.training.arguments import Hardware, load_arguments, lora_arguments, precision, trainer_arguments

BF16, NO_BF16 = Hardware("gpu", supports_bf16=True), Hardware("gpu", supports_bf16=False)


def an_order(**groups: Any) -> TrainingOrder:
    names = ("train_rows", "tokenizer", "events", "work_dir", "adapter_dir", "checkpoints", "pulse")
    paths = {name: Path("/job") / name for name in names}
    base = BaseRef(source="org/model", is_local=False)
    return TrainingOrder(job_id="job-x", epoch=1, spec=a_spec(**groups), base=base, eval_rows=None, **paths)


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
    "weight_decay": 0.5,
    "max_grad_norm": 0.3,
    "lr_scheduler_type": "cosine",
    "seed": 5,
    "packing": True,
}


@pytest.mark.parametrize("name", MODEL)
def test_a_model_field_reaches_from_pretrained(name: str) -> None:
    order = an_order(model={name: MODEL[name]})

    assert load_arguments(order)[name] == MODEL[name]


def test_the_very_repository_is_loaded_that_was_checked_and_fetched() -> None:
    assert load_arguments(an_order())["use_exact_model_name"] is True


@pytest.mark.parametrize("name", LORA)
def test_a_lora_field_reaches_get_peft_model(name: str) -> None:
    spec = a_spec(model={"load_in_4bit": False}, lora={name: LORA[name]})

    assert lora_arguments(spec)[name] == LORA[name]


@pytest.mark.parametrize("name", TRAINING)
def test_a_training_field_reaches_the_trainers_config(name: str) -> None:
    order = an_order(training={name: TRAINING[name]})

    assert trainer_arguments(order, BF16, evaluates=False)[name] == TRAINING[name]


def test_no_field_of_the_spec_is_left_out_of_these_tests() -> None:
    elsewhere = {"model_name", "chat_template", "method", "eval_steps", "output_dir", "save_steps", "save_total_limit"}
    fields = {*ModelSpec.model_fields, *LoraSpec.model_fields, *TrainingArgs.model_fields}

    assert fields - elsewhere == {*MODEL, *LORA, *TRAINING}


@pytest.mark.parametrize("save_steps", [11, "auto", None])
def test_transformers_neither_saves_nor_rotates_by_itself(save_steps: int | str | None) -> None:
    order = an_order(training={"save_steps": save_steps, "save_total_limit": 3})

    arguments = trainer_arguments(order, BF16, evaluates=False)

    assert arguments["save_strategy"] == "no"
    assert {"save_steps", "save_total_limit"}.isdisjoint(arguments)


def test_the_output_dir_is_a_folder_of_the_attempt() -> None:
    order = an_order(training={"output_dir": "mine"})

    assert trainer_arguments(order, BF16, evaluates=False)["output_dir"] == "/job/work_dir/mine"


def test_evaluation_steps_reach_the_config_where_there_are_rows_to_evaluate() -> None:
    order = an_order(dataset={"eval_fraction": 0.1}, training={"eval_steps": 4})

    arguments = trainer_arguments(order, BF16, evaluates=True)

    assert (arguments["eval_strategy"], arguments["eval_steps"]) == ("steps", 4)


def test_the_models_length_and_not_trls_default_is_the_trainers_limit() -> None:
    assert trainer_arguments(an_order(model={"max_seq_length": 4096}), BF16, evaluates=False)["max_length"] == 4096


def test_dataset_processes_reach_the_config() -> None:
    assert trainer_arguments(an_order(dataset={"dataset_num_proc": 2}), BF16, evaluates=False)["dataset_num_proc"] == 2


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
