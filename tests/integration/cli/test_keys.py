"""`tunesmith keys` on a database, and which key the other commands send to which service."""

import json
from pathlib import Path

import pytest

from app.access.keys import read_key
from app.cli.input import local_key
from app.config import Settings
from tests.integration.cli.conftest import Command
from tests.support.rest_service import RestService


@pytest.fixture
def home(migrated: Settings, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TUNESMITH_HOME", str(migrated.root))
    return migrated.root


def test_a_key_is_made_listed_and_revoked(tunesmith: Command, home: Path) -> None:
    made = tunesmith("keys", "create", "jane", "--project", "a", "--scopes", "read,generate")
    key = read_key(made.out.strip())
    assert key is not None

    assert tunesmith("keys", "revoke", key.key_id).code == 0

    (listed,) = json.loads(tunesmith("keys", "list", "--json").out)
    assert (listed["id"], listed["project"], listed["scopes"]) == (key.key_id, "a", ["generate", "read"])
    assert listed["revoked_at"] is not None
    shown = tunesmith("keys", "list").out
    assert "revoked" in shown
    assert key.secret not in shown
    assert (home / "run" / "secret.key").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("create", "n", "--scopes", "fly"), "scopes"),
        (("create", "n", "--project", "a b"), "project"),
        (("revoke", "key-x"), "there is no key 'key-x'"),
        (("revoke", "a\0b"), "there is no key"),
    ],
)
def test_what_cannot_be_is_named(tunesmith: Command, home: Path, arguments: tuple[str, ...], said: str) -> None:
    result = tunesmith("keys", *arguments)

    assert result.code == 1
    assert said in result.err


def test_a_command_sends_the_key_of_the_environment(
    tunesmith: Command, service: RestService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNESMITH_API_KEY", "ts_of_mine")

    tunesmith("jobs")

    assert service.authorization == "Bearer ts_of_mine"


def test_the_key_of_a_home_is_for_its_own_service_alone(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "key").write_text("ts_local")
    assert local_key(tmp_path, "http://127.0.0.1:8000") is None

    (tmp_path / "run" / "url").write_text("http://127.0.0.1:8000")

    assert local_key(tmp_path, "http://127.0.0.1:8000") == "ts_local"
    assert local_key(tmp_path, "http://127.0.0.1:8001") is None
