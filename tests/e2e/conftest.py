"""Two stacks: embedded (SQLite, the bundled broker), and on PostgreSQL and Redis where they answer."""

import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tests.e2e.stack import BIASED_MODEL, MODEL, Stack, running
from tests.integration.conftest import REQUIRED, a_postgres_database
from tests.support.tiny_model import build_tiny_model

REDIS = os.environ.get("TEST_REDIS_URL", "redis://127.0.0.1:6379/9")


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models folder with two tiny models: a Llama, and a Qwen2 for its biases."""
    folder = tmp_path_factory.mktemp("models")
    build_tiny_model(folder / MODEL)
    build_tiny_model(folder / BIASED_MODEL, family="Qwen2")
    return folder


@pytest.fixture(scope="session")
def embedded(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    home = tmp_path_factory.mktemp("e") / "home"
    with running(home, {"TUNESMITH_MODELS_DIR": str(models)}) as stack:
        yield stack


@pytest.fixture(scope="session")
def services(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """PostgreSQL and Redis as they run on a host; every key and row of the run is gone afterwards."""
    prefix = f"tunesmith-test-{secrets.token_hex(4)}:"
    broker = redis.Redis.from_url(REDIS, socket_connect_timeout=3)
    try:
        broker.ping()
    except redis.ConnectionError:
        if REQUIRED:
            raise
        pytest.skip("no Redis answers")
    home = tmp_path_factory.mktemp("s") / "home"
    for url in a_postgres_database():
        env = {"TUNESMITH_DATABASE_URL": url, "TUNESMITH_BROKER_URL": REDIS, "TUNESMITH_BROKER_PREFIX": prefix}
        with running(home, {**env, "TUNESMITH_MODELS_DIR": str(models)}) as stack:
            yield stack
    for key in broker.scan_iter(f"{prefix}*"):
        broker.delete(key)
    broker.close()


@pytest.fixture(scope="module", params=["embedded", "services"])
def stack(request: pytest.FixtureRequest) -> Stack:
    found: Stack = request.getfixturevalue(request.param)
    return found
