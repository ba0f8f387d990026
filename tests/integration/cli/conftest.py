"""The command, and a small service that answers it in the shapes of the real one."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

from app.cli.main import main
from tests.support.rest_service import RestService
from tests.support.serving import serving


class CommandResult(NamedTuple):
    code: int
    out: str
    err: str


Command = Callable[..., CommandResult]


@pytest.fixture
def tunesmith(capsys: pytest.CaptureFixture[str]) -> Command:
    def run(*arguments: str) -> CommandResult:
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        captured = capsys.readouterr()
        return CommandResult(int(ended.value.code or 0), captured.out, captured.err)

    return run


@pytest.fixture(scope="session")
def running_service() -> Iterator[RestService]:
    found = RestService()
    with serving(found.app()) as found.url:
        yield found


@pytest.fixture
def service(running_service: RestService, monkeypatch: pytest.MonkeyPatch) -> RestService:
    """One that has seen no request yet, at the address that the command asks."""
    vars(running_service).update(vars(RestService(url=running_service.url)))
    monkeypatch.setenv("TUNESMITH_URL", running_service.url)
    return running_service
