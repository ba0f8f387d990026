"""The form of a job has every field of the spec, as its schema describes it."""

from collections.abc import Iterator
from typing import Any

import pytest

from app.contracts.spec import JobSpec
from app.pages.spec_form import spec_fields
from app.pages.submit import first_fields, other_fields
from tests.support.specs import PAGE, a_spec

FIELDS = {field.path: field for field in spec_fields()}


def leaves(value: Any, path: str = "") -> Iterator[str]:
    """The paths of what stands in a spec; an empty object or null is one value."""
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from leaves(inner, f"{path}.{name}".lstrip("."))
    else:
        yield path


@pytest.mark.parametrize("spec", [a_spec(), JobSpec.model_validate(PAGE)], ids=["smallest", "page"])
def test_every_value_of_a_spec_has_a_field(spec: JobSpec) -> None:
    groups = {path.rpartition(".")[0] for path in FIELDS}

    assert [path for path in leaves(spec.model_dump(mode="json")) if path not in FIELDS and path not in groups] == []


def test_every_field_is_shown_once() -> None:
    shown = [*first_fields(), *(field for _, fields in other_fields() for field in fields)]

    assert sorted(field.path for field in shown) == sorted(FIELDS)
    assert [group for group, _ in other_fields()] == [
        "job", "model", "lora", "dataset", "continue_from", "training", "resources",
    ]  # fmt: skip


def test_bounds_and_defaults_are_those_of_the_schema() -> None:
    rank, rate = FIELDS["lora.r"], FIELDS["training.learning_rate"]

    assert (rank.kind, rank.default, rank.attributes) == ("number", "16", {"min": "1", "max": "512", "step": "1"})
    assert "at least 1, at most 512" in rank.description
    assert (rate.default, rate.attributes) == ("0.0002", {"min": "0", "max": "1", "step": "any"})
    assert "more than 0" in rate.description


@pytest.mark.parametrize(
    ("path", "choices"),
    [
        ("training.method", ('"sft"', '"cpt"')),
        ("lora.use_gradient_checkpointing", ('"unsloth"', "true", "false")),
        ("model.load_in_4bit", ("true", "false")),
        ("lora.loftq_config.loftq_bits", ("2", "4", "8")),
    ],
)
def test_a_value_of_few_is_chosen(path: str, choices: tuple[str, ...]) -> None:
    assert (FIELDS[path].kind, FIELDS[path].choices) == ("choice", choices)


def test_lists_and_values_of_several_types_are_written_as_json() -> None:
    for path in ("lora.target_modules", "training.save_steps", "labels"):
        assert FIELDS[path].kind == "json"


def test_a_field_knows_the_form_of_a_source_that_has_it() -> None:
    assert (FIELDS["dataset.source.file"].only, FIELDS["dataset.source.split"].only) == ("FileSource", "HubSource")
    assert FIELDS["training.max_steps"].only == ""
