"""Fixtures that every tier shares."""

import os
from pathlib import Path

import pytest

from app.config import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings of a throw-away home."""
    return Settings(home=tmp_path / "home")


@pytest.fixture(autouse=True)
def _no_operator_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A developer's own TUNESMITH_ variables never reach a test."""
    for name in [name for name in os.environ if name.startswith("TUNESMITH_")]:
        monkeypatch.delenv(name)
