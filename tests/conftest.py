"""Fixtures that every tier shares."""

import os
import signal
from pathlib import Path

import hypothesis
import pytest

from app.config import Settings
from tests import tiers

# Models of the tests are so small that threads wait for each other longer than they compute: where several trainings
# run, for seconds a step.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Some child processes of the service are stand-ins of the tests, and start in a folder of their own.
os.environ["PYTHONPATH"] = os.pathsep.join(
    [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
)

# No database of examples: a run of the tests leaves no file.
hypothesis.settings.register_profile("all", database=None)
hypothesis.settings.register_profile(tiers.FEW_EXAMPLES, database=None)
hypothesis.settings.load_profile("all")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the tests that `make test` leaves out, before `-m` is looked at."""
    config.stash[tiers.UNMATCHED] = tiers.mark_slow(items)


@pytest.fixture(scope="session", autouse=True)
def _interruptible() -> None:
    """A shell that starts the tests in the background has SIGINT ignored, and all processes of the tests inherit it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings of a throw-away home."""
    return Settings(home=tmp_path / "home")


@pytest.fixture(autouse=True)
def _no_operator_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A developer's own TUNESMITH_ variables never reach a test."""
    for name in [name for name in os.environ if name.startswith("TUNESMITH_")]:
        monkeypatch.delenv(name)
