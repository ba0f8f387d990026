"""From a request to the body of a completion, and from vLLM's events back to tokens. What cannot be said is refused."""

import secrets
from collections.abc import AsyncGenerator, AsyncIterable, Iterator
from typing import Any

from app.contracts.generation import Sampling
from worker.inference.engine import Ended, Refusal, Token, TokenEvent, TokenRequest
from worker.inference.grammar import JsonGrammar
from worker.inference.sampling import answer_ends
from worker.inference.vllm.protocol import Choice, Chunk, Logprobs
from worker.inference.vllm.remote import away

# Below this and above 0 vLLM takes another temperature than it was given.
LEAST_TEMPERATURE = 0.01
# vLLM takes no top_p of 0; this one keeps the likeliest token alone, too.
LEAST_TOP_P = 1e-6
NAMED_BY_ID = "token_id:"
# Fields that mean in vLLM what they mean here.
SAME = (
    "temperature",
    "top_k",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "logit_bias",
    "seed",
    "ignore_eos",
)


def body_of(request: TokenRequest, model: str) -> dict[str, Any]:
    """The completion that is this request. Raises Refusal 422 `unsupported_by_engine` with the field.

    Log-probabilities are always asked for: only they tell of scores that are no numbers, where vLLM answers token 0.
    """
    sampling = request.sampling
    _check_can_be_said(request)
    said: dict[str, Any] = {
        **{name: getattr(sampling, name) for name in SAME},
        "top_p": max(sampling.top_p, LEAST_TOP_P),
        "max_tokens": sampling.max_new_tokens,
        "min_tokens": _least(sampling),
        "stop_token_ids": sorted(answer_ends(request, ())),
        "logprobs": sampling.logprobs or 0,
        **frame(model, request.prompt_ids),
    }
    if not sampling.use_cache:
        said["cache_salt"] = secrets.token_hex(16)
    if isinstance(request.grammar, JsonGrammar):
        said["structured_outputs"] = {"grammar": request.grammar.written}
    return said


def frame(model: str, prompt_ids: list[int]) -> dict[str, Any]:
    """What every completion of this engine has: token ids in and out, as a stream with its usage."""
    return {
        "model": model,
        "prompt": prompt_ids,
        "stream": True,
        "stream_options": {"include_usage": True},
        "return_token_ids": True,
        "return_tokens_as_token_ids": True,
    }


def unsupported(reason: str, param: str | None) -> Refusal:
    return Refusal(422, "unsupported_by_engine", f"this engine answers through vLLM: {reason}"[:1000], param)


def _check_can_be_said(request: TokenRequest) -> None:
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


def _least(sampling: Sampling) -> int:
    """vLLM holds back the model's end tokens before the least length even when they end nothing."""
    return 0 if sampling.ignore_eos and not sampling.stop_token_ids else sampling.min_tokens


async def events_of(
    chunks: AsyncIterable[Chunk], request: TokenRequest, model: str
) -> AsyncGenerator[TokenEvent, None]:
    """Tokens, then one `Ended`. Raises Refusal when another model answered, or the scores were no numbers."""
    reason, wanted = None, request.sampling.logprobs
    async for chunk in chunks:
        check_speaker(chunk, model)
        for choice in chunk.choices:
            for token in tokens_of(choice, wanted):
                yield token
            reason = choice.finish_reason
        if chunk.usage is not None:
            details = chunk.usage.prompt_tokens_details
            cached = (details.cached_tokens if details is not None else None) or 0
            if reason is not None:
                yield Ended("stop" if reason == "stop" else "length", chunk.usage.completion_tokens, cached)
                return
    raise away("the answer had no end")


def check_speaker(chunk: Chunk, model: str) -> None:
    """Never another model's answer: a server that checks no names lets the base answer for an adapter."""
    if chunk.model != model:
        raise Refusal(500, "engine_failed", "vLLM answered as another model than the one that was asked")


def tokens_of(choice: Choice, wanted: int | None) -> Iterator[Token]:
    """The tokens of an event without the one that ended the answer. Raises Refusal for an end of no known kind."""
    if choice.finish_reason not in (None, "stop", "length"):
        raise away(f"the answer ended by {choice.finish_reason!r}")
    scores = [scores_of(choice.logprobs, place) for place in range(len(choice.token_ids))]
    told = choice.token_ids[:-1] if choice.finish_reason == "stop" else choice.token_ids
    for token, known in zip(told, scores, strict=False):
        if wanted is None:
            yield Token(token)
        else:
            best = sorted(known.items(), key=lambda pair: -pair[1])[:wanted]
            yield Token(token, known[token], tuple(best))


def scores_of(logprobs: Logprobs, place: int) -> dict[int, float]:
    """Token ids to log-probabilities at one place. Raises Refusal for numbers that are not finite."""
    named = logprobs.top_logprobs[place]
    if logprobs.token_logprobs[place] is None or None in named.values():
        raise Refusal(500, "model_not_finite", "the model gave scores that are no finite numbers")
    return {int(name.removeprefix(NAMED_BY_ID)): score for name, score in named.items() if score is not None}
