"""What an engine is: token ids in, token ids out. Text, templates and HTTP are not its business."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, Self

from app.contracts.generation import EngineError, EngineHealth, Sampling
from app.contracts.variant import BaseVariant


@dataclass(frozen=True)
class ModelFolder:
    """A whole model on this host's disk; all but the name, which is for people, tells it from others.

    `revision` is that of the files where those may be replaced, `scaled_to` the positions to which RoPE is scaled
    linearly. `files` are the stamps of the files (`worker.base_files`) as they were when the revision was found; none:
    nobody replaces them.
    """

    name: str
    folder: Path
    variant: BaseVariant | None = None
    revision: str | None = None
    scaled_to: int | None = None
    files: tuple[Any, ...] = field(default=(), compare=False, repr=False)


@dataclass(frozen=True)
class AdapterFolder:
    """A LoRA bundle on this host's disk. The name is `id@version`: one name, one content.

    A checkpoint is one too, with a trainer's own files beside the adapter's.
    """

    name: str
    folder: Path
    is_checkpoint: bool = False


class Walk(Protocol):
    """The way of one answer through a grammar."""

    def restrict(self, scores: Any) -> Any:
        """The scores [1, vocabulary] with those of all tokens that may not come next at minus infinity."""
        ...

    def accept(self, token: int) -> None:
        """Go on behind a token that was chosen."""
        ...


class Grammar(Protocol):
    """What an answer may consist of. It is shared; each answer begins a walk of its own."""

    def begin(self) -> Walk: ...


@dataclass(frozen=True)
class TokenRequest:
    """One answer to compute. Without an adapter the base model answers, with all adapters off.

    `eos_ids` end the answer beside those that the model itself names. `scored` has, step by step, the tokens whose
    log-probabilities `Token.top` tells in place of the likeliest ones; behind its end nothing changes.
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
    """The next token of the answer; one that ends it is never told.

    With `Sampling.logprobs`: its log-probability from the model's own scores, and the best (id, log-probability) pairs.
    With `TokenRequest.scored`: the pairs of the tokens that the request names for this step.
    `is_followed`: the next event is there already, so whoever writes may write this one with it.
    """

    id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()
    is_followed: bool = field(default=False, compare=False)


@dataclass(frozen=True)
class Ended:
    """The answer is complete. `completion_tokens` counts every token that was chosen, the end token too.

    `cached_tokens` counts the prompt tokens that need not be read anew.
    """

    reason: Literal["stop", "length"]
    completion_tokens: int
    cached_tokens: int = 0


TokenEvent = Token | Ended | EngineError


class Refusal(Exception):
    """An answer that cannot be given, in the words that the client may read."""

    def __init__(self, status: int, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.error = EngineError(status=status, code=code, message=message, param=param)

    @classmethod
    def of(cls, error: EngineError) -> Self:
        refusal = cls(error.status, error.code, error.message, error.param)
        refusal.error = error
        return refusal


class Engine(Protocol):
    """Loads what a request names, and answers it."""

    def health(self) -> EngineHealth: ...

    def generate(self, request: TokenRequest) -> AsyncGenerator[TokenEvent, None]:
        """Yield the tokens of the answer, then exactly one `Ended` or `EngineError`. Closing it cancels."""
        ...

    def close(self) -> None:
        """End every answer with an error and refuse further ones."""
        ...
