"""Several generations at once: their events as they come, or their whole answers."""

import asyncio
from collections.abc import AsyncGenerator, Collection, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Literal

from app.contracts.generation import EngineError, EngineEvent, Finish, GenerateOrder, ScoredToken, TextDelta
from app.generate.client import EngineClient, as_service_error
from app.generate.schemas import Answer, Called, CalledTool
from app.generate.tools import Call, CallScanner
from app.ids import new_id

# A reader who is slow makes the engine wait.
MOST_UNREAD = 64
Numbered = tuple[int, EngineEvent]


async def ask_all(engine: EngineClient, orders: Sequence[GenerateOrder]) -> AsyncGenerator[Numbered, None]:
    """The events of several generations, each with the place of its order. An error of one ends all.

    Closing it cancels what still goes on.
    """
    queue: asyncio.Queue[tuple[int, EngineEvent | BaseException]] = asyncio.Queue(MOST_UNREAD)

    async def pump(place: int, order: GenerateOrder) -> None:
        try:
            async with aclosing(engine.generate(order)) as events:
                async for event in events:
                    await queue.put((place, event))
        except Exception as error:
            await queue.put((place, error))
            raise

    tasks = [asyncio.create_task(pump(place, order)) for place, order in enumerate(orders)]
    try:
        going_on = len(tasks)
        while going_on:
            place, event = await queue.get()
            if isinstance(event, BaseException):
                raise event
            yield place, event
            if isinstance(event, EngineError):
                return
            going_on -= isinstance(event, Finish)
    finally:
        for task in tasks:
            task.cancel()
            task.add_done_callback(_seen)
        # Not `gather`: cancelled itself, it would cancel them once more, in the middle of closing their connections.
        await asyncio.wait(tasks)


def _seen(task: asyncio.Task[None]) -> None:
    """Its error, if there was one, has been handed on already."""
    if not task.cancelled():
        task.exception()


@dataclass(frozen=True)
class Piece:
    """What is certain of an answer: text, and calls of tools; tokens with their scores, and ids, where asked for."""

    text: str
    calls: tuple[Called, ...] = ()
    tokens: list[ScoredToken] | None = None
    ids: list[int] | None = None

    @property
    def is_something(self) -> bool:
        return bool(self.text or self.calls or self.tokens or self.ids)


class Reader:
    """Reads one answer: takes the calls of offered tools out of its text."""

    def __init__(self, tools: Collection[str]) -> None:
        self._scanner = CallScanner(tools) if tools else None
        self._calls = 0

    def feed(self, delta: TextDelta) -> Piece:
        found = [delta.text] if self._scanner is None else self._scanner.feed(delta.text)
        return self._piece(found, delta)

    def finish(self) -> Piece:
        """What was held back."""
        return self._piece([] if self._scanner is None else self._scanner.finish(), None)

    def reason(self, finish: Finish) -> Literal["stop", "length", "tool_calls"]:
        return "tool_calls" if self._calls and finish.reason == "stop" else finish.reason

    def _piece(self, found: Sequence[str | Call], delta: TextDelta | None) -> Piece:
        calls = tuple(_called(each) for each in found if isinstance(each, Call))
        self._calls += len(calls)
        text = "".join(each for each in found if isinstance(each, str))
        return Piece(text, calls) if delta is None else Piece(text, calls, delta.tokens, delta.token_ids)


def _called(call: Call) -> Called:
    return Called(id=new_id("call"), function=CalledTool(name=call.name, arguments=call.arguments))


async def collect(engine: EngineClient, orders: Sequence[GenerateOrder]) -> list[Answer]:
    """The whole answers, in the order of the orders. Raises the first refusal of the engine, or EngineUnavailable."""
    readers = [Reader(tool_names(order)) for order in orders]
    pieces: list[list[Piece]] = [[] for _ in orders]
    answers: dict[int, Answer] = {}
    async with aclosing(ask_all(engine, orders)) as events:
        async for place, event in events:
            match event:
                case TextDelta():
                    pieces[place].append(readers[place].feed(event))
                case Finish():
                    pieces[place].append(readers[place].finish())
                    reason = readers[place].reason(event)
                    answers[place] = _answer(orders[place], pieces[place], event, reason)
                case EngineError():
                    raise as_service_error(event)
    return [answers[place] for place in range(len(orders))]


def _answer(order: GenerateOrder, pieces: list[Piece], finish: Finish, reason: str) -> Answer:
    tells_scores, tells_ids = order.sampling.logprobs is not None, order.wording.return_token_ids
    return Answer.model_validate(
        {
            "text": "".join(piece.text for piece in pieces),
            "finish_reason": reason,
            "usage": finish.usage,
            "seed": order.sampling.seed,
            "tool_calls": [call for piece in pieces for call in piece.calls] or None,
            "logprobs": [token for piece in pieces for token in piece.tokens or ()] if tells_scores else None,
            "token_ids": [one for piece in pieces for one in piece.ids or ()] if tells_ids else None,
            "prompt_token_ids": finish.prompt_token_ids,
        }
    )


def tool_names(order: GenerateOrder) -> list[str]:
    """The tools whose calls are read in the answer."""
    return [tool["function"]["name"] for tool in order.tools or ()]
