"""Stored secrets: what is encrypted, with which key, and what is said when the key is another one."""

import base64
import stat
from pathlib import Path

import pytest
from pydantic import ValidationError

from app.cli.errors import error_lines
from app.config import Settings
from app.encryption import open_encryption
from app.errors import ServiceError
from app.processes.encryption_keys import make_key_file

OLD, NEW = (base64.b64encode(bytes([number]) * 32).decode() for number in (1, 2))
SECRET = "hf_canary"


def with_key(settings: Settings, key: str) -> Settings:
    return settings.model_copy(update={"secret_key": key})


def test_what_is_encrypted_is_read_again_and_shows_nothing(settings: Settings) -> None:
    encryption = open_encryption(with_key(settings, NEW))

    stored = encryption.encrypt(SECRET)

    assert encryption.decrypt(stored) == SECRET
    assert SECRET not in stored
    assert stored != encryption.encrypt(SECRET)


def test_a_key_is_replaced_by_writing_the_new_one_first(settings: Settings) -> None:
    before = open_encryption(with_key(settings, OLD)).encrypt(SECRET)
    both = open_encryption(with_key(settings, f"{NEW}, {OLD}"))

    assert both.decrypt(before) == SECRET
    assert open_encryption(with_key(settings, NEW)).decrypt(both.encrypt(SECRET)) == SECRET


def test_another_key_is_named_as_the_cause(settings: Settings) -> None:
    stored = open_encryption(with_key(settings, OLD)).encrypt(SECRET)

    with pytest.raises(ServiceError, match="another key than TUNESMITH_SECRET_KEY") as refusal:
        open_encryption(with_key(settings, NEW)).decrypt(stored)

    assert (refusal.value.status, refusal.value.code) == (503, "wrong_secret_key")


def test_a_laptop_makes_its_key_once_for_its_user_alone(settings: Settings) -> None:
    stored = open_encryption(settings, may_make_key=True).encrypt(SECRET)

    assert open_encryption(settings).decrypt(stored) == SECRET
    assert open_encryption(settings, may_make_key=True).decrypt(stored) == SECRET
    assert stat.S_IMODE(settings.secret_key_path.stat().st_mode) == 0o600
    assert [path.name for path in settings.secret_key_path.parent.iterdir()] == ["secret.key"]


def test_of_two_processes_that_make_a_key_one_wins(tmp_path: Path) -> None:
    path = tmp_path / "run" / "secret.key"
    make_key_file(path)
    first = path.read_bytes()

    make_key_file(path)

    assert path.read_bytes() == first


def test_where_several_hosts_may_be_no_key_is_made(settings: Settings) -> None:
    several = settings.model_copy(update={"database_url": "postgresql+psycopg://me@db/x"})

    with pytest.raises(ServiceError, match="set TUNESMITH_SECRET_KEY to the same value") as refusal:
        open_encryption(several, may_make_key=True)

    assert refusal.value.code == "no_secret_key"
    assert not settings.secret_key_path.exists()


def test_a_damaged_key_file_is_named_and_not_replaced(settings: Settings) -> None:
    settings.secret_key_path.parent.mkdir(parents=True)
    settings.secret_key_path.write_text("damaged")

    with pytest.raises(ServiceError, match=r"secret\.key holds no key for secrets"):
        open_encryption(settings, may_make_key=True)

    assert settings.secret_key_path.read_text() == "damaged"


@pytest.mark.parametrize("key", ["c2hvcnQ=", "no base64 of 32 bytes !!!", ",", NEW + OLD])
def test_a_wrong_key_is_refused_without_its_value(key: str, tmp_path: Path) -> None:
    with pytest.raises(ValidationError) as refusal:
        Settings(home=tmp_path, secret_key=key)

    told = " ".join(error_lines(refusal.value))
    assert "32 random bytes in base64" in told
    assert key == "," or key not in told
