"""A service whose pages a real browser opens. Jobs are stored by REST; no worker takes them."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser

from app.config import Settings
from app.database.connection import Database
from app.database.migrate import upgrade
from tests.support.browsers import a_chromium
from tests.support.jobs_api import an_app
from tests.support.scripted_engine import ScriptedEngine
from tests.support.serving import serving


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    with a_chromium() as started:
        yield started


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home")


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    upgrade(settings.database)
    with closing(Database.open(settings.database)) as opened:
        yield opened


@pytest.fixture
def url(settings: Settings, database: Database) -> Iterator[str]:
    app = an_app(settings, settings.database)
    app.state.engine = ScriptedEngine()
    with serving(app, timeout_graceful_shutdown=2) as address:
        yield address


@pytest.fixture
def rest(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url) as client:
        yield client
