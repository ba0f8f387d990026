"""From what a client asks to what the engine is told, and back."""

import re
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from app.adapters import service as adapters
from app.contracts.generation import EngineError, Finish, GenerateOrder, TextDelta
from app.generate.client import EngineClient, as_service_error
from app.generate.schemas import GenerateRequest, Generation
from app.ids import new_id
from app.sources import resolve_model

NAMES_AN_ADAPTER = re.compile(r"^(adapter|job)-[a-z2-7]{24}(@|$)")


@dataclass(frozen=True)
class Asked:
    """An order with the names under which the client knows it."""

    order: GenerateOrder
    model: str
    adapter_id: str | None

    def ending(self, finish: Finish) -> dict[str, Any]:
        """What every complete answer says of itself."""
        return {
            "id": self.order.request_id,
            "model": self.model,
            "adapter": self.adapter_id,
            "finish_reason": finish.reason,
            "usage": finish.usage,
            "sampling": self.order.sampling,
        }


def prepare(session: Session, models: Path, request: GenerateRequest) -> Asked:
    """Find who is to answer.

    Raises NotFound for an unknown adapter or job, Conflict for a job that has not succeeded, InvalidRequest for a model
    name that means nothing here.
    """
    common = {
        "request_id": new_id("gen"),
        "messages": request.messages,
        "prompt": request.prompt,
        "sampling": request.sampling(),
    }
    param = "adapter" if request.adapter is not None else "model"
    name = request.adapter or request.model or ""
    if param == "adapter" or NAMES_AN_ADAPTER.match(name):
        adapter = adapters.find(session, name, param)
        return Asked(GenerateOrder(base=adapter.base, adapter=adapter.ref, **common), adapter.name, adapter.id)
    return Asked(GenerateOrder(base=resolve_model(name, None, models, "model"), **common), name, None)


async def collect(engine: EngineClient, asked: Asked) -> Generation:
    """The whole answer. Raises the engine's refusal, or EngineUnavailable when it does not come to its end."""
    text: list[str] = []
    async with aclosing(engine.generate(asked.order)) as events:
        async for event in events:
            match event:
                case TextDelta():
                    text.append(event.text)
                case Finish():
                    return Generation(text="".join(text), **asked.ending(event))
                case EngineError():
                    raise as_service_error(event)
    raise AssertionError("a generation ends with a finish or an error")
