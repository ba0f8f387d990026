"""The messages between the API and the engine: one order in, a stream of events out.

Every stream ends in exactly one `finish` or `error`.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, StrictBool, StringConstraints, TypeAdapter, model_validator

from app.contracts.answers import ResponseFormat
from app.contracts.base import Contract, Real, Whole
from app.contracts.chat import ChatForm
from app.contracts.order import BaseRef
from app.contracts.records import Message
from app.contracts.variant import BaseVariant

MAX_STOPS = 16
MAX_STOP_TOKENS = 64
MAX_BIASES = 1024
MAX_LOGPROBS = 20
MOST_TOKENS = 131_072
LAST_TOKEN_ID = 2**31 - 1
TokenLimit = Annotated[Whole, Field(ge=1, le=MOST_TOKENS)]
ScoreCount = Annotated[Whole, Field(ge=0, le=MAX_LOGPROBS)]
TokenId = Annotated[Whole, Field(ge=0, le=LAST_TOKEN_ID)]
Bias = Annotated[Real, Field(ge=-100.0, le=100.0)]
# Clients of vLLM and SGLang switch it off with -1.
TopK = Annotated[Whole, BeforeValidator(lambda value: 0 if value == -1 else value)]
LONGEST_TIMEOUT_SECONDS = 3600.0
# OpenAI's value for the log-probability of an impossible token, because JSON has no infinity.
IMPOSSIBLE = -9999.0
StopString = Annotated[str, StringConstraints(min_length=1, max_length=256)]


def _as_list(stop: Any) -> Any:
    return (stop,) if isinstance(stop, str) else () if stop is None else stop


# One string, or a list of strings.
Stop = Annotated[
    tuple[StopString, ...],
    Field(max_length=MAX_STOPS),
    BeforeValidator(
        _as_list, json_schema_input_type=StopString | Annotated[list[StopString], Field(max_length=MAX_STOPS)] | None
    ),
]


class SamplingOptions(Contract):
    """How the next token is chosen, and what ends an answer: the fields with the same name on every route.

    A field that is added here is accepted by every route and passed to every engine. They are applied in this order:
    repetition, presence and frequency penalty, logit_bias, response format, temperature, top_k, top_p, min_p.
    """

    min_tokens: Whole = Field(0, ge=0, le=MOST_TOKENS, description="no end token or stop token before this many tokens")
    temperature: Real = Field(1.0, ge=0.0, le=10.0, description="0: greedy")
    top_p: Real = Field(1.0, ge=0.0, le=1.0, description="0: only the most likely token")
    top_k: TopK = Field(0, ge=0, le=1_000_000, description="0 or -1: off")
    min_p: Real = Field(0.0, ge=0.0, le=1.0)
    repetition_penalty: Real = Field(1.0, gt=0.0, le=10.0, description="over prompt and answer")
    presence_penalty: Real = Field(0.0, ge=-2.0, le=2.0, description="once for each token of the answer")
    frequency_penalty: Real = Field(0.0, ge=-2.0, le=2.0, description="as often as a token occurs in the answer")
    logit_bias: Annotated[dict[TokenId, Bias], Field(max_length=MAX_BIASES)] = {}
    seed: Whole | None = Field(None, ge=0, le=2**63 - 1)
    stop: Stop = ()
    stop_token_ids: Annotated[list[TokenId], Field(max_length=MAX_STOP_TOKENS)] = []
    ignore_eos: bool = Field(False, description="continue after an end-of-sequence token")
    use_cache: bool = Field(True, description="keep keys and values of tokens that were already processed")


class Sampling(SamplingOptions):
    """All options of sampling, including those that OpenAI's clients send under other names."""

    max_new_tokens: Whole = Field(256, ge=1, le=MOST_TOKENS)
    logprobs: ScoreCount | None = Field(
        None, description="return each token's log-probability, and this many of the most likely tokens"
    )

    @model_validator(mode="after")
    def _can_reach_the_least(self) -> Self:
        if self.min_tokens > self.max_new_tokens:
            raise ValueError(f"min_tokens should be at most max_new_tokens ({self.max_new_tokens})")
        return self


class TextOptions(Contract):
    """What the text of an answer contains, and what is returned with it, for chats and raw prompts."""

    include_stop_str_in_output: StrictBool = Field(
        False, description="whether a stop string that ends the answer is part of it"
    )
    skip_special_tokens: StrictBool = Field(True, description="false: special tokens are part of the text")
    return_token_ids: StrictBool = Field(False, description="return the token ids of prompt and answer")


class Wording(TextOptions):
    """All options of the text."""

    echo: StrictBool = Field(False, description="put the prompt before the answer; not allowed with messages")


class AdapterRef(Contract):
    """One immutable trained adapter. `kind` full: all weights were trained and `path` holds a whole model.

    A job's checkpoint is one too: then `adapter_id` is the job's id and `language` the folder of its tokenizer.
    `base_variant`: the form of the base with which it was verified; null: the base as it is in its files.
    """

    adapter_id: str
    version: str
    path: str
    kind: Literal["lora", "full"]
    language: str | None = None
    base_variant: BaseVariant | None = None

    @property
    def name(self) -> str:
        return f"{self.adapter_id}@{self.version}"


class PromptInput(Contract):
    """One input: exactly one of `messages`, `prompt` and `prompt_token_ids`.

    `tools` and `form` belong to `messages`. `stop_after` are strings that end the answer and are part of it.
    """

    messages: list[Message] | None = None
    prompt: str | None = None
    prompt_token_ids: list[int] | None = None
    tools: list[dict[str, Any]] | None = None
    form: ChatForm = ChatForm()
    response_format: ResponseFormat | None = None
    stop_after: tuple[StopString, ...] = ()

    @model_validator(mode="after")
    def _one_input(self) -> Self:
        if sum(each is not None for each in (self.messages, self.prompt, self.prompt_token_ids)) != 1:
            raise ValueError("exactly one of messages, prompt and prompt_token_ids is needed")
        return self


class GenerateOrder(PromptInput):
    """One generation. Without an adapter the base model answers.

    `shrinks_to_fit`: reduce `max_new_tokens` to what fits into the context. `timeout`: seconds, including the wait.
    """

    request_id: str
    base: BaseRef
    adapter: AdapterRef | None = None
    sampling: Sampling = Sampling()
    shrinks_to_fit: bool = False
    wording: Wording = Wording()
    timeout: float | None = None


class PromptDetails(Contract):
    cached_tokens: int = Field(0, description="tokens whose keys and values were cached by an earlier request")


class Usage(Contract):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails = PromptDetails()


class TokenScore(Contract):
    """A token with its log-probability before any penalty, bias, format or temperature.

    `bytes` is null if the tokenizer does not provide them. `logprob` is -9999 for an impossible token.
    """

    id: int
    token: str
    bytes: list[int] | None
    logprob: float


class ScoredToken(TokenScore):
    """A token of the answer, and the most likely tokens at its position, best first."""

    top_logprobs: list[TokenScore] = []


class TextDelta(Contract):
    """A piece of the answer: whole characters, by default without special tokens and stop strings.

    With `logprobs` it has the scores of its tokens, with `return_token_ids` their ids, and then `text` may be empty.
    """

    kind: Literal["delta"] = "delta"
    text: str
    tokens: list[ScoredToken] | None = None
    token_ids: list[int] | None = None


class Finish(Contract):
    """The answer ended: at an end or stop token or a stop string (`stop`), or at `max_new_tokens` (`length`)."""

    kind: Literal["finish"] = "finish"
    reason: Literal["stop", "length"]
    usage: Usage
    prompt_token_ids: list[int] | None = Field(None, description="only with return_token_ids")


# Codes of an EngineError. The second is OpenAI's code for prompt and answer that do not fit into the context.
OUT_OF_MEMORY = "engine_out_of_memory"
CONTEXT_EXCEEDED = "context_length_exceeded"


class EngineError(Contract):
    """The answer failed or was cut off. `status` is the HTTP status for it."""

    kind: Literal["error"] = "error"
    status: int
    code: str
    message: str
    param: str | None = None
    retry_after_seconds: int | None = Field(None, description="set if a retry after this time may succeed")


EngineEvent = Annotated[TextDelta | Finish | EngineError, Field(discriminator="kind")]
ENGINE_EVENT: TypeAdapter[EngineEvent] = TypeAdapter(EngineEvent)


class EngineHealth(Contract):
    """The response of the engine's `GET /health`."""

    device: str
    loaded_base: str | None
    loaded_merged: str | None = Field(None, description="the adapter that was merged into the loaded base")
    loaded_adapters: list[str]
    in_memory: list[str] = Field(
        [], description="all models that can answer without being loaded, the current one first"
    )
    answers: Literal["in_batches", "one_at_a_time"] | None = Field(None, description="how the loaded model answers")
    answers_reason: str | None = Field(None, description="why it answers one request at a time")
    waiting: int = Field(description="requests in the queue, without the running one")
    is_busy: bool
    place: str | None = Field(
        None, description="the device whose memory it uses: a GPU's UUID, or cpu@host; null: none here"
    )
    memory_bytes: int | None = Field(None, description="memory of the GPU for models; null on a CPU")
    cache_bytes: int | None = Field(
        None, description="size of the key-value cache of all models in memory; null: vLLM has its own"
    )
    max_cache_bytes: int | None = Field(
        None, description="the limit of cache_bytes; null: it depends on the free memory"
    )
    stepped_aside: str | None = Field(None, description="why it answers no requests at present")
