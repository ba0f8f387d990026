"""Several generations at once: their answers piece by piece, or whole."""

import asyncio
from collections.abc import AsyncGenerator, Collection, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from app.contracts.generation import EngineError, Finish, GenerateOrder, ScoredToken, TextDelta, Usage
from app.generate.client import EngineClient, as_service_error
from app.generate.schemas import Answer, Called, CalledTool, FinishReason
from app.generate.tools import Call, CallScanner
from app.ids import new_id

# A reader who is slow makes the engine wait.
MOST_UNREAD = 64


@dataclass(frozen=True)
class AnswerPiece:
    """What is certain of an answer: text, and calls of tools; tokens with their scores, and ids, where asked for."""

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


async def generate_all(engine: EngineClient, orders: Sequence[GenerateOrder]) -> AsyncGenerator[Numbered, None]:
    """The pieces and the end of several answers, each with the place of its order.

    Raises the first refusal of the engine, or EngineUnavailable; that, and closing it, cancels what still goes on.
    """
    queue: asyncio.Queue[tuple[int, AnswerPiece | AnswerEnd | Exception]] = asyncio.Queue(MOST_UNREAD)

    async def pump(place: int, order: GenerateOrder) -> None:
        try:
            async with aclosing(_answer(engine, order)) as events:
                async for event in events:
                    await queue.put((place, event))
        except Exception as error:  # noqa: BLE001  it is raised where the answers are read
            await queue.put((place, error))

    tasks = [asyncio.create_task(pump(place, order)) for place, order in enumerate(orders)]
    try:
        unfinished = len(tasks)
        while unfinished:
            place, event = await queue.get()
            if isinstance(event, Exception):
                raise event
            yield place, event
            unfinished -= isinstance(event, AnswerEnd)
    finally:
        for task in tasks:
            task.cancel()
        # Not `gather`: cancelled itself, it would cancel them once more, in the middle of closing their connections.
        await asyncio.wait(tasks)


async def _answer(engine: EngineClient, order: GenerateOrder) -> AsyncGenerator[AnswerPiece | AnswerEnd, None]:
    reader = AnswerReader(tool_names(order))
    async with aclosing(engine.generate(order)) as events:
        async for event in events:
            match event:
                case TextDelta():
                    yield reader.feed(event)
                case Finish():
                    yield reader.finish()
                    yield AnswerEnd(reader.reason(event), event.usage, event.prompt_token_ids)
                case EngineError():
                    raise as_service_error(event)


class AnswerReader:
    """Reads one answer: takes the calls of offered tools out of its text."""

    def __init__(self, tools: Collection[str]) -> None:
        self._scanner = CallScanner(tools) if tools else None
        self._has_called = False

    def feed(self, delta: TextDelta) -> AnswerPiece:
        found = [delta.text] if self._scanner is None else self._scanner.feed(delta.text)
        return self._piece(found, delta)

    def finish(self) -> AnswerPiece:
        """What was held back."""
        return self._piece([] if self._scanner is None else self._scanner.finish(), None)

    def reason(self, finish: Finish) -> FinishReason:
        return "tool_calls" if self._has_called and finish.reason == "stop" else finish.reason

    def _piece(self, found: Sequence[str | Call], delta: TextDelta | None) -> AnswerPiece:
        calls = tuple(_called(each) for each in found if isinstance(each, Call))
        self._has_called = self._has_called or bool(calls)
        text = "".join(each for each in found if isinstance(each, str))
        return AnswerPiece(text, calls) if delta is None else AnswerPiece(text, calls, delta.tokens, delta.token_ids)


def _called(call: Call) -> Called:
    return Called(id=new_id("call"), function=CalledTool(name=call.name, arguments=call.arguments))


def tool_names(order: GenerateOrder) -> list[str]:
    """The tools whose calls are read in the answer."""
    return [tool["function"]["name"] for tool in order.tools or ()]


async def collect(engine: EngineClient, orders: Sequence[GenerateOrder]) -> list[Answer]:
    """The whole answers, in the order of the orders. Raises as `generate_all`."""
    pieces: list[list[AnswerPiece]] = [[] for _ in orders]
    answers: dict[int, Answer] = {}
    async with aclosing(generate_all(engine, orders)) as events:
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
