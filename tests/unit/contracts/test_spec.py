"""The spec takes what Unsloth's page shows and refuses what cannot work."""

import json
import re
from hashlib import sha256
from itertools import chain
from typing import Any, get_args

import pytest
from pydantic import BaseModel, ValidationError

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
    "lora.target_modules": [[]],
    "lora.bias": ["some"],
    "lora.layers_to_transform": [[], [-1], "last"],
    "lora.rank_pattern": [{"q_proj": 0}, ["q_proj"]],
    "lora.alpha_pattern": [{"q_proj": "x"}],
    "training.learning_rate": ["fast", -1, 0, float("nan"), 1e9],
    "training.warmup_ratio": [1, -0.1],
    "training.adam_beta1": [1],
    "training.adam_epsilon": [0],
    "training.neftune_noise_alpha": [0],
    "training.lr_scheduler_kwargs": [{"cycles": 2}],
    "training.max_steps": [0, 10**30],
    "training.optim": ["adamw_9bit"],
    "training.save_steps": [0],
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

    assert refusal.value.errors()[0]["loc"][:2] == (group, field)


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


@pytest.mark.parametrize(("dtype", "precision"), [("float16", "bf16"), ("bfloat16", "fp16")])
def test_a_model_in_one_precision_is_not_trained_in_another(dtype: str, precision: str) -> None:
    with pytest.raises(ValidationError, match=f"training.{precision} should be left out beside model.dtype {dtype}"):
        a_spec(model={"dtype": dtype}, training={precision: True})


@pytest.mark.parametrize("other", ["load_in_8bit", "full_finetuning"])
def test_another_way_of_loading_replaces_the_default_of_four_bits(other: str) -> None:
    assert a_spec(model={other: True}).model.load_in_4bit is False


@pytest.mark.parametrize("source", [{}, {"file": "x", "hub": "a/b"}, "file", None, [], {"url": "http://x"}])
def test_a_source_is_exactly_one_of_file_hub_and_path(source: Any) -> None:
    with pytest.raises(ValidationError, match="source"):
        a_spec(dataset={"source": source})


def test_the_json_schema_names_bounds_as_json_schema_does() -> None:
    schema = JobSpec.model_json_schema()

    steps = schema["$defs"]["SftArgs"]["properties"]["max_steps"]
    assert steps["anyOf"][0] == {"type": "integer", "minimum": 1, "maximum": 10_000_000}
    assert not re.search(r'"(ge|gt|le|lt)": \d', json.dumps(schema))


def test_a_field_more_or_less_makes_a_new_version_of_the_spec() -> None:
    """Where this fails, raise SPEC_VERSION, so that older workers leave such jobs alone, and then set the digest."""
    assert (SPEC_VERSION, sha256("\n".join(field_names(JobSpec)).encode()).hexdigest()[:16]) == (3, "fd95a6c10663cc34")


def field_names(kind: Any, path: str = "") -> list[str]:
    """All fields of a model and of those below it, as dotted paths."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        below = (field_names(field.annotation, f"{path}.{name}") for name, field in kind.model_fields.items())
        return sorted({path, *chain(*below)})
    inner = [name for argument in get_args(kind) for name in field_names(argument, path)]
    return sorted({path, *inner})
