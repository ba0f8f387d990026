"""A GPU of 80 GB, and an engine on it that answers a worker by script."""

from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from app.contracts.generation import EngineHealth
from app.contracts.memory_lease import ResumeOrder, YieldOrder, YieldState
from tests.support.gpus import pretend_gpu

GPU = "GPU-1"


def give_gpu(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it is free."""
    pretend_gpu(folder / "bin", monkeypatch, f"{GPU}, 80000 MiB")


class Script:
    """An engine on a GPU that does as it is told, and remembers what it was asked."""

    def __init__(self, *, place: str | None = GPU, goes_away: bool = True, stepped_aside: str | None = None) -> None:
        self.place, self.goes_away, self.stepped_aside = place, goes_away, stepped_aside
        self.asked: list[YieldOrder] = []
        self.released: list[str] = []

    def app(self) -> FastAPI:
        app = FastAPI()

        @app.get("/health")
        def health() -> EngineHealth:
            nothing: dict[str, Any] = {"loaded_base": None, "loaded_adapters": [], "waiting": 0, "is_busy": False}
            return EngineHealth(device="cuda:0", place=self.place, stepped_aside=self.stepped_aside, **nothing)

        @app.post("/yield")
        def step_aside(order: YieldOrder) -> YieldState:
            self.asked.append(order)
            return YieldState(is_away=self.goes_away, held_for=[order.job_id])

        @app.post("/resume")
        def come_back(order: ResumeOrder) -> YieldState:
            self.released.append(order.holder)
            return YieldState(is_away=False, held_for=[])

        return app
