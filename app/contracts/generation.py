"""What the API asks of the engine and what the engine answers: one order in, a stream of events out.

Every stream ends in exactly one `finish` or `error`.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, TypeAdapter, model_validator

from app.contracts.base import Contract, Real, Whole
from app.contracts.order import BaseRef
from app.contracts.records import Message

MAX_STOPS = 16


class Sampling(Contract):
    """How the next token is chosen. Order: repetition penalty, temperature, top_k, top_p, min_p."""

    max_new_tokens: Whole = Field(256, ge=1, le=131_072)
    temperature: Real = Field(1.0, ge=0.0, le=10.0, description="0: greedy")
    top_p: Real = Field(1.0, gt=0.0, le=1.0)
    top_k: Whole = Field(0, ge=0, le=1_000_000, description="0: off")
    min_p: Real = Field(0.0, ge=0.0, le=1.0)
    repetition_penalty: Real = Field(1.0, gt=0.0, le=10.0)
    seed: Whole | None = Field(None, ge=0, le=2**63 - 1)
    stop: Annotated[
        tuple[Annotated[str, StringConstraints(min_length=1, max_length=256)], ...], Field(max_length=MAX_STOPS)
    ] = ()
    use_cache: bool = Field(True, description="keep keys and values of the tokens already read")


class AdapterRef(Contract):
    """One immutable trained adapter. `kind` full: all weights were trained and `path` holds a whole model."""

    adapter_id: str
    version: str
    path: str
    kind: Literal["lora", "full"]

    @property
    def name(self) -> str:
        return f"{self.adapter_id}@{self.version}"


class GenerateOrder(Contract):
    """One generation. Exactly one of `messages` and `prompt`; without an adapter the base model answers."""

    request_id: str
    base: BaseRef
    adapter: AdapterRef | None = None
    messages: list[Message] | None = None
    prompt: str | None = None
    sampling: Sampling = Sampling()

    @model_validator(mode="after")
    def _one_input(self) -> Self:
        if (self.messages is None) == (self.prompt is None):
            raise ValueError("exactly one of messages and prompt is needed")
        return self


class Usage(Contract):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class TextDelta(Contract):
    """A piece of the answer: whole characters only, special tokens and stop strings left out."""

    kind: Literal["delta"] = "delta"
    text: str


class Finish(Contract):
    """The answer ended: at an end-of-sequence token or a stop string (`stop`), or at `max_new_tokens` (`length`)."""

    kind: Literal["finish"] = "finish"
    reason: Literal["stop", "length"]
    usage: Usage


class EngineError(Contract):
    """The answer could not be given, or not to its end. `status` is the HTTP status that fits."""

    kind: Literal["error"] = "error"
    status: int
    code: str
    message: str
    param: str | None = None


EngineEvent = Annotated[TextDelta | Finish | EngineError, Field(discriminator="kind")]
ENGINE_EVENT: TypeAdapter[EngineEvent] = TypeAdapter(EngineEvent)


class EngineHealth(Contract):
    """What `GET /health` of the engine answers."""

    device: str
    loaded_base: str | None
    loaded_adapters: list[str]
    waiting: int = Field(description="requests in the queue, the running one left out")
    is_busy: bool
