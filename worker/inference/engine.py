"""The interface of an engine: token ids in, token ids out. It knows nothing of text, templates or HTTP."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, Self

from app.contracts.generation import EngineError, EngineHealth, Sampling
from app.contracts.variant import BaseVariant


@dataclass(frozen=True)
class ModelFolder:
    """A complete model on this host's disk. The name is for people and does not identify it; all other fields do.

    `revision` is the hash of the files if they may be replaced. `scaled_to` is the number of positions to which RoPE is
    scaled linearly. `files` are the stamps of the files (`worker.base_files`) at the time of the revision; empty if the
    files never change.
    """

    name: str
    folder: Path
    variant: BaseVariant | None = None
    revision: str | None = None
    scaled_to: int | None = None
    files: tuple[Any, ...] = field(default=(), compare=False, repr=False)


@dataclass(frozen=True)
class AdapterFolder:
    """A LoRA bundle on this host's disk. The name is `id@version` and identifies the content.

    A checkpoint is a bundle too, with the trainer's own files beside the adapter's.
    """

    name: str
    folder: Path
    is_checkpoint: bool = False


class Walk(Protocol):
    """The position of one answer in a grammar."""

    def restrict(self, scores: Any) -> Any:
        """The scores [1, vocabulary], with minus infinity for every token that must not come next."""
        ...

    def accept(self, token: int) -> None:
        """Advance by a token that was chosen."""
        ...


class Grammar(Protocol):
    """The rules that an answer must follow. A grammar is shared; each answer begins its own walk."""

    def begin(self) -> Walk: ...


@dataclass(frozen=True)
class TokenRequest:
    """One answer to compute. Without an adapter the base model answers, with all adapters off.

    `eos_ids` end the answer in addition to the end tokens of the model. `scored` lists, for each step, the tokens whose
    log-probabilities `Token.top` contains instead of the most likely ones; later steps are not affected.
    """

    base: ModelFolder
    adapter: AdapterFolder | None
    prompt_ids: list[int]
    eos_ids: frozenset[int]
    sampling: Sampling
    grammar: Grammar | None = None
    scored: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True)
class Token:
    """The next token of the answer. A token that ends the answer is never yielded.

    With `Sampling.logprobs`, `logprob` comes from the model's unmodified scores, and `top` has the best (id,
    log-probability) pairs. With `TokenRequest.scored`, `top` has the pairs of the tokens that the request lists for
    this step. `is_followed`: the next event is available already, so both may be written together.
    """

    id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()
    is_followed: bool = field(default=False, compare=False)


@dataclass(frozen=True)
class Ended:
    """The answer is complete. `completion_tokens` counts every token that was chosen, including the end token.

    `cached_tokens` counts the prompt tokens whose keys and values were cached.
    """

    reason: Literal["stop", "length"]
    completion_tokens: int
    cached_tokens: int = 0


TokenEvent = Token | Ended | EngineError


class Refusal(Exception):
    """An answer that cannot be given, with a message for the client."""

    def __init__(self, status: int, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.error = EngineError(status=status, code=code, message=message, param=param)

    @classmethod
    def of(cls, error: EngineError) -> Self:
        refusal = cls(error.status, error.code, error.message, error.param)
        refusal.error = error
        return refusal


class Engine(Protocol):
    """Loads the model that a request names, and answers the request."""

    def health(self) -> EngineHealth: ...

    def generate(self, request: TokenRequest) -> AsyncGenerator[TokenEvent, None]:
        """Yield the tokens of the answer, then exactly one `Ended` or `EngineError`. Closing the generator cancels."""
        ...

    def close(self) -> None:
        """End every answer with an error and refuse further requests."""
        ...
