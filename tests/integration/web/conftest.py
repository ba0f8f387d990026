"""The API of a new home without an engine, for tests that leave nothing in it that another would meet."""

from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient

from app.config import Settings
from app.database.migrate import upgrade
from app.main import create_app
from tests.support.serving import LOCAL


@pytest.fixture(scope="package")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    settings = Settings(home=tmp_path_factory.mktemp("home"), engine_url="http://127.0.0.1:9")
    upgrade(settings.database)
    with TestClient(create_app(settings), base_url=LOCAL, raise_server_exceptions=False) as client:
        yield client
