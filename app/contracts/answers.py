"""The structured forms of an answer: JSON, JSON of a schema, or tool calls."""

import json
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, StringConstraints, field_validator

from app.contracts.base import Contract
from app.contracts.schemas import MAX_DEPTH, check_schema, depth

MAX_TOOLS = 128
FunctionName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]


def _bounded(value: dict[str, Any]) -> dict[str, Any]:
    if depth(value, MAX_DEPTH) > MAX_DEPTH:
        raise ValueError(f"should be nested at most {MAX_DEPTH} deep")
    return value


def _no_constant(name: str) -> None:
    raise ValueError(name)


Object = Annotated[dict[str, Any], AfterValidator(_bounded)]


class JsonSchema(Contract):
    """A JSON schema with a name, as OpenAI's clients send it. It is always enforced strictly."""

    model_config = ConfigDict(serialize_by_alias=True, validate_by_name=True)

    name: Annotated[str, StringConstraints(max_length=200)] = "answer"
    description: str | None = None
    definition: Annotated[dict[str, Any], AfterValidator(check_schema)] = Field(alias="schema")
    strict: bool | None = None


class PlainFormat(Contract):
    type: Literal["text", "json_object"]


class SchemaFormat(Contract):
    type: Literal["json_schema"]
    json_schema: JsonSchema


ResponseFormat = Annotated[PlainFormat | SchemaFormat, Field(discriminator="type")]


class Function(Contract):
    name: FunctionName
    description: str | None = None
    parameters: Object | None = None
    strict: bool | None = None


class Tool(Contract):
    """A function that the model may call, in the form that chat templates read."""

    type: Literal["function"] = "function"
    function: Function

    def for_template(self) -> dict[str, Any]:
        """Return the tool for a chat template, without `strict`, which templates do not know."""
        return self.model_dump(exclude_none=True, exclude={"function": {"strict"}})


class CalledFunction(Contract):
    """The name and arguments of a call. Arguments are an object, or its JSON text, as OpenAI's clients send it."""

    name: FunctionName
    arguments: Object = Field(default_factory=dict)

    @field_validator("arguments", mode="before")
    @classmethod
    def _read(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return json.loads(value or "{}", parse_constant=_no_constant)
        except (ValueError, RecursionError):
            raise ValueError("should be a JSON object") from None


class ToolCall(Contract):
    """A tool call in an earlier answer."""

    id: Annotated[str, StringConstraints(max_length=200)] | None = None
    type: Literal["function"] = "function"
    function: CalledFunction
