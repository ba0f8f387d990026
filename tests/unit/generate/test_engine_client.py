"""What the API hears of an answer, from the lines that the engine sends."""

import asyncio

import httpx
import pytest

from app.contracts.generation import EngineEvent, Finish, GenerateOrder, Sampling, ScoredToken, TextDelta, Usage
from app.contracts.order import BaseRef
from app.generate.client import HttpEngineClient
from app.processes.engine_address import EngineAddress

ORDER = GenerateOrder(
    request_id="r", base=BaseRef(source="/base", is_local=True), adapter=None, prompt="1", sampling=Sampling()
)
FINISH = Finish(reason="stop", usage=Usage(prompt_tokens=1, completion_tokens=4, total_tokens=5))
SCORED = ScoredToken(id=7, token="c", bytes=[99], logprob=-0.5, top_logprobs=[])


def heard_of(*events: EngineEvent) -> list[EngineEvent]:
    """What is heard of events whose lines come all at once."""
    lines = "".join(f"{event.model_dump_json()}\n" for event in events)

    async def run() -> list[EngineEvent]:
        client = HttpEngineClient(EngineAddress("http://engine"))
        await client.close()
        transport = httpx.MockTransport(lambda _: httpx.Response(200, content=lines))
        client._http = httpx.AsyncClient(transport=transport, base_url="http://engine")
        try:
            return [event async for event in client.generate(ORDER)]
        finally:
            await client.close()

    return asyncio.run(run())


def test_pieces_of_text_that_come_together_are_one() -> None:
    assert heard_of(TextDelta(text="a"), TextDelta(text="b"), FINISH) == [TextDelta(text="ab"), FINISH]


@pytest.mark.parametrize(
    "told", [TextDelta(text="c", tokens=[SCORED]), TextDelta(text="c", token_ids=[7])], ids=["scores", "ids"]
)
def test_a_piece_that_tells_more_than_text_stays_as_it_is(told: TextDelta) -> None:
    events: list[EngineEvent] = [TextDelta(text="a"), told, told, TextDelta(text="b"), FINISH]

    assert heard_of(*events) == events
