"""Secrets come from variables or files and are shown nowhere; what a URL says of TLS reaches the clients."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from pydantic import ValidationError
from redis import Redis
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from app.cli.errors import error_lines
from app.config import Settings
from app.database.connection import make_engine
from app.jobs.queue.notifier import QUEUES, CeleryNotifier, make_celery
from app.jobs.states import Stage
from app.processes.broker import answers, open_broker
from app.processes.secret_files import read_secret
from tests.integration.conftest import POSTGRES, REQUIRED
from tests.support.waiting import wait_for

SECRET = "s3cret-word"
FILES = {
    "TUNESMITH_DATABASE_URL": ("database_url", f"postgresql+psycopg://me:{SECRET}@db/x"),
    "TUNESMITH_BROKER_URL": ("broker_url", f"rediss://:{SECRET}@broker:6380/0"),
    "TUNESMITH_ENGINE_KEY": ("engine_key", f"{SECRET}-{SECRET}"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_secret_comes_from_a_file(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    field, value = FILES[name]
    (tmp_path / "secret").write_text(f"{value}\n")
    monkeypatch.setenv(f"{name}_FILE", str(tmp_path / "secret"))

    settings = Settings(home=tmp_path)

    assert getattr(settings, field) == value
    assert SECRET not in repr(settings)


@pytest.mark.parametrize("name", ["VLLM_API_KEY", "TUNESMITH_ENGINE_KEY"])
def test_a_secret_that_is_set_to_nothing_is_none(name: str) -> None:
    assert read_secret(name, {name: ""}) is None


@pytest.mark.parametrize("content", [None, "", "\n"], ids=["missing", "empty", "a line end"])
def test_a_file_without_a_secret_is_named(content: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if content is not None:
        (tmp_path / "secret").write_text(content)
    monkeypatch.setenv("TUNESMITH_ENGINE_KEY_FILE", str(tmp_path / "secret"))

    with pytest.raises(ValidationError) as caught:
        Settings(home=tmp_path)

    assert f"TUNESMITH_ENGINE_KEY_FILE: the file {tmp_path / 'secret'}" in str(caught.value)


def test_a_secret_that_is_given_twice_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "secret").write_text(SECRET)
    monkeypatch.setenv("TUNESMITH_DATABASE_URL", f"sqlite:///{SECRET}")
    monkeypatch.setenv("TUNESMITH_DATABASE_URL_FILE", str(tmp_path / "secret"))

    with pytest.raises(ValidationError, match="are both set: set one of them") as caught:
        Settings(home=tmp_path)

    assert SECRET not in str(caught.value)


BAD = [
    {"database_url": f"postgresql+psycopg://me:1/{SECRET}@db/x"},
    {"broker_url": f"redis://:a#b/{SECRET}@host:6379"},
    {"engine_key": "short"},
    {"engine_key": f"{SECRET} {SECRET}"},
    {"database_url": f"postgresql+psycopg://me:{SECRET}@db/x", "lease_seconds": 1, "heartbeat_seconds": 1},
    {"database_url": f"postgresql+psycopg://me:{SECRET}@db/x", "engine_url": "http://gpu-host:8100"},
]


@pytest.mark.parametrize("values", BAD, ids=lambda values: " ".join(values))
def test_what_cannot_be_used_is_refused_without_the_secret(values: dict[str, object], tmp_path: Path) -> None:
    with pytest.raises(ValidationError) as caught:
        Settings.model_validate({"home": tmp_path, **values})

    told = [str(caught.value), *error_lines(caught.value)]
    assert not any(word in line for line in told for word in (SECRET, "'short'"))


def test_what_a_url_says_of_tls_reaches_postgresql() -> None:
    url = "postgresql+psycopg://me@db/x?sslmode=verify-full&sslrootcert=/etc/ca.pem&sslcert=/c.pem&sslkey=/k.pem"
    engine = make_engine(url)

    _, given = engine.dialect.create_connect_args(engine.url)

    wanted = {"sslmode": "verify-full", "sslrootcert": "/etc/ca.pem", "sslcert": "/c.pem", "sslkey": "/k.pem"}
    assert {name: given[name] for name in wanted} == wanted


def test_a_postgresql_without_tls_is_refused_where_tls_is_wanted() -> None:
    plain = make_engine(POSTGRES)
    try:
        with plain.connect() as connection:
            has_tls = connection.execute(text("SHOW ssl")).scalar() == "on"
    except (OperationalError, psycopg.Error):
        if REQUIRED:
            raise
        pytest.skip("no PostgreSQL answers")
    finally:
        plain.dispose()
    if has_tls:
        pytest.skip("this PostgreSQL has TLS")
    wanted = make_engine(f"{POSTGRES}?sslmode=require")

    with pytest.raises(OperationalError, match="does not support SSL"):
        wanted.connect()
    wanted.dispose()


@contextmanager
def over_tls(folder: Path, target: Path) -> Iterator[int]:
    """A port of localhost that speaks TLS before a unix socket; only `folder/ca.pem` vouches for its certificate."""
    words = ["-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    words += ["-addext", "subjectAltName=DNS:localhost"]
    files = ["-keyout", str(folder / "key.pem"), "-out", str(folder / "ca.pem")]
    subprocess.run(["openssl", "req", *words, *files], check=True, capture_output=True)
    words = [sys.executable, "-m", "tests.support.tls_proxy", str(folder / "ca.pem"), str(folder / "key.pem")]
    with subprocess.Popen([*words, str(target)], stdout=subprocess.PIPE, text=True) as proxy:
        assert proxy.stdout is not None
        yield int(proxy.stdout.readline())
        proxy.terminate()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_what_a_url_says_of_tls_reaches_the_broker(tmp_path: Path) -> None:
    path = Path("/tmp") / f"tls-{tmp_path.name[-20:]}" / "run" / "broker.sock"
    with open_broker(path) as broker, broker.start(tmp_path / "log"):
        wait_for("the broker answers", lambda: answers(path))
        with over_tls(tmp_path, path) as port, Redis(unix_socket_path=str(path)) as redis:
            strict = f"rediss://localhost:{port}/0?ssl_cert_reqs=required"
            for prefix, url in {"no:": strict, "yes:": f"{strict}&ssl_ca_certs={tmp_path / 'ca.pem'}"}.items():
                celery = make_celery(url, prefix)  # kombu keeps one pool for URLs that differ in TLS alone
                CeleryNotifier(celery).notify(Stage.TRAIN)
                celery.close()

            arrived = [redis.llen(f"{prefix}{QUEUES[Stage.TRAIN]}") for prefix in ("no:", "yes:")]
    assert arrived == [0, 1]
    shutil.rmtree(path.parents[1])
