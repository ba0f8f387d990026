"""Nobody else on the host can open what the service writes, whatever starts it and under whatever umask."""

import os
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from app.database.migrate import upgrade
from app.processes.private_files import keep_private
from tests.integration.engine.processes import free_port
from tests.support.waiting import wait_for

ENGINE_ELSEWHERE = "http://127.0.0.2:9"
NOBODY = 65534


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """As an older version left it: anybody may look into it."""
    home = tmp_path / "home"
    home.mkdir()
    upgrade(f"sqlite:///{home / 'tunesmith.db'}")
    (home / "tunesmith.db").chmod(0o644)
    home.chmod(0o755)
    return home


@contextmanager
def running(home: Path, *arguments: str) -> Iterator[None]:
    """A process of the service that inherits the most open umask there is; ended with the block."""
    environment = {
        **os.environ,
        "TUNESMITH_HOME": str(home),
        "TUNESMITH_ENGINE_URL": ENGINE_ELSEWHERE,
        "TUNESMITH_VERIFY": "off",
        "TUNESMITH_SLOT": "cpu0",
    }
    if arguments[0] == "celery":
        environment["TUNESMITH_BROKER_URL"] = "memory://"
    with (home.parent / "output").open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *arguments], env=environment, umask=0, stdout=output, stderr=output
        )
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(40)


def uploads(url: str) -> Callable[[], bool]:
    def upload() -> bool:
        with suppress(httpx.TransportError):
            answer = httpx.post(f"{url}/files", files={"file": ("rows.jsonl", b'{"text": "mine"}\n')}, trust_env=False)
            return answer.status_code == 201
        return False

    return upload


def by_up(home: Path) -> None:
    port = free_port()
    with running(home, "app.cli", "up", "--port", str(port)):
        wait_for("an upload is taken", uploads(f"http://127.0.0.1:{port}"), 60)
        wait_for("workers are there", lambda: len(list((home / "run" / "slots").glob("*.lock"))) == 2, 60)


def by_uvicorn(home: Path) -> None:
    port = free_port()
    with running(home, "uvicorn", "app.main:create_app", "--factory", "--port", str(port)):
        wait_for("an upload is taken", uploads(f"http://127.0.0.1:{port}"), 60)


def by_celery(home: Path) -> None:
    with running(
        home, "celery", "-A", "worker.supervising.celery_app", "worker", "-P", "threads", "-Q", "tunesmith.train"
    ):
        wait_for("the slot is there", lambda: list((home / "run" / "slots").glob("*.lock")), 60)


@pytest.mark.parametrize("start", [by_up, by_uvicorn, by_celery])
def test_only_the_services_own_user_can_open_its_files(home: Path, start: Callable[[Path], None]) -> None:
    start(home)

    assert len(list(home.rglob("*"))) > 1
    assert open_to_others(home) == {}


def open_to_others(folder: Path) -> dict[str, str]:
    return {
        str(path): oct(mode)
        for path in (folder, *folder.rglob("*"))
        if (mode := stat.S_IMODE(path.lstat().st_mode)) & 0o077 and not path.is_symlink()
    }


def test_only_the_services_own_user_can_open_a_backup_and_what_is_restored(home: Path, tmp_path: Path) -> None:
    copy, elsewhere = tmp_path / "copy", tmp_path / "elsewhere"
    (home / "models" / "mine").mkdir(parents=True)
    (home / "models" / "mine" / "config.json").write_text("{}")
    for command in (["backup", "--models", "--home", str(home)], ["restore", "--home", str(elsewhere)]):
        subprocess.run([sys.executable, "-m", "app.cli", *command, str(copy)], umask=0o022, check=True)

    assert (elsewhere / "models" / "mine" / "config.json").is_file()
    assert open_to_others(copy) == open_to_others(elsewhere) == {}


def test_a_home_that_was_adopted_stays_closed(home: Path) -> None:
    subprocess.run([sys.executable, "-m", "app.cli", "adopt", "--home", home], umask=0o022, check=True)

    assert open_to_others(home) == {}


def test_an_operators_folders_elsewhere_stay_as_they_are(home: Path, tmp_path: Path) -> None:
    models = tmp_path / "models"
    models.mkdir()
    models.chmod(0o755)

    keep_private(home, f"sqlite:///{home / 'tunesmith.db'}")

    assert stat.S_IMODE(models.stat().st_mode) == 0o755


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to somebody else")
def test_a_home_that_cannot_be_closed_is_told() -> None:
    code = (
        "import os, sys; from pathlib import Path; from app.processes.private_files import keep_private; "
        f"os.setuid({NOBODY}); print(keep_private(Path(sys.argv[1]), 'sqlite://'))"
    )
    with tempfile.TemporaryDirectory(dir="/tmp") as home:
        Path(home).chmod(0o755)

        told = subprocess.run([sys.executable, "-c", code, home], capture_output=True, text=True, check=True).stdout

    assert f"other users of this host can open {home} (mode 0755)" in told
    assert f"chmod 0700 {home}" in told
