"""The fields of a form, read from the JSON schema of the spec: names, descriptions, bounds, choices and defaults."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

from app.contracts.spec import JobSpec

Schema = Mapping[str, Any]
Kind = Literal["number", "text", "choice", "json"]
BOUNDS = {
    "minimum": "at least {:,}", "exclusiveMinimum": "more than {:,}", "maximum": "at most {:,}",
    "exclusiveMaximum": "less than {:,}",
}  # fmt: skip


@dataclass(frozen=True)
class SpecField:
    """One value of the spec. `path` is its place, such as `lora.r`; `default` and `choices` are JSON.

    `only` names the forms of the enclosing object that have this field; it is empty if all have it. Setting it excludes
    the fields of the other forms.
    """

    path: str
    kind: Kind
    description: str
    default: str | None
    choices: tuple[str, ...] = ()
    attributes: Mapping[str, str] = field(default_factory=dict)
    only: str = ""


@cache
def spec_fields() -> tuple[SpecField, ...]:
    """Return every value that a spec may have, in the order of the schema."""
    schema = JobSpec.model_json_schema()
    return tuple(_Reader(schema["$defs"]).fields(schema, "", {}, ""))


@cache
def group_descriptions() -> dict[str, str]:
    """Return what the schema says about each group of the spec."""
    schema = JobSpec.model_json_schema()
    reader = _Reader(schema["$defs"])
    forms = {name: reader.forms(group) for name, group in schema["properties"].items()}
    return {name: found[0].get("description", "") for name, found in forms.items() if "properties" in found[0]}


@dataclass(frozen=True)
class _Reader:
    definitions: Schema

    def forms(self, schema: Schema) -> list[Schema]:
        """Return the alternatives of a value, references resolved."""
        if "$ref" in schema:
            return self.forms(self.definitions[schema["$ref"].rpartition("/")[2]])
        inner = schema.get("anyOf") or schema.get("oneOf")
        return [form for one in inner for form in self.forms(one)] if inner else [schema]

    def fields(self, schema: Schema, path: str, default: Schema, only: str) -> Iterator[SpecField]:
        """Yield the fields of a value: itself, or those of the objects that it may be."""
        objects = [form for form in self.forms(schema) if "properties" in form]
        if not objects:
            yield self._field(schema, path, default, only)
            return
        within = schema.get("default") or {}
        for name in dict.fromkeys(name for form in objects for name in form["properties"]):
            having = [form for form in objects if name in form["properties"]]
            kinds = " ".join(form["title"] for form in having) if len(having) < len(objects) else ""
            found = [form["properties"][name] for form in having]
            merged = {**found[0], "anyOf": found} if any(one != found[0] for one in found) else found[0]
            chosen = {"default": within[name]} if name in within else merged
            yield from self.fields(merged, f"{path}.{name}".lstrip("."), chosen, kinds or only)

    def _field(self, schema: Schema, path: str, default: Schema, only: str) -> SpecField:
        forms = self.forms(schema)
        values = [form for form in forms if form.get("type") != "null"]
        choices = [json.dumps(choice) for form in values for choice in _choices(form)]
        if len(values) < len(forms) and default.get("default") is not None:
            choices.append("null")
        kind = _kind(values)
        return SpecField(
            path=path,
            kind=kind,
            description="; ".join(filter(None, (schema.get("description"), ", ".join(_bounds(values))))),
            default=json.dumps(default["default"]) if default.get("default") is not None else None,
            choices=tuple(choices) if kind == "choice" else (),
            attributes=_attributes(values[0]) if kind == "number" else {},
            only=only,
        )


def _kind(forms: list[Schema]) -> Kind:
    """Return how a value is typed. Lists, objects and values of several types are typed as JSON."""
    if all(_choices(form) for form in forms):
        return "choice"
    types = {form.get("type") for form in forms}
    if types <= {"integer", "number"}:
        return "number"
    return "text" if types == {"string"} else "json"


def _choices(form: Schema) -> list[Any]:
    """Return all values of a form that has only so many, or none."""
    if form.get("type") == "boolean":
        return [True, False]
    return list(form.get("enum", [form["const"]] if "const" in form else []))


def _bounds(forms: list[Schema]) -> Iterator[str]:
    for form in forms:
        yield from (text.format(_short(form[name])) for name, text in BOUNDS.items() if name in form)


def _short(bound: float) -> float:
    return int(bound) if float(bound).is_integer() else bound


def _attributes(form: Schema) -> dict[str, str]:
    """Return the bounds of a number as those of an HTML input, which knows no exclusive ones."""
    limits = {"min": form.get("minimum", form.get("exclusiveMinimum")), "max": form.get("maximum")}
    step = "1" if form["type"] == "integer" else "any"
    return {"step": step, **{name: str(_short(limit)) for name, limit in limits.items() if limit is not None}}
