"""Several generations at once: their answers piece by piece, or whole."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from app.contracts.generation import EngineError, Finish, GenerateOrder, ScoredToken, TextDelta, Usage
from app.generate.client import EngineClient, as_service_error
from app.generate.schemas import Answer, Called, CalledTool, FinishReason
from app.generate.tools import Call, CallScanner
from app.ids import new_id

# The most unread pieces of one request. While so many are unread, nothing more is read from the engine.
MOST_UNREAD = 64


@dataclass(frozen=True)
class AnswerPiece:
    """The next part of an answer: text and complete tool calls; scored tokens and token ids if they were requested."""

    text: str
    calls: tuple[Called, ...] = ()
    tokens: list[ScoredToken] | None = None
    ids: list[int] | None = None

    @property
    def is_empty(self) -> bool:
        return not (self.text or self.calls or self.tokens or self.ids)


@dataclass(frozen=True)
class AnswerEnd:
    """The answer is complete."""

    reason: FinishReason
    usage: Usage
    prompt_token_ids: list[int] | None


Numbered = tuple[int, AnswerPiece | AnswerEnd]
OnEnd = Callable[[int, Usage], None]
# Pieces that come together are joined, so their number alone says too little of their tokens.
BYTES_OF_A_TOKEN = 4


def _ignore(_place: int, _used: Usage) -> None:
    """For those who need not know when an answer ends."""


async def generate_all(
    engine: EngineClient, orders: Sequence[GenerateOrder], on_end: OnEnd = _ignore
) -> AsyncGenerator[Numbered, None]:
    """The pieces and the end of several answers, each with the place of its order.

    `on_end` is called at each end, also of an answer that does not become complete: its tokens are estimated then.

    Raises the first refusal of the engine, or EngineUnavailable; that, and closing it, cancels what still goes on.
    """
    queue: asyncio.Queue[tuple[int, AnswerPiece | AnswerEnd | Exception]] = asyncio.Queue(MOST_UNREAD)
    made, left = [0] * len(orders), set(range(len(orders)))

    async def pump(place: int, order: GenerateOrder) -> None:
        try:
            async with aclosing(_answer(engine, order)) as events:
                async for event in events:
                    made[place] += _least_tokens(event) if isinstance(event, AnswerPiece) else 0
                    await queue.put((place, event))
        except Exception as error:  # noqa: BLE001  it is raised where the answers are read
            await queue.put((place, error))

    tasks = [asyncio.create_task(pump(place, order)) for place, order in enumerate(orders)]
    try:
        while left:
            place, event = await queue.get()
            if isinstance(event, Exception):
                raise event
            if isinstance(event, AnswerEnd):
                left.discard(place)
                on_end(place, event.usage)
            yield place, event
    finally:
        _end_early({place: made[place] for place in left}, on_end)
        for task in tasks:
            task.cancel()
        # Not `gather`: cancelled itself, it would cancel them once more, in the middle of closing their connections.
        await asyncio.wait(tasks)


def _end_early(made: Mapping[int, int], on_end: OnEnd) -> None:
    """Count the tokens of answers that do not become complete. One that has not begun is none."""
    for place, tokens in made.items():
        if tokens:
            on_end(place, Usage(prompt_tokens=0, completion_tokens=tokens, total_tokens=tokens))


def _least_tokens(piece: AnswerPiece) -> int:
    """Return how many tokens a piece has at least, about: the engine tells it only of complete answers."""
    return max(1, len(piece.ids or piece.tokens or ()), len(piece.text.encode()) // BYTES_OF_A_TOKEN)


async def _answer(engine: EngineClient, order: GenerateOrder) -> AsyncGenerator[AnswerPiece | AnswerEnd, None]:
    """One answer, the calls of offered tools taken out of its text."""
    tools = [tool["function"]["name"] for tool in order.tools or ()]
    scanner = CallScanner(tools) if tools else None
    has_called = False
    async with aclosing(engine.generate(order)) as events:
        async for event in events:
            match event:
                case TextDelta():
                    piece = _piece([event.text] if scanner is None else scanner.feed(event.text), event)
                    has_called = has_called or bool(piece.calls)
                    yield piece
                case Finish():
                    yield _piece([] if scanner is None else scanner.finish())
                    reason: FinishReason = "tool_calls" if has_called and event.reason == "stop" else event.reason
                    yield AnswerEnd(reason, event.usage, event.prompt_token_ids)
                case EngineError():
                    raise as_service_error(event)


def _piece(found: Sequence[str | Call], delta: TextDelta | None = None) -> AnswerPiece:
    calls = [CalledTool(name=each.name, arguments=each.arguments) for each in found if isinstance(each, Call)]
    return AnswerPiece(
        text="".join(each for each in found if isinstance(each, str)),
        calls=tuple(Called(id=new_id("call"), function=call) for call in calls),
        tokens=delta.tokens if delta is not None else None,
        ids=delta.token_ids if delta is not None else None,
    )


async def collect(engine: EngineClient, orders: Sequence[GenerateOrder], on_end: OnEnd = _ignore) -> list[Answer]:
    """The whole answers, in the order of the orders. Raises as `generate_all`."""
    pieces: list[list[AnswerPiece]] = [[] for _ in orders]
    answers: dict[int, Answer] = {}
    async with aclosing(generate_all(engine, orders, on_end)) as events:
        async for place, event in events:
            if isinstance(event, AnswerEnd):
                answers[place] = _whole(orders[place], pieces[place], event)
            else:
                pieces[place].append(event)
    return [answers[place] for place in range(len(orders))]


def _whole(order: GenerateOrder, pieces: list[AnswerPiece], end: AnswerEnd) -> Answer:
    has_scores, has_ids = order.sampling.logprobs is not None, order.wording.return_token_ids
    return Answer(
        text="".join(piece.text for piece in pieces),
        finish_reason=end.reason,
        usage=end.usage,
        seed=order.sampling.seed,
        tool_calls=[call for piece in pieces for call in piece.calls] or None,
        logprobs=[token for piece in pieces for token in piece.tokens or ()] if has_scores else None,
        token_ids=[one for piece in pieces for one in piece.ids or ()] if has_ids else None,
        prompt_token_ids=end.prompt_token_ids,
    )
