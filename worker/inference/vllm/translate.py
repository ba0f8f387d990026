"""Translates a request into vLLM's completion, and the events of that completion into tokens."""

import secrets
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from app.contracts.generation import Sampling
from worker.inference.engine import Ended, Refusal, Token, TokenEvent, TokenRequest
from worker.inference.proving.proof import ForcedTokens
from worker.inference.text.grammar import JsonGrammar
from worker.inference.text.sampling import answer_ends, check_has
from worker.inference.vllm.adapters import AdapterNotLoaded, load_base_config
from worker.inference.vllm.client import (
    CompletionChoice,
    CompletionChunk,
    CompletionLogprobs,
    VllmClient,
    VllmStatusError,
    unavailable_now,
    unsupported,
)

# vLLM raises a temperature between 0 and this one to it.
LEAST_TEMPERATURE = 0.01
# vLLM does not accept a top_p of 0. This one keeps the likeliest token alone, too.
LEAST_TOP_P = 1e-6
TOKEN_PREFIX = "token_id:"
# Every other field of `Sampling` is sent under its own name. `stop` is found in the text, by the caller of the engine.
NOT_SENT = {"max_new_tokens", "stop", "use_cache"}


@dataclass(frozen=True)
class VllmResponder:
    """Answers requests through one server. `base_name` is the name under which the server has its base."""

    client: VllmClient
    base_name: str

    async def generate(self, request: TokenRequest) -> AsyncGenerator[TokenEvent, None]:
        """Yield tokens, then one `Ended` or `EngineError`. Whether the adapter may be asked is not checked here.

        Raises AdapterNotLoaded when vLLM does not know the adapter.
        """
        model = self.base_name if request.adapter is None else request.adapter.name
        if isinstance(request.grammar, ForcedTokens):
            events = self._score(request, request.grammar.ids, model)
        else:
            events = self._complete(request, model)
        async with aclosing(events):
            try:
                async for event in events:
                    yield event
            except VllmStatusError as error:
                if error.status == 404 and request.adapter is not None:
                    raise AdapterNotLoaded from None
                yield _refusal(error).error
            except Refusal as refusal:
                yield refusal.error

    async def _complete(self, request: TokenRequest, model: str) -> AsyncGenerator[TokenEvent, None]:
        async with aclosing(self.client.complete(completion_body(request, model))) as chunks:
            reason, top_tokens = None, request.sampling.logprobs
            async for chunk in chunks:
                _check_model(chunk, model)
                for choice in chunk.choices:
                    for token in _tokens(choice, top_tokens):
                        yield token
                    reason = choice.finish_reason
                if chunk.usage is not None and reason is not None:
                    details = chunk.usage.prompt_tokens_details
                    cached = (details.cached_tokens if details is not None else None) or 0
                    yield Ended("stop" if reason == "stop" else "length", chunk.usage.completion_tokens, cached)
                    return
        raise unavailable_now("the answer had no end")

    async def _score(
        self, request: TokenRequest, forced_tokens: tuple[int, ...], model: str
    ) -> AsyncGenerator[TokenEvent, None]:
        """Ask for one token after each forced token, because a request names the tokens to score only once."""
        vocabulary = load_base_config(request.base).config.get_text_config().vocab_size
        ids = list(request.prompt_ids)
        for token, compared in zip(forced_tokens, request.scored, strict=True):
            scored = sorted({token, *compared})
            check_has(scored, vocabulary)
            scores = await self._score_next(ids, scored, model)
            yield Token(token, scores[token], tuple(scores.items()))
            ids.append(token)
        yield Ended("length", len(forced_tokens))

    async def _score_next(self, ids: list[int], scored: list[int], model: str) -> dict[int, float]:
        step = {"max_tokens": 1, "temperature": 0, "logprobs": len(scored), "logprob_token_ids": scored}
        choices: list[CompletionChoice] = []
        async with aclosing(self.client.complete(_body(model, ids) | step)) as chunks:
            async for chunk in chunks:
                _check_model(chunk, model)
                choices += chunk.choices
                if chunk.usage is not None:
                    break
        scores = _scores(choices[0].logprobs, 0) if choices and choices[0].token_ids else {}
        if not scores.keys() >= set(scored):
            raise unavailable_now("its answer lacks the requested log-probabilities")
        return scores


def completion_body(request: TokenRequest, model: str) -> dict[str, Any]:
    """Return the body of the completion. Raises Refusal 422 `unsupported_by_engine` with the field.

    Log-probabilities are always asked for: where scores are not finite, vLLM answers token 0, and only they show it.
    """
    sampling = request.sampling
    _check_supported(request)
    body = _body(model, request.prompt_ids) | sampling.model_dump(exclude=NOT_SENT)
    body |= {
        "top_p": max(sampling.top_p, LEAST_TOP_P),
        "max_tokens": sampling.max_new_tokens,
        "min_tokens": _min_tokens(sampling),
        "stop_token_ids": sorted(answer_ends(request, ())),
        "logprobs": sampling.logprobs or 0,
    }
    if not sampling.use_cache:
        body["cache_salt"] = secrets.token_hex(16)
    if isinstance(request.grammar, JsonGrammar):
        body["structured_outputs"] = {"grammar": request.grammar.written}
    return body


def _body(model: str, prompt_ids: list[int]) -> dict[str, Any]:
    """Return what every completion has: token ids in both directions, and a stream that ends with the usage."""
    return {
        "model": model,
        "prompt": prompt_ids,
        "stream": True,
        "stream_options": {"include_usage": True},
        "return_token_ids": True,
        "return_tokens_as_token_ids": True,
    }


def _check_supported(request: TokenRequest) -> None:
    sampling = request.sampling
    if 0.0 < sampling.temperature < LEAST_TEMPERATURE:
        found = f"temperature: found {sampling.temperature:g}"
        raise unsupported(f"{found}, it takes 0 or at least {LEAST_TEMPERATURE}", "temperature")
    if request.grammar is None:
        return
    if not isinstance(request.grammar, JsonGrammar):
        raise unsupported("it cannot be given this grammar", "response_format")
    if sampling.ignore_eos or sampling.min_tokens:
        name = "ignore_eos" if sampling.ignore_eos else "min_tokens"
        raise unsupported(f"it cannot keep {name} together with response_format", name)


def _min_tokens(sampling: Sampling) -> int:
    """vLLM suppresses the model's end tokens before `min_tokens`, even where `ignore_eos` makes them usual tokens."""
    return 0 if sampling.ignore_eos and not sampling.stop_token_ids else sampling.min_tokens


def _check_model(chunk: CompletionChunk, model: str) -> None:
    """Raises Refusal when another model answers: some servers let the base answer for a name that they do not know."""
    if chunk.model != model:
        raise Refusal(500, "engine_failed", "vLLM answered with another model than the requested one")


def _tokens(choice: CompletionChoice, top_tokens: int | None) -> Iterator[Token]:
    """Yield the tokens of an event without the one that ended the answer. Raises Refusal for an unknown reason."""
    if choice.finish_reason not in (None, "stop", "length"):
        raise unavailable_now(f"the answer ended by {choice.finish_reason!r}")
    scores = [_scores(choice.logprobs, index) for index in range(len(choice.token_ids))]
    answered = choice.token_ids[:-1] if choice.finish_reason == "stop" else choice.token_ids
    for token, known in zip(answered, scores, strict=False):
        if top_tokens is None:
            yield Token(token)
        else:
            best = sorted(known.items(), key=lambda pair: -pair[1])[:top_tokens]
            yield Token(token, known[token], tuple(best))


def _scores(logprobs: CompletionLogprobs, index: int) -> dict[int, float]:
    """Return the log-probabilities at one place by token id. Raises Refusal for numbers that are not finite."""
    named = logprobs.top_logprobs[index]
    if logprobs.token_logprobs[index] is None or None in named.values():
        raise Refusal(500, "model_not_finite", "the model gave scores that are not finite numbers")
    return {int(name.removeprefix(TOKEN_PREFIX)): score for name, score in named.items() if score is not None}


def _refusal(error: VllmStatusError) -> Refusal:
    if error.status == 404:
        return unavailable_now("its base has changed")
    if error.status == 429:
        return Refusal(429, "engine_busy", f"vLLM is busy: {error.message}"[:500])
    if error.status < 500:
        return unsupported(f"it refuses: {error.message}", error.param)
    return unavailable_now(f"it failed: {error.message}")
