"""What the API hears of an answer, from the lines that the engine sends."""

import asyncio
import json
from typing import Any

import httpx
import pytest

from app.contracts.generation import (
    EngineError,
    EngineEvent,
    Finish,
    GenerateOrder,
    Sampling,
    ScoredToken,
    TextDelta,
    Usage,
)
from app.contracts.order import BaseRef
from app.generate.client import BrokenOff, HttpEngineClient
from app.processes.engine_address import EngineAddress

ORDER = GenerateOrder(
    request_id="r", base=BaseRef(source="/base", is_local=True), adapter=None, prompt="1", sampling=Sampling()
)
FINISH = Finish(reason="stop", usage=Usage(prompt_tokens=1, completion_tokens=4, total_tokens=5))
SCORED = ScoredToken(id=7, token="c", bytes=[99], logprob=-0.5, top_logprobs=[])


def heard_of(*events: EngineEvent) -> list[EngineEvent]:
    """What is heard of events whose lines come all at once."""
    return exchanged(ORDER, "".join(f"{event.model_dump_json()}\n" for event in events))[1]


def exchanged(order: GenerateOrder, lines: str, status: int = 200) -> tuple[dict[str, Any], list[EngineEvent]]:
    """What an engine that answers with these lines is sent, and what is heard of it."""
    sent: list[bytes] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(request.content)
        return httpx.Response(status, content=lines)

    async def run() -> list[EngineEvent]:
        client = HttpEngineClient(EngineAddress("http://engine"))
        await client.close()
        client._http = httpx.AsyncClient(transport=httpx.MockTransport(answer), base_url="http://engine")
        try:
            return [event async for event in client.generate(order)]
        finally:
            await client.close()

    heard = asyncio.run(run())
    return json.loads(sent[0]), heard


def test_pieces_of_text_that_come_together_are_one() -> None:
    assert heard_of(TextDelta(text="a"), TextDelta(text="b"), FINISH) == [TextDelta(text="ab"), FINISH]


@pytest.mark.parametrize(
    "told", [TextDelta(text="c", tokens=[SCORED]), TextDelta(text="c", token_ids=[7])], ids=["scores", "ids"]
)
def test_a_piece_that_tells_more_than_text_stays_as_it_is(told: TextDelta) -> None:
    events: list[EngineEvent] = [TextDelta(text="a"), told, told, TextDelta(text="b"), FINISH]

    assert heard_of(*events) == events


def test_an_engine_of_another_version_is_sent_no_field_that_it_need_not_know_and_may_say_more() -> None:
    """A field that a later version adds has a default, so the version before is not sent it where nobody uses it."""
    newer = '{"kind": "delta", "text": "a", "mood": "calm"}\n' + f'{FINISH.model_dump_json()[:-1]}, "mood": 1}}\n'

    sent, heard = exchanged(ORDER, newer)

    assert sent == {"request_id": "r", "base": {"source": "/base", "is_local": True}, "prompt": "1"}
    assert GenerateOrder.model_validate(sent) == ORDER
    assert heard == [TextDelta(text="a"), FINISH]


@pytest.mark.parametrize(("status", "body"), [(502, ""), (503, "<html>no healthy upstream</html>"), (504, "timeout")])
def test_a_proxy_that_does_not_reach_the_engine_is_an_engine_that_is_away(status: int, body: str) -> None:
    (heard,) = exchanged(ORDER, body, status)[1]

    assert isinstance(heard, EngineError)
    assert (heard.status, heard.message) == (503, f"what stands before the engine answered {status}")
    assert not isinstance(heard, BrokenOff)  # so another engine may be asked
