"""What whoever asked an engine reads of its answer."""

import asyncio
from pathlib import Path

from app.contracts.generation import Sampling
from worker.inference.engine import Ended, ModelFolder, Token, TokenEvent, TokenRequest
from worker.inference.waiting import Ticket, WaitingRoom, answers

REQUEST = TokenRequest(ModelFolder("base", Path("base")), None, [1], frozenset(), Sampling())


def test_a_reader_that_is_slower_than_the_engine_is_told_what_waits_already() -> None:
    async def read() -> list[TokenEvent]:
        room = WaitingRoom(1)
        reader = answers(REQUEST, room)
        first = asyncio.ensure_future(anext(reader))
        await asyncio.sleep(0)
        ticket = room.first()
        assert ticket is not None
        Ticket.put_all([(ticket, event) for event in (Token(5), Token(6), Ended("length", 3))])
        heard = [await first, await anext(reader), await anext(reader)]
        await reader.aclose()
        return heard

    heard = asyncio.run(read())

    assert heard == [Token(5), Token(6), Ended("length", 3)]
    assert [event.is_followed for event in heard if isinstance(event, Token)] == [True, True]


def test_a_reader_that_keeps_up_is_told_one_token_at_a_time() -> None:
    async def read() -> TokenEvent:
        room = WaitingRoom(1)
        reader = answers(REQUEST, room)
        first = asyncio.ensure_future(anext(reader))
        await asyncio.sleep(0)
        ticket = room.first()
        assert ticket is not None
        Ticket.put_all([(ticket, Token(5))])
        heard = await first
        await reader.aclose()
        return heard

    heard = asyncio.run(read())

    assert isinstance(heard, Token)
    assert not heard.is_followed
