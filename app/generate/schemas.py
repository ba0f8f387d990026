"""What `POST /generate` takes and answers."""

import secrets
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field, StringConstraints, field_validator, model_validator

from app.contracts.base import Contract, check_text
from app.contracts.generation import Sampling, Usage
from app.contracts.records import Message

AdapterName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._@-]+$", max_length=120)]
# A hub id or a folder below the models folder, as `app.contracts.spec.ModelName`; with a version, an adapter.
AnyName = Annotated[
    str,
    StringConstraints(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*){0,3}(@[a-z0-9]+)?$", max_length=200
    ),
]


class TextPart(Contract):
    type: Literal["text"]
    text: str


class ChatTurn(Message):
    """A message whose content may also come as a list of text parts; they are joined as they are."""

    @field_validator("content", mode="before")
    @classmethod
    def _joined(cls, content: Any) -> Any:
        if not isinstance(content, list):
            return content
        return "".join(TextPart.model_validate(part).text for part in content)

    @model_validator(mode="after")
    def _no_weight(self) -> Self:
        if self.weight is not None:
            raise ValueError("weight is for training only: leave it out")
        return self


class GenerateRequest(Sampling):
    """Who is to answer, what, and how. Exactly one of `adapter` and `model`, exactly one of `messages` and `prompt`."""

    adapter: AdapterName | None = Field(None, description="adapter-…, adapter-…@version, or the job that trained it")
    model: AnyName | None = Field(None, description="a base model as a job names it; any name of an adapter, too")
    messages: Annotated[list[ChatTurn], Field(min_length=1)] | None = None
    prompt: Annotated[str, StringConstraints(min_length=1)] | None = Field(None, description="raw text to continue")
    stream: bool = False

    @model_validator(mode="before")
    @classmethod
    def _text_can_be_kept(cls, value: Any) -> Any:
        check_text(value)
        return value

    @field_validator("stop", mode="before")
    @classmethod
    def _one_stop_is_a_list(cls, stop: Any) -> Any:
        return [stop] if isinstance(stop, str) else () if stop is None else stop

    @model_validator(mode="after")
    def _one_of_each(self) -> Self:
        for one, other in (("adapter", "model"), ("messages", "prompt")):
            if (getattr(self, one) is None) == (getattr(self, other) is None):
                raise ValueError(f"should have exactly one of {one} and {other}")
        return self

    def sampling(self) -> Sampling:
        """How to sample. A seed is drawn where one matters and none was given: every answer can be repeated."""
        chosen = {name: getattr(self, name) for name in Sampling.model_fields}
        if self.seed is None and self.temperature > 0:
            chosen["seed"] = secrets.randbits(32)
        return Sampling(**chosen)


class Generation(BaseModel):
    """A whole answer. `model` is the adapter with its version, or the base; `sampling` is what was in force."""

    id: str
    object: Literal["generation"] = "generation"
    model: str
    adapter: str | None
    text: str
    finish_reason: Literal["stop", "length"]
    usage: Usage
    sampling: Sampling


class Ending(BaseModel):
    """The last message of a streamed answer."""

    id: str
    model: str
    adapter: str | None
    finish_reason: Literal["stop", "length"]
    usage: Usage
    sampling: Sampling
