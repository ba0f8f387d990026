"""The migrations and the models say the same, on both databases, in both directions."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import inspect

from app.db import make_engine
from app.migrate import check, downgrade, upgrade
from tests.integration.conftest import a_postgres_database


@pytest.fixture(params=["sqlite", "postgres"])
def fresh_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'fresh.db'}"
    else:
        yield from a_postgres_database()


def tables(url: str) -> set[str]:
    engine = make_engine(url)
    names = set(inspect(engine).get_table_names())
    engine.dispose()
    return names - {"alembic_version"}


def test_the_models_have_nothing_that_the_migrations_lack(fresh_url: str) -> None:
    upgrade(fresh_url)

    check(fresh_url)
    of_jobs = {"jobs", "attempts", "job_events", "checkpoints", "idempotency_keys", "workers"}
    assert tables(fresh_url) == {*of_jobs, "files", "adapters"}


def test_every_migration_can_be_undone_and_done_again(fresh_url: str) -> None:
    upgrade(fresh_url)
    downgrade(fresh_url, "base")
    assert tables(fresh_url) == set()
    upgrade(fresh_url)
    assert tables(fresh_url)


def test_migrating_twice_is_the_same_as_once(fresh_url: str) -> None:
    upgrade(fresh_url)
    upgrade(fresh_url)

    check(fresh_url)
