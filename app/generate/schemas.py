"""What `POST /generate` takes and answers, and what every request for answers has in common."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, Field, StrictBool, StringConstraints, TypeAdapter, field_validator, model_validator
from pydantic_core import PydanticCustomError

from app.contracts.answers import MAX_TOOLS, ResponseFormat, Tool, ToolCall
from app.contracts.base import Contract, Real, Whole, check_text, extract
from app.contracts.chat import ChatForm, check_form
from app.contracts.generation import (
    LONGEST_TIMEOUT_SECONDS,
    PromptInput,
    Sampling,
    SamplingOptions,
    ScoredToken,
    TextOptions,
    TokenId,
    Usage,
    Wording,
)
from app.contracts.records import Message
from app.generate.tools import ends_of_calls

MOST_ANSWERS = 16
LONGEST_PROMPT_TOKENS = 1_048_576
AdapterName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._@-]+$", max_length=120)]
# A hub id or a folder below the models folder, as `app.contracts.spec.ModelName`; an adapter or a job with a version
# or a step.
MODEL_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*){0,3}(@[a-z0-9-]+)?$"
AnyName = Annotated[str, StringConstraints(pattern=MODEL_NAME, max_length=200)]
FinishReason = Literal["stop", "length", "tool_calls"]
PromptIds = Annotated[list[TokenId], Field(min_length=1, max_length=LONGEST_PROMPT_TOKENS)]


class TextPart(Contract):
    type: Literal["text"]
    text: str

    @model_validator(mode="before")
    @classmethod
    def _is_text(cls, part: Any) -> Any:
        """Report one error for a part of another type, instead of one for each of its fields."""
        if isinstance(part, dict) and part.get("type", "text") != "text":
            raise PydanticCustomError("not_text", "'text': no other parts are read here", {"path": "type"})
        return part


TEXT_PARTS = TypeAdapter(list[TextPart])


class ChatTurn(Message):
    """A message whose content may also come as a list of text parts; they are joined as they are."""

    tool_calls: list[dict[str, Any]] | None = None

    @model_validator(mode="before")
    @classmethod
    def _calls_may_stand_alone(cls, turn: Any) -> Any:
        """A message that only calls tools may have no content."""
        if isinstance(turn, dict) and turn.get("tool_calls") and turn.get("content") is None:
            return {**turn, "content": ""}
        return turn

    @field_validator("content", mode="before", json_schema_input_type=str | list[TextPart] | None)
    @classmethod
    def _joined(cls, content: Any) -> Any:
        if not isinstance(content, list):
            return content
        return "".join(part.text for part in TEXT_PARTS.validate_python(content))

    @field_validator("tool_calls", mode="before")
    @classmethod
    def _read_calls(cls, calls: Any) -> Any:
        """In the form that chat templates take: arguments as objects."""
        if not isinstance(calls, list):
            return calls
        return [ToolCall.model_validate(call).model_dump(exclude_none=True) for call in calls] or None

    @model_validator(mode="after")
    def _no_weight(self) -> Self:
        if self.weight is not None:
            raise ValueError("weight should be left out: it is for training only")
        if self.tool_calls and self.role != "assistant":
            raise ValueError(f"tool_calls should be left out where the role is {self.role}")
        return self


OfNoEffect = Annotated[str, StringConstraints(max_length=1000)] | None


class StreamOptions(Contract):
    include_usage: StrictBool = False
    include_obfuscation: Literal[False] = False


class AnswerRequest(SamplingOptions, TextOptions):
    """What every request for answers takes, and what `prepare` needs to know of it."""

    id_prefix: ClassVar[str]

    n: Whole = Field(1, ge=1, le=MOST_ANSWERS, description="how many answers, each with a seed of its own")
    stream: StrictBool = False
    stream_options: StreamOptions | None = None
    timeout: Real | None = Field(None, gt=0, le=LONGEST_TIMEOUT_SECONDS, description="seconds to the end of the answer")
    user: OfNoEffect = None

    @model_validator(mode="after")
    def _options_of_a_stream(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options should be left out where stream is false")
        return self

    @property
    def shrinks_to_fit(self) -> bool:
        """Whether the limit of tokens is only a default, which may be less where the context ends before."""
        return False

    @abstractmethod
    def inputs(self) -> list[PromptInput]:
        """What is to be answered, `n` times each."""

    @abstractmethod
    def sampling(self) -> Sampling: ...


class MessagesRequest(AnswerRequest, ChatForm):
    """A request whose input may be messages, with what may come beside them."""

    tools: Annotated[list[Tool], Field(max_length=MAX_TOOLS)] | None = Field(
        None, description="functions that the model may ask for; with messages"
    )
    tool_choice: Literal["auto", "none"] = Field("auto", description="none: the prompt does not describe the tools")
    parallel_tool_calls: StrictBool = Field(True, description="false: the answer ends after its first tool call")
    response_format: ResponseFormat | None = Field(None, description="text, json_object, or json_schema with a schema")

    def offered_tools(self) -> list[Tool]:
        """The tools that the prompt describes."""
        return [] if self.tool_choice == "none" else list(self.tools or ())

    def check_format(self) -> None:
        """Raises ValueError for what cannot be had together with a format."""
        if self.response_format is None or self.response_format.type == "text":
            return
        if self.offered_tools():
            raise ValueError("response_format should be left out where tools may be called; or set tool_choice to none")
        if self.ignore_eos or self.min_tokens:
            name = "ignore_eos" if self.ignore_eos else "min_tokens"
            raise ValueError(f"{name} should be left out with a response_format, which says where the answer ends")

    def input_of(
        self, messages: Sequence[Message] | None, prompt: str | None = None, prompt_token_ids: list[int] | None = None
    ) -> PromptInput:
        tools = self.offered_tools()
        return PromptInput(
            messages=None if messages is None else list(messages),
            prompt=prompt,
            prompt_token_ids=prompt_token_ids,
            tools=[tool.for_template() for tool in tools] or None,
            form=extract(self, ChatForm),
            response_format=self.response_format,
            stop_after=ends_of_calls(tools, is_parallel=self.parallel_tool_calls),
        )


class GenerateRequest(MessagesRequest, Sampling, Wording):
    """The body of `POST /generate`: exactly one of `adapter` and `model`, exactly one of `messages`, `prompt` and
    `prompt_token_ids`.

    `max_tokens` and `max_completion_tokens` are accepted for `max_new_tokens`, and `logprobs: true` with
    `top_logprobs`. Every answer and every finished stream has the usage.
    """

    id_prefix = "gen"

    adapter: AdapterName | None = Field(None, description="adapter-…, adapter-…@version, a job, or job-…@step-40")
    model: AnyName | None = Field(None, description="a base model, by the name that a job uses; or an adapter")
    messages: Annotated[list[ChatTurn], Field(min_length=1)] | None = None
    prompt: Annotated[str, StringConstraints(min_length=1)] | None = Field(None, description="raw text to continue")
    prompt_token_ids: PromptIds | None = Field(None, description="the prompt as token ids, to which none are added")
    compare: StrictBool = Field(False, description="let the adapter's base answer the same with the same seed")

    @model_validator(mode="before")
    @classmethod
    def _text_can_be_kept(cls, value: Any) -> Any:
        check_text(value)
        return _with_our_names(value) if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _one_of_each(self) -> Self:
        for names in (("adapter", "model"), ("messages", "prompt", "prompt_token_ids")):
            if sum(getattr(self, name) is not None for name in names) != 1:
                raise ValueError(f"should have exactly one of {', '.join(names[:-1])} and {names[-1]}")
        return self

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.tools and self.messages is None:
            raise ValueError("tools should be left out where there are no messages")
        check_form(self, self.messages)
        if self.stream and self.n > 1:
            raise ValueError("n should be 1 where stream is true; /v1/chat/completions streams several answers")
        if self.stream and self.compare:
            raise ValueError("compare should be false where stream is true")
        check_echo(self.echo, self.logprobs)
        if self.echo and self.messages is not None:
            raise ValueError("echo should be false beside messages")
        self.check_format()
        return self

    def inputs(self) -> list[PromptInput]:
        return [self.input_of(self.messages, self.prompt, self.prompt_token_ids)]

    def sampling(self) -> Sampling:
        return extract(self, Sampling)


def _with_our_names(sent: dict[str, Any]) -> dict[str, Any]:
    """Rename OpenAI's fields to those of this route.

    Raises PydanticCustomError if a limit is given under two names, or top_logprobs without `logprobs: true`.
    """
    limits = [name for name in ("max_completion_tokens", "max_tokens", "max_new_tokens") if sent.get(name) is not None]
    if len(limits) > 1:
        raise PydanticCustomError("named_twice", "nothing beside {other}", {"path": limits[1], "other": limits[0]})
    if sent.get("top_logprobs") is not None and sent.get("logprobs") is not True:
        raise PydanticCustomError("goes_with", "logprobs: true beside it", {"path": "top_logprobs"})
    others = ("max_completion_tokens", "max_tokens", "top_logprobs")
    renamed = {name: value for name, value in sent.items() if name not in others}
    if limits:
        renamed["max_new_tokens"] = sent[limits[0]]
    if isinstance(sent.get("logprobs"), bool):
        renamed["logprobs"] = (sent.get("top_logprobs") or 0) if sent["logprobs"] else None
    return renamed


def check_echo(echo: bool, logprobs: int | None) -> None:
    """Raises ValueError if both are requested."""
    if echo and logprobs is not None:
        raise ValueError("echo should be false beside logprobs: log-probabilities of prompt tokens are not available")


class CalledTool(BaseModel):
    """A function with its arguments as JSON text, as OpenAI's clients take it."""

    name: str
    arguments: str


class Called(BaseModel):
    id: str
    type: Literal["function"] = "function"
    function: CalledTool


class Answer(BaseModel):
    """One answer. `logprobs` and `tool_calls` are there where they were asked for."""

    text: str
    finish_reason: FinishReason
    usage: Usage
    seed: int | None
    tool_calls: list[Called] | None = None
    logprobs: list[ScoredToken] | None = None
    token_ids: list[int] | None = None
    prompt_token_ids: list[int] | None = None


class CheckpointName(BaseModel):
    """A checkpoint of a job. The engine has not compared it with what its trainer computed, as it has every adapter.

    `version` distinguishes it from the same step of another attempt.
    """

    job: str
    step: int
    attempt: int
    version: str
    proved: Literal[False] = False


class Generation(BaseModel):
    """A whole answer. `model` names the adapter with its version, the checkpoint, or the base. `sampling` has the
    options that were used, defaults included.

    With `n` above 1, `choices` has all answers; `text` and scores here are those of the first, and `usage` counts all.
    With `compare`, `base` has the answer of the adapter's base.
    """

    id: str
    object: Literal["generation"] = "generation"
    model: str
    adapter: str | None
    checkpoint: CheckpointName | None = None
    text: str
    finish_reason: FinishReason
    usage: Usage
    tool_calls: list[Called] | None = None
    logprobs: list[ScoredToken] | None = None
    token_ids: list[int] | None = None
    prompt_token_ids: list[int] | None = None
    choices: list[Answer] | None = None
    base: list[Answer] | None = None
    sampling: Sampling


class Ending(BaseModel):
    """The last message of a streamed answer."""

    id: str
    model: str
    adapter: str | None
    checkpoint: CheckpointName | None = None
    finish_reason: FinishReason
    usage: Usage
    prompt_token_ids: list[int] | None = None
    sampling: Sampling
