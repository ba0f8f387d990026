"""Puts an engine of a test behind an API."""

from typing import Any

from app.system.readiness import Readiness


def let_answer(app: Any, engine: Any, counted: Any = None) -> None:
    """Let the API ask this engine, for its health too. `counted`: what requests for answers go to instead."""
    state = app.state
    state.engine, state.engines = counted or engine, {"engine": engine}
    state.readiness = Readiness(state.database, state.settings.root, lambda: None, state.engines)
