"""What OpenAI's clients send and read. A field that is not here is refused by its name.

Accepted and of no effect, because nothing is lost by that: `user`, `metadata`, `safety_identifier`, `prompt_cache_key`,
`prompt_cache_retention`, `store: false`, `service_tier: auto` or `default`, `reasoning_effort` and `verbosity: medium`
(OpenAI's defaults), `modalities: ["text"]`, `strict`, `reasoning_content` of an earlier answer (what a model
thought is no part of the next prompt), and every field that is null.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import (
    Field,
    StrictBool,
    StringConstraints,
    ValidationError,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)

from app.contracts.answers import ResponseFormat, Tool
from app.contracts.base import Real, Whole, check_text
from app.contracts.chat import ChatForm, check_form
from app.contracts.generation import MAX_LOGPROBS, Bias, Sampling, Stop, TokenId, TopK
from app.generate.schemas import (
    MOST_ANSWERS,
    ChatTurn,
    OfNoEffect,
    ParallelToolCalls,
    PromptIds,
    ToolChoice,
    Tools,
    Wishes,
    check_echo,
    check_format,
    seeded,
)

# Where a chat names no limit: as many, or what still fits into the context.
CHAT_TOKENS = 1024
# OpenAI's own limit of a completion that names none.
COMPLETION_TOKENS = 16
SAMPLED = (
    *("min_tokens", "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty"),
    *("frequency_penalty", "logit_bias", "seed", "stop", "stop_token_ids", "ignore_eos", "use_cache"),
)
ModelId = Annotated[str, StringConstraints(min_length=1, max_length=200)]


class OpenAiTurn(ChatTurn):
    """A message; the fields that OpenAI's clients send back empty may be there, and `developer` is a system message."""

    @model_validator(mode="before")
    @classmethod
    def _as_ours(cls, turn: Any) -> Any:
        if not isinstance(turn, dict):
            return turn
        kept = {name: value for name, value in turn.items() if value not in (None, []) or name == "content"}
        if kept.get("role") == "assistant" and isinstance(kept.get("reasoning_content"), str):
            del kept["reasoning_content"]
        if kept.get("role") == "developer":
            kept["role"] = "system"
        if kept.get("tool_calls") and kept.get("content") is None:
            kept["content"] = ""
        return kept


class Asking(Wishes):
    """What chats and completions have in common: OpenAI's fields, and beside them those of `POST /generate`."""

    model: ModelId
    n: Whole = Field(1, ge=1, le=MOST_ANSWERS)
    temperature: Real = Field(1.0, ge=0.0, le=10.0)
    top_p: Real = Field(1.0, ge=0.0, le=1.0)
    presence_penalty: Real = Field(0.0, ge=-2.0, le=2.0)
    frequency_penalty: Real = Field(0.0, ge=-2.0, le=2.0)
    logit_bias: Annotated[dict[TokenId, Bias], Field(max_length=1024)] = {}
    seed: Whole | None = Field(None, ge=-(2**63), le=2**63 - 1)
    stop: Stop = ()
    max_tokens: Whole | None = Field(None, ge=1, le=131_072)
    top_k: TopK = Field(0, ge=0, le=1_000_000)
    min_p: Real = Field(0.0, ge=0.0, le=1.0)
    repetition_penalty: Real = Field(1.0, gt=0.0, le=10.0)
    min_tokens: Whole = Field(0, ge=0, le=131_072)
    stop_token_ids: Annotated[list[TokenId], Field(max_length=64)] = []
    ignore_eos: StrictBool = False
    use_cache: StrictBool = True

    @model_validator(mode="before")
    @classmethod
    def _null_is_nothing(cls, value: Any) -> Any:
        check_text(value)
        return {name: field for name, field in value.items() if field is not None} if isinstance(value, dict) else value

    def _sampling(self, max_new_tokens: int, logprobs: int | None) -> Sampling:
        """Raises ValidationError where the values do not fit together."""
        chosen = {name: getattr(self, name) for name in SAMPLED}
        if self.seed is not None:
            chosen["seed"] = self.seed % 2**63  # OpenAI's may be negative
        return seeded(Sampling(max_new_tokens=max_new_tokens, logprobs=logprobs, **chosen))


class ChatRequest(Asking, ChatForm):
    messages: Annotated[list[OpenAiTurn], Field(min_length=1)]
    max_completion_tokens: Whole | None = Field(None, ge=1, le=131_072)
    logprobs: StrictBool = False
    top_logprobs: Whole | None = Field(None, ge=0, le=MAX_LOGPROBS)
    response_format: ResponseFormat | None = None
    tools: Tools | None = None
    tool_choice: ToolChoice = "auto"
    parallel_tool_calls: ParallelToolCalls = True
    metadata: Annotated[dict[str, str], Field(max_length=16)] | None = None
    safety_identifier: OfNoEffect = None
    prompt_cache_key: OfNoEffect = None
    prompt_cache_retention: OfNoEffect = None
    reasoning_effort: Literal["medium"] = "medium"
    verbosity: Literal["medium"] = "medium"
    store: Literal[False] = False
    service_tier: Literal["auto", "default"] = "auto"
    modalities: list[Literal["text"]] | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.max_tokens is not None and self.max_completion_tokens is not None:
            raise ValueError("max_tokens should be left out beside max_completion_tokens")
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs should be left out where logprobs is not true")
        check_form(self, self.messages)
        check_least(self.min_tokens, self.limit, CHAT_TOKENS)
        check_format(self.sampling(), self.response_format, self.offered_tools())
        return self

    @property
    def limit(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens

    def offered_tools(self) -> list[Tool]:
        """The tools that the model is told of."""
        return [] if self.tool_choice == "none" else list(self.tools or ())

    def sampling(self) -> Sampling:
        return self._sampling(self.limit or CHAT_TOKENS, (self.top_logprobs or 0) if self.logprobs else None)


class CompletionRequest(Asking):
    prompt: (
        Annotated[str, StringConstraints(min_length=1)]
        | PromptIds
        | Annotated[list[Annotated[str, StringConstraints(min_length=1)]], Field(min_length=1, max_length=MOST_ANSWERS)]
        | Annotated[list[PromptIds], Field(min_length=1, max_length=MOST_ANSWERS)]
    )
    logprobs: Whole | None = Field(None, ge=0, le=MAX_LOGPROBS)
    echo: StrictBool = Field(False, description="the prompt stands before the answer")
    best_of: Whole | None = Field(None, ge=1, le=MOST_ANSWERS, description="as n: all answers are told")

    @field_validator("prompt", mode="wrap")
    @classmethod
    def _one_reason(cls, prompt: Any, read: ValidatorFunctionWrapHandler) -> Any:
        """In place of a reason for each form that it does not have."""
        try:
            return read(prompt)
        except ValidationError:
            forms = "a text, token ids from 0, or a list of one of them"
            raise ValueError(f"should be {forms} with at most {MOST_ANSWERS} entries, none of them empty") from None

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.best_of is not None and self.best_of != self.n:
            raise ValueError(f"best_of should be n ({self.n}): all answers are told")
        check_echo(self, self.logprobs)
        if len(self.prompts) * self.n > MOST_ANSWERS:
            raise ValueError(f"n should be at most {MOST_ANSWERS // len(self.prompts)} for {len(self.prompts)} prompts")
        check_least(self.min_tokens, self.max_tokens, COMPLETION_TOKENS)
        return self

    @property
    def prompts(self) -> list[str | list[int]]:
        """Each a text or token ids."""
        if isinstance(self.prompt, str) or isinstance(self.prompt[0], int):
            return [self.prompt]
        return list(self.prompt)

    def sampling(self) -> Sampling:
        return self._sampling(self.max_tokens or COMPLETION_TOKENS, self.logprobs)


def check_least(min_tokens: int, limit: int | None, default: int) -> None:
    """Raises ValueError for a least length that is more than the largest."""
    if min_tokens > (limit or default):
        raise ValueError(f"min_tokens should be at most the largest number of tokens ({limit or default})")
