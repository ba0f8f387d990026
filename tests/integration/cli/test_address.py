"""How the command finds the service, and what it says of an environment that it cannot use."""

from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from huggingface_hub import HfApi, close_session

from app import supervisor
from app.cli.main import main
from app.config import Settings
from app.processes.lock import CannotStart
from tests.support.rest_service import RestService
from worker.checking.hub import hub_errors
from worker.failures import SystemFault

Command = Callable[..., str]


@pytest.fixture
def service(service: RestService, monkeypatch: pytest.MonkeyPatch) -> RestService:
    monkeypatch.delenv("TUNESMITH_URL")
    return service


@pytest.fixture
def tunesmith(capsys: pytest.CaptureFixture[str]) -> Command:
    def run(*arguments: str) -> str:
        """What it prints; an error behind its exit code."""
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        captured = capsys.readouterr()
        return f"{ended.value.code}: {captured.err}" if ended.value.code else captured.out

    return run


@pytest.mark.parametrize(
    "form", ["{url}", "{url}/", "{url}/v1", "{url}/v1/", "127.0.0.1:{port}", "localhost:{port}/v1"]
)
def test_a_url_is_taken_as_people_write_it(
    service: RestService, tunesmith: Command, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    url = form.format(url=service.url, port=urlsplit(service.url).port)
    monkeypatch.setenv("TUNESMITH_URL", url)

    assert "job-1" in tunesmith("jobs")
    assert "job-1" in tunesmith("jobs", "--url", url)


def test_the_service_is_where_its_own_variables_put_it(
    service: RestService, tunesmith: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNESMITH_HOST", "0.0.0.0")
    monkeypatch.setenv("TUNESMITH_PORT", str(urlsplit(service.url).port))

    assert "job-1" in tunesmith("jobs")


@pytest.mark.parametrize(
    ("name", "value", "output"),
    [
        ("TUNESMITH_URL", "ftp://host", "--url or TUNESMITH_URL: found 'ftp://host', expected a URL such as"),
        ("TUNESMITH_URL", "localhost:abc", "--url or TUNESMITH_URL: found 'localhost:abc', expected a URL such as"),
        ("TUNESMITH_PORT", "abc", "TUNESMITH_PORT: found 'abc', expected a valid integer"),
        ("TUNESMITH_PORT", "0", "TUNESMITH_PORT is 0, any free port: TUNESMITH_URL or --url says which one"),
    ],
)
def test_an_address_that_is_none_names_its_variable(
    tunesmith: Command, monkeypatch: pytest.MonkeyPatch, name: str, value: str, output: str
) -> None:
    monkeypatch.setenv(name, value)

    assert tunesmith("jobs").startswith(f"1: {output}")


BROKEN = [
    ("ALL_PROXY", "socks5://me:secret@127.0.0.1:1080"),
    ("HTTPS_PROXY", "ftp://host"),
    ("NO_PROXY", "localhost,fd07:b51a:cc66:f0::/64"),
]


@pytest.mark.parametrize(("name", "value"), BROKEN)
def test_no_proxy_stands_before_this_host(
    service: RestService, tunesmith: Command, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)

    assert "job-1" in tunesmith("jobs", "--url", service.url)


@pytest.mark.parametrize(("name", "value"), BROKEN)
def test_a_broken_proxy_is_told_by_its_variable_and_never_its_value(
    tunesmith: Command, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)

    output = tunesmith("jobs", "--url", "http://gpu-host.invalid:8000")

    assert output.startswith(f"1: {name} of the environment cannot be used: ")
    assert "secret" not in output


@pytest.mark.parametrize(("name", "value"), BROKEN)
def test_a_check_that_cannot_use_the_proxy_of_the_hub_names_its_variable(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    close_session()  # the client of an earlier test

    with pytest.raises(SystemFault, match=f"{name} of the environment cannot be used"), hub_errors("a/b", "model"):
        HfApi().model_info("a/b")


def test_a_port_that_is_taken_is_told_by_its_variable_and_leaves_no_home(service: RestService, tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home", port=urlsplit(service.url).port)

    with pytest.raises(CannotStart, match="is in use; choose another with TUNESMITH_PORT"):
        supervisor.up(settings, print)

    assert not settings.root.exists()


def test_who_is_to_answer_is_asked_for_in_the_words_of_the_command(service: RestService, tunesmith: Command) -> None:
    assert tunesmith("generate", "hi") == "1: give exactly one of --adapter and --model\n"
    assert service.requests == []


def no_home() -> Path:
    raise RuntimeError


def test_a_user_without_a_home_is_told_what_to_set(tunesmith: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "home", no_home)

    output = "1: TUNESMITH_HOME: found '~/.tunesmith', expected a folder for all state: this user has no home"
    assert tunesmith("up").startswith(output)


def test_a_user_without_a_home_needs_none_beside_the_folder_that_is_set(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(Path, "home", no_home)

    assert Settings(home=tmp_path).root == tmp_path
