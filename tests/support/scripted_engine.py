"""An engine that answers by script, adapters in the database, and the API around them."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from fastapi.testclient import TestClient

from app.adapters import repository
from app.adapters.models import Adapter
from app.contracts.generation import EngineEvent, EngineHealth, Finish, GenerateOrder, TextDelta, Usage
from app.database.connection import Database
from app.ids import new_id
from app.scope import EVERY_PROJECT
from tests.support.jobs import NOW

FINISH = Finish(reason="stop", usage=Usage(prompt_tokens=3, completion_tokens=2, total_tokens=5))
SCRIPT = (TextDelta(text="144"), TextDelta(text=" é\u2028😀"), FINISH)


class ScriptedEngine:
    """Answers every order with the same events, once the gate is open. None in the script waits without end."""

    def __init__(self, script: Sequence[EngineEvent | None] = SCRIPT, gate: asyncio.Event | None = None) -> None:
        self._script = script
        self._gate = gate
        self.orders: list[GenerateOrder] = []
        self.cancelled = 0

    async def health(self) -> EngineHealth:
        return EngineHealth(device="cpu", loaded_base=None, loaded_adapters=[], waiting=0, is_busy=False)

    async def generate(self, order: GenerateOrder) -> AsyncGenerator[EngineEvent, None]:
        self.orders.append(order)
        try:
            if self._gate is not None:
                await self._gate.wait()
            for event in self._script:
                if event is None:
                    await asyncio.Event().wait()
                else:
                    yield event
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    async def close(self) -> None:
        """It holds nothing."""


def add_adapter(database: Database, folder: Path, *, age: int = 0, **values: Any) -> Adapter:
    """A stored adapter with one file, `age` seconds old."""
    name = new_id("adapter")
    path = folder / name / "v1"
    path.mkdir(parents=True)
    (path / "adapter_config.json").write_text("{}")
    row = {
        "id": name,
        "project": "default",
        "version": "v1",
        "job_id": name.replace("adapter-", "job-"),
        "kind": "lora",
        "base_model": "org/model",
        "base_source": "org/model",
        "base_is_local": False,
        "base_revision": "abc",
        "path": str(path),
        "bytes": 2,
        "rank": 16,
        "created_at": NOW - timedelta(seconds=age),
    }
    adapter = Adapter(**{**row, **values})
    with database.writer() as session:
        repository.add(session, EVERY_PROJECT, adapter)
        session.commit()
    return adapter


def orders_of(api: TestClient) -> list[Any]:
    """What the scripted engine behind an API was ordered."""
    return list(api.app.state.engine.orders)  # type: ignore[attr-defined]
