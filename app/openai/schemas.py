"""What OpenAI's clients send and read. A field that is not here is refused by its name.

Accepted and of no effect, because nothing is lost by that: `user`, `metadata`, `safety_identifier`, `prompt_cache_key`,
`prompt_cache_retention`, `store: false`, `service_tier: auto` or `default`, `reasoning_effort` and `verbosity: medium`
(OpenAI's defaults), `modalities: ["text"]`, `strict`, `reasoning_content` of an earlier answer (what a model
thought is no part of the next prompt), and every field that is null.
"""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    Field,
    StrictBool,
    StringConstraints,
    ValidationError,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)

from app.contracts.base import Whole, check_text, extract
from app.contracts.chat import check_form
from app.contracts.generation import PromptInput, Sampling, ScoreCount, TokenLimit, Wording
from app.generate.schemas import (
    MOST_ANSWERS,
    AnswerRequest,
    ChatTurn,
    MessagesRequest,
    OfNoEffect,
    PromptIds,
    check_echo,
)

# The limit of a chat that sets none. It is lowered to what fits into the context.
CHAT_TOKENS = 1024
# OpenAI's own limit of a completion that names none.
COMPLETION_TOKENS = 16
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


class OpenAiRequest(AnswerRequest):
    """What chats and completions have in common: OpenAI's fields, and beside them those of `POST /generate`."""

    default_limit: ClassVar[int]

    model: ModelId
    # Declared anew because OpenAI's seed may be negative, and because /generate also takes "yes" and 1 for true.
    seed: Whole | None = Field(None, ge=-(2**63), le=2**63 - 1)
    max_tokens: TokenLimit | None = None
    ignore_eos: StrictBool = False
    use_cache: StrictBool = True

    @model_validator(mode="before")
    @classmethod
    def _null_is_nothing(cls, value: Any) -> Any:
        check_text(value)
        return {name: field for name, field in value.items() if field is not None} if isinstance(value, dict) else value

    @property
    def limit(self) -> int | None:
        return self.max_tokens

    @property
    def limit_name(self) -> str:
        return "max_tokens"

    @property
    def shrinks_to_fit(self) -> bool:
        return self.limit is None

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with the usage."""
        return self.stream_options is not None and self.stream_options.include_usage

    def check_least(self) -> None:
        """Raises ValueError if min_tokens is larger than the limit of tokens."""
        most = self.limit or self.default_limit
        if self.min_tokens > most:
            raise ValueError(f"min_tokens should be at most the largest number of tokens ({most})")

    def sampling_with(self, logprobs: int | None) -> Sampling:
        seed = None if self.seed is None else self.seed % 2**63
        return extract(self, Sampling, max_new_tokens=self.limit or self.default_limit, logprobs=logprobs, seed=seed)


class ChatRequest(OpenAiRequest, MessagesRequest):
    id_prefix = "chatcmpl"
    default_limit = CHAT_TOKENS

    messages: Annotated[list[OpenAiTurn], Field(min_length=1)]
    max_completion_tokens: TokenLimit | None = None
    logprobs: StrictBool = False
    top_logprobs: ScoreCount | None = None
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
        self.check_least()
        self.check_format()
        return self

    @property
    def limit(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens

    @property
    def limit_name(self) -> str:
        return "max_tokens" if self.max_tokens is not None else "max_completion_tokens"

    def inputs(self) -> list[PromptInput]:
        return [self.input_of(self.messages)]

    def sampling(self) -> Sampling:
        return self.sampling_with((self.top_logprobs or 0) if self.logprobs else None)


class CompletionRequest(OpenAiRequest, Wording):
    id_prefix = "cmpl"
    default_limit = COMPLETION_TOKENS

    prompt: (
        Annotated[str, StringConstraints(min_length=1)]
        | PromptIds
        | Annotated[list[Annotated[str, StringConstraints(min_length=1)]], Field(min_length=1, max_length=MOST_ANSWERS)]
        | Annotated[list[PromptIds], Field(min_length=1, max_length=MOST_ANSWERS)]
    )
    logprobs: ScoreCount | None = None
    best_of: Whole | None = Field(
        None, ge=1, le=MOST_ANSWERS, description="must equal n, because all answers are returned"
    )

    @field_validator("prompt", mode="wrap")
    @classmethod
    def _one_reason(cls, prompt: Any, read: ValidatorFunctionWrapHandler) -> Any:
        """Report one error, instead of one for each form that a prompt may have."""
        try:
            return read(prompt)
        except ValidationError:
            forms = "a text, token ids from 0, or a list of one of them"
            raise ValueError(f"should be {forms} with at most {MOST_ANSWERS} entries, none of them empty") from None

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.best_of is not None and self.best_of != self.n:
            raise ValueError(f"best_of should be n ({self.n}): all answers are returned")
        check_echo(self.echo, self.logprobs)
        prompts = len(self._prompts)
        if prompts * self.n > MOST_ANSWERS:
            raise ValueError(f"n should be at most {MOST_ANSWERS // prompts} for {prompts} prompts")
        self.check_least()
        return self

    @property
    def _prompts(self) -> list[str | list[int]]:
        """Each a text or token ids."""
        if isinstance(self.prompt, str) or isinstance(self.prompt[0], int):
            return [self.prompt]
        return list(self.prompt)

    def inputs(self) -> list[PromptInput]:
        return [
            PromptInput(prompt=each) if isinstance(each, str) else PromptInput(prompt_token_ids=each)
            for each in self._prompts
        ]

    def sampling(self) -> Sampling:
        return self.sampling_with(self.logprobs)
