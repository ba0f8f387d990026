"""What the API asks of the engine and what the engine answers: one order in, a stream of events out.

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
# vLLM's and SGLang's clients switch it off with -1.
TopK = Annotated[Whole, BeforeValidator(lambda value: 0 if value == -1 else value)]
LONGEST_TIMEOUT_SECONDS = 3600.0
# The log-probability of a token that cannot come, as OpenAI writes it: JSON has no infinity.
IMPOSSIBLE = -9999.0
StopString = Annotated[str, StringConstraints(min_length=1, max_length=256)]


def _as_list(stop: Any) -> Any:
    return (stop,) if isinstance(stop, str) else () if stop is None else stop


# One string, or several of them.
Stop = Annotated[
    tuple[StopString, ...],
    Field(max_length=MAX_STOPS),
    BeforeValidator(
        _as_list, json_schema_input_type=StopString | Annotated[list[StopString], Field(max_length=MAX_STOPS)] | None
    ),
]


class SamplingOptions(Contract):
    """How the next token is chosen, and what ends an answer: the fields that have one name on every route.

    A field that is added here is accepted by every route and reaches every engine. Order of their effects: repetition,
    presence and frequency penalty, logit_bias, response format, temperature, top_k, top_p, min_p.
    """

    min_tokens: Whole = Field(
        0, ge=0, le=MOST_TOKENS, description="no end token and no stop token before as many tokens"
    )
    temperature: Real = Field(1.0, ge=0.0, le=10.0, description="0: greedy")
    top_p: Real = Field(1.0, ge=0.0, le=1.0, description="0: the likeliest token alone")
    top_k: TopK = Field(0, ge=0, le=1_000_000, description="0 or -1: off")
    min_p: Real = Field(0.0, ge=0.0, le=1.0)
    repetition_penalty: Real = Field(1.0, gt=0.0, le=10.0, description="over prompt and answer")
    presence_penalty: Real = Field(0.0, ge=-2.0, le=2.0, description="once for each token of the answer")
    frequency_penalty: Real = Field(0.0, ge=-2.0, le=2.0, description="as often as a token stands in the answer")
    logit_bias: Annotated[dict[TokenId, Bias], Field(max_length=MAX_BIASES)] = {}
    seed: Whole | None = Field(None, ge=0, le=2**63 - 1)
    stop: Stop = ()
    stop_token_ids: Annotated[list[TokenId], Field(max_length=MAX_STOP_TOKENS)] = []
    ignore_eos: bool = Field(False, description="go on behind an end-of-sequence token")
    use_cache: bool = Field(True, description="keep keys and values of the tokens already read")


class Sampling(SamplingOptions):
    """All options of sampling, also those that OpenAI's clients send under other names."""

    max_new_tokens: Whole = Field(256, ge=1, le=MOST_TOKENS)
    logprobs: ScoreCount | None = Field(
        None, description="tell each token's log-probability, and so many of the best beside it"
    )

    @model_validator(mode="after")
    def _can_reach_the_least(self) -> Self:
        if self.min_tokens > self.max_new_tokens:
            raise ValueError(f"min_tokens should be at most max_new_tokens ({self.max_new_tokens})")
        return self


class TextOptions(Contract):
    """What the text of an answer has, and what is told beside it, for a chat as for a raw prompt."""

    include_stop_str_in_output: StrictBool = Field(
        False, description="a stop string that ends the answer is part of it"
    )
    skip_special_tokens: StrictBool = Field(True, description="false: control tokens are written out")
    return_token_ids: StrictBool = Field(False, description="tell the ids of prompt and answer")


class Wording(TextOptions):
    """All options of the text; a prompt can be repeated unless it is a chat."""

    echo: StrictBool = Field(False, description="the prompt stands before the answer; not with messages")


class AdapterRef(Contract):
    """One immutable trained adapter. `kind` full: all weights were trained and `path` holds a whole model.

    A checkpoint of a job is one too: `adapter_id` is the job's then, and `language` the folder of its tokenizer.
    `base_variant`: the form of the base on which it was proved; null: the base as its files hold it.
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
    """One input with what belongs to it. Exactly one of `messages`, `prompt` and `prompt_token_ids`.

    `tools` and `form` are those of `messages`. `stop_after` are strings that end the answer and are part of it.
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
    """One generation. Without an adapter the base answers.

    With `shrinks_to_fit`, `max_new_tokens` is less where the context ends before. `timeout`: seconds, the wait too.
    """

    request_id: str
    base: BaseRef
    adapter: AdapterRef | None = None
    sampling: Sampling = Sampling()
    shrinks_to_fit: bool = False
    wording: Wording = Wording()
    timeout: float | None = None


class PromptDetails(Contract):
    cached_tokens: int = Field(0, description="tokens whose keys and values were kept from an earlier request")


class Usage(Contract):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails = PromptDetails()


class TokenScore(Contract):
    """A token with its log-probability before any penalty, bias, format or temperature.

    `bytes` is null where the tokenizer does not tell them. `logprob` is -9999 for what is impossible.
    """

    id: int
    token: str
    bytes: list[int] | None
    logprob: float


class ScoredToken(TokenScore):
    """A token of the answer, and the most likely ones in its place, best first."""

    top_logprobs: list[TokenScore] = []


class TextDelta(Contract):
    """A piece of the answer: whole characters only, special tokens and stop strings left out.

    With `logprobs` it has the tokens that it ends, with `return_token_ids` their ids, and its text may be empty.
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
    prompt_token_ids: list[int] | None = Field(None, description="with return_token_ids")


# Codes of an EngineError; OpenAI's own for a prompt and an answer that are together too long for the model.
OUT_OF_MEMORY = "engine_out_of_memory"
CONTEXT_EXCEEDED = "context_length_exceeded"


class EngineError(Contract):
    """The answer could not be given, or not to its end. `status` is the HTTP status that fits."""

    kind: Literal["error"] = "error"
    status: int
    code: str
    message: str
    param: str | None = None
    retry_after_seconds: int | None = Field(None, description="where it helps to ask again, and when is known")


EngineEvent = Annotated[TextDelta | Finish | EngineError, Field(discriminator="kind")]
ENGINE_EVENT: TypeAdapter[EngineEvent] = TypeAdapter(EngineEvent)


class EngineHealth(Contract):
    """What `GET /health` of the engine answers."""

    device: str
    loaded_base: str | None
    loaded_merged: str | None = Field(None, description="the adapter that was merged into the loaded base")
    loaded_adapters: list[str]
    in_memory: list[str] = Field([], description="all that can answer without being loaded anew, that of now first")
    answers: Literal["in_batches", "one_at_a_time"] | None = Field(None, description="how what is loaded answers")
    answers_reason: str | None = Field(None, description="why one at a time")
    waiting: int = Field(description="requests in the queue, the running one left out")
    is_busy: bool
    place: str | None = Field(None, description="whose memory it takes: a GPU's UUID, or cpu@host; null: none here")
    memory_bytes: int | None = Field(None, description="of the GPU, that it has for models; null on a CPU")
    cache_bytes: int | None = Field(None, description="of keys and values, of all that is in memory; null: not ours")
    max_cache_bytes: int | None = Field(None, description="the most that cache_bytes can be; null: by free memory")
    stepped_aside: str | None = Field(None, description="why it answers nobody at present")
