"""Asks vLLM as the base or as an adapter that is loaded, and reads its answer. Whom it may ask is decided elsewhere."""

from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, aclosing, nullcontext

from worker.inference.engine import Ended, Refusal, Token, TokenEvent, TokenRequest
from worker.inference.proving import Dictation
from worker.inference.sampling import check_has
from worker.inference.vllm.protocol import Choice
from worker.inference.vllm.remote import Declined, Vllm, away
from worker.inference.vllm.served import Served, load_blank
from worker.inference.vllm.turns import Turns
from worker.inference.vllm.wording import body_of, check_speaker, events_of, frame, scores_of, unsupported

NOT_THERE = 404


class NotLoaded(Exception):
    """vLLM does not know the adapter."""


class Speaker:
    """`turns` keep base and adapters apart, where the server cannot."""

    def __init__(self, vllm: Vllm, turns: Turns | None) -> None:
        self._vllm = vllm
        self._turns = turns

    async def answer(self, request: TokenRequest, served: Served) -> AsyncGenerator[TokenEvent, None]:
        """Tokens, then one `Ended`. Raises Refusal, and NotLoaded before the first token."""
        model = served.name if request.adapter is None else request.adapter.name
        if isinstance(request.grammar, Dictation):
            events = self._dictate(request, request.grammar.ids, model)
        else:
            events = self._generate(request, model)
        async with self._turn(request), aclosing(events):
            try:
                async for event in events:
                    yield event
            except Declined as declined:
                raise _refusal(declined, request) from None

    def _turn(self, request: TokenRequest) -> AbstractAsyncContextManager[None]:
        return (
            nullcontext() if self._turns is None else self._turns.of("base" if request.adapter is None else "adapter")
        )

    async def _generate(self, request: TokenRequest, model: str) -> AsyncGenerator[TokenEvent, None]:
        async with (
            aclosing(self._vllm.complete(body_of(request, model))) as chunks,
            aclosing(events_of(chunks, request, model)) as events,
        ):
            async for event in events:
                yield event

    async def _dictate(
        self, request: TokenRequest, dictated: tuple[int, ...], model: str
    ) -> AsyncGenerator[TokenEvent, None]:
        """One request a step, for the log-probabilities of the tokens that are compared."""
        vocabulary = load_blank(request.base).config.get_text_config().vocab_size
        said = list(request.prompt_ids)
        for token, scored in zip(dictated, request.scored, strict=True):
            check_has({token, *scored}, vocabulary)
            scores = await self._listen(said, sorted({token, *scored}), model)
            yield Token(token, scores[token], tuple(scores.items()))
            said.append(token)
        yield Ended("length", len(dictated))

    async def _listen(self, said: list[int], heard: list[int], model: str) -> dict[int, float]:
        step = {"max_tokens": 1, "temperature": 0, "logprobs": len(heard), "logprob_token_ids": heard}
        choices: list[Choice] = []
        async with aclosing(self._vllm.complete({**frame(model, said), **step})) as chunks:
            async for chunk in chunks:
                check_speaker(chunk, model)
                choices += chunk.choices
                if chunk.usage is not None:
                    break
        scores = scores_of(choices[0].logprobs, 0) if choices and choices[0].token_ids else {}
        if not scores.keys() >= set(heard):
            raise away("it did not tell the log-probabilities that were asked for")
        return scores


def _refusal(declined: Declined, request: TokenRequest) -> Exception:
    """What it means for a request that vLLM declined it."""
    if declined.status == NOT_THERE:
        return NotLoaded() if request.adapter is not None else away("its base has changed")
    if declined.status == 429:
        return Refusal(429, "engine_busy", f"vLLM is busy: {declined.message}"[:500])
    if declined.status < 500:
        return unsupported(f"it refuses: {declined.message}", declined.param)
    return away(f"it failed: {declined.message}"[:500])
