"""A migrated database for every test: SQLite always, and PostgreSQL where one answers.

With REQUIRE_SERVICES=1 (as CI sets it) a missing PostgreSQL is a failure and not a skip.
"""

import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import Engine
from sqlalchemy.engine import make_url
from starlette.datastructures import State

from app.config import Settings
from app.database.connection import Base, Database, make_engine
from app.database.migrate import upgrade
from tests.integration.engine.processes import EngineProcess
from tests.support.checks import RecordingNotifier
from tests.support.jobs_api import an_api
from tests.support.s3_server import S3Server, serving_s3

POSTGRES = os.environ.get("TEST_POSTGRES_URL", "postgresql+psycopg://postgres@127.0.0.1:5432/test")
REQUIRED = os.environ.get("REQUIRE_SERVICES") == "1"


def a_postgres_database() -> Iterator[str]:
    """The URL of a database of its own, dropped at the end."""
    url, name = make_url(POSTGRES), f"tunesmith_test_{secrets.token_hex(6)}"
    try:
        server = psycopg.connect(
            host=url.host, port=url.port, user=url.username, dbname=url.database, autocommit=True, connect_timeout=3
        )
    except psycopg.OperationalError:
        if REQUIRED:
            raise
        pytest.skip("no PostgreSQL answers")
    with server:
        server.execute(f"CREATE DATABASE {name}")
        server.execute(f"ALTER DATABASE {name} SET synchronous_commit = off")  # it need not outlive a power cut
        yield url.set(database=name).render_as_string(hide_password=False)
        server.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session", params=["sqlite", "postgres"])
def empty_database_url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a database without tables."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path_factory.mktemp('db') / 'test.db'}"
    else:
        yield from a_postgres_database()


@pytest.fixture(scope="session")
def database_url(empty_database_url: str) -> str:
    """The URL of a database with the newest schema."""
    upgrade(empty_database_url)
    return empty_database_url


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite file with the newest schema, to be copied: a migration takes longer than most tests."""
    file = tmp_path_factory.mktemp("migrated") / "tunesmith.db"
    upgrade(f"sqlite:///{file}")
    return file


@pytest.fixture
def migrated(settings: Settings, migrated_file: Path) -> Settings:
    """Settings of a home with a database that is migrated."""
    settings.root.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(migrated_file, settings.root / migrated_file.name)
    return settings


@pytest.fixture(scope="session")
def running_api(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """The API on that database. Tests have it through `api`."""
    with an_api(Settings(home=tmp_path_factory.mktemp("api")), database_url) as client:
        yield client


@pytest.fixture
def api(running_api: TestClient, database: Database, database_url: str, settings: Settings) -> Iterator[TestClient]:
    """The API with this test's home and limits; its bell only remembers.

    It was started once, which takes as long as ten requests. What a test puts into its state is gone after the test.
    """
    state: State = running_api.app.state  # type: ignore[attr-defined]
    before = {name: state[name] for name in state}
    state.settings = settings.model_copy(update={"database_url": database_url})
    state.notifier = RecordingNotifier()
    yield running_api
    for name, value in before.items():
        state[name] = value


@pytest.fixture(scope="session")
def database_engine(database_url: str) -> Iterator[Engine]:
    engine = make_engine(database_url)
    yield engine
    engine.dispose()


@pytest.fixture
def database(database_engine: Engine) -> Iterator[Database]:
    """An empty migrated database; its rows are gone after the test."""
    yield Database(database_engine)
    with database_engine.begin() as connection:
        for table in reversed(Base.metadata.sorted_tables):
            connection.execute(table.delete())


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture(scope="session")
def engine_process() -> Iterator[EngineProcess]:
    """For tests that need any engine process and leave it as it was: a start takes seconds."""
    with EngineProcess() as process:
        yield process


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with serving_s3(tmp_path_factory.mktemp("s3") / "objects") as server:
        yield server


@pytest.fixture
def s3(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """A server whose keys this process has. Each test has a prefix of its own (`with_store`)."""
    for name, value in s3_server.environment.items():
        if name.startswith("AWS_"):
            monkeypatch.setenv(name, value)
    return s3_server
