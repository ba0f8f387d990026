"""What whoever asked an engine reads of its answer."""

import asyncio
from pathlib import Path

from app.contracts.generation import Sampling
from worker.inference.engine import Ended, ModelFolder, Token, TokenEvent, TokenRequest
from worker.inference.server.waiting import RequestQueue, Ticket, answers

REQUEST = TokenRequest(ModelFolder("base", Path("base")), None, [1], frozenset(), Sampling())


def heard_of(*events: TokenEvent) -> list[TokenEvent]:
    """What a reader hears that had to wait until all of these came at once."""

    async def read() -> list[TokenEvent]:
        queue = RequestQueue(1)
        reader = answers(REQUEST, queue)
        first = asyncio.ensure_future(anext(reader))
        await asyncio.sleep(0)
        ticket = queue.first()
        assert ticket is not None
        Ticket.put_all([(ticket, event) for event in events])
        heard = [await first, *[await anext(reader) for _ in events[1:]]]
        await reader.aclose()
        return heard

    return asyncio.run(read())


def test_a_reader_that_is_slower_than_the_engine_is_told_what_waits_already() -> None:
    heard = heard_of(Token(5), Token(6), Ended("length", 3))

    assert heard == [Token(5), Token(6), Ended("length", 3)]
    assert [event.is_followed for event in heard if isinstance(event, Token)] == [True, True]


def test_a_reader_that_keeps_up_is_told_one_token_at_a_time() -> None:
    (heard,) = heard_of(Token(5))

    assert isinstance(heard, Token)
    assert not heard.is_followed
