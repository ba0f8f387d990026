"""The API with an engine that follows a script, which is `api.app.state.engine`."""

from collections.abc import Callable, Iterator

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from app.config import Settings
from app.contracts.generation import EngineEvent
from app.main import create_app
from tests.support.scripted_engine import ScriptedEngine
from tests.support.serving import LOCAL


@pytest.fixture(scope="package")
def settings(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return Settings(home=tmp_path_factory.mktemp("home"), database_url=database_url)


@pytest.fixture(scope="package")
def app(settings: Settings) -> Iterator[FastAPI]:
    made = create_app(settings)
    yield made
    made.state.database.close()


@pytest.fixture
def make_api(app: FastAPI) -> Callable[..., TestClient]:
    def make(*script: EngineEvent | None) -> TestClient:
        app.state.engine = ScriptedEngine(script) if script else ScriptedEngine()
        return TestClient(app, base_url=LOCAL, raise_server_exceptions=False)

    return make


@pytest.fixture
def api(make_api: Callable[..., TestClient]) -> TestClient:
    return make_api()
