"""What a vLLM server says over HTTP, as far as this engine reads it. Fields of other versions are passed over."""

from pydantic import BaseModel, ConfigDict


class Said(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Version(Said):
    version: str


class ModelCard(Said):
    """A name that requests may ask for. `root` is the folder or hub name behind it; `parent` the base of an adapter."""

    id: str
    root: str | None = None
    parent: str | None = None
    max_model_len: int | None = None


class ModelList(Said):
    data: list[ModelCard]


class Logprobs(Said):
    """One entry for each token. Numbers that are not finite are null; tokens are named `token_id:17`."""

    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float | None]]


class Choice(Said):
    """The next tokens of an answer. One that ended it stands among them."""

    token_ids: list[int]
    logprobs: Logprobs
    finish_reason: str | None = None


class PromptDetails(Said):
    cached_tokens: int | None = None


class Usage(Said):
    completion_tokens: int
    prompt_tokens_details: PromptDetails | None = None


class Chunk(Said):
    """An event of a stream: one choice, or at its end none and the usage."""

    model: str
    choices: list[Choice]
    usage: Usage | None = None


class Fault(Said):
    message: str
    param: str | None = None


class FaultBody(Said):
    """A refusal, as the body of an answer or as an event of a stream."""

    error: Fault
