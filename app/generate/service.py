"""From what a client asks to what the engine is told, and back."""

import hashlib
from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from app.config import Settings
from app.contracts.generation import GenerateOrder, Sampling, Usage
from app.errors import InvalidRequest
from app.generate.asking import collect as collect_answers
from app.generate.client import EngineClient
from app.generate.schemas import GenerateRequest, Generation
from app.generate.speakers import Speaker, find_speaker
from app.generate.tools import ends_of_calls
from app.ids import new_id


@dataclass(frozen=True)
class Asked:
    """Orders with the names under which the client knows them; behind the first `n`, those to the base."""

    orders: tuple[GenerateOrder, ...]
    speaker: Speaker
    n: int = 1

    @property
    def order(self) -> GenerateOrder:
        return self.orders[0]

    def told(self) -> dict[str, Any]:
        """What every complete answer says of itself."""
        return {
            "id": self.order.request_id,
            "model": self.speaker.name,
            "adapter": self.speaker.adapter_id,
            "checkpoint": self.speaker.checkpoint,
            "sampling": self.order.sampling,
        }


def prepare(session: Session, settings: Settings, request: GenerateRequest) -> Asked:
    """Find who is to answer. Raises as `find_speaker`, and InvalidRequest for a base that is to be compared."""
    param = "adapter" if request.adapter is not None else "model"
    speaker = find_speaker(session, settings, request.adapter or request.model or "", param)
    if request.compare and speaker.adapter is None:
        raise InvalidRequest(f"compare: {speaker.name} is a base, only an adapter has one beside it", param="compare")
    tools = [tool.for_template() for tool in request.offered_tools()] or None
    first = GenerateOrder(
        request_id=new_id("gen"),
        base=speaker.base,
        adapter=speaker.adapter,
        messages=request.messages,
        prompt=request.prompt,
        prompt_token_ids=request.prompt_token_ids,
        tools=tools,
        form=request.form(),
        response_format=request.response_format,
        sampling=request.sampling(),
        wording=request.wording(),
        stop_after=ends_of_calls(request.offered_tools(), is_parallel=request.parallel_tool_calls),
        timeout=request.timeout,
    )
    orders = copies(first, request.n)
    if request.compare:
        orders += tuple(order.model_copy(update={"adapter": None}) for order in orders)
    return Asked(orders, speaker, request.n)


def copies(order: GenerateOrder, n: int) -> tuple[GenerateOrder, ...]:
    """The same order `n` times, each with a seed of its own; the first one's is as it was."""
    return tuple(
        order.model_copy(update={"request_id": f"{order.request_id}.{place}", "sampling": _own(order.sampling, place)})
        if place
        else order
        for place in range(n)
    )


def _own(sampling: Sampling, place: int) -> Sampling:
    """Seeds that lie apart: the answers of the seeds 1 and 2 have none in common."""
    if sampling.seed is None:
        return sampling
    digest = hashlib.sha256(f"{sampling.seed}:{place}".encode()).digest()
    return sampling.model_copy(update={"seed": int.from_bytes(digest[:8], "big") >> 1})


async def collect(engine: EngineClient, asked: Asked) -> Generation:
    """The whole answer. Raises the engine's refusal, or EngineUnavailable when it does not come to its end."""
    answers = await collect_answers(engine, asked.orders)
    own, others = answers[: asked.n], answers[asked.n :]
    first = own[0].model_dump(exclude={"seed", "usage"})
    usage = added([answer.usage for answer in own])
    return Generation(**first, usage=usage, choices=own if asked.n > 1 else None, base=others or None, **asked.told())


def added(usages: list[Usage]) -> Usage:
    """The tokens of several answers to one prompt, which counts once."""
    prompt, completion = usages[0].prompt_tokens, sum(usage.completion_tokens for usage in usages)
    return usages[0].model_copy(update={"completion_tokens": completion, "total_tokens": prompt + completion})
