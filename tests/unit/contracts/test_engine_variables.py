"""The variables that settings and engine read alike: those that let a vLLM answer, and the bound on the cache."""

import pytest
from pydantic import ValidationError

from app.config import PREFIX, Settings
from app.contracts.engine_cache import LEAST_BYTES, VARIABLE, read_bytes
from app.contracts.vllm import COMMAND_VARIABLE, ONE_OF_BOTH, URL_VARIABLE, VllmCommand, read_command, read_url

WRONG = [
    ({"vllm_url": "127.0.0.1:8200"}, "expected a URL such as"),
    ({"vllm_url": ""}, "expected a URL such as"),
    ({"vllm_command": "vllm"}, "expected a command such as"),
    ({"vllm_command": "serve"}, "expected a command such as"),
    ({"vllm_command": "vllm 'serve"}, "cannot be told apart"),
    ({"vllm_url": "http://127.0.0.1:8200", "vllm_command": "vllm serve"}, ONE_OF_BOTH),
]


@pytest.mark.parametrize(("chosen", "reason"), WRONG, ids=str)
def test_what_names_no_vllm_is_refused(chosen: dict[str, str], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        Settings.model_validate(chosen)


def test_the_variables_are_those_of_the_settings() -> None:
    assert {URL_VARIABLE, COMMAND_VARIABLE} == {PREFIX + name for name in ("VLLM_URL", "VLLM_COMMAND")}
    assert {"vllm_url", "vllm_command", VARIABLE.removeprefix(PREFIX).lower()} <= set(Settings.model_fields)


@pytest.mark.parametrize(
    ("text", "command"),
    [
        ("vllm serve", VllmCommand(("vllm", "serve"), ())),
        ("'/opt/my vllm' serve -tp 2", VllmCommand(("/opt/my vllm", "serve"), ("-tp", "2"))),
        ("env A=1 vllm serve --x serve", VllmCommand(("env", "A=1", "vllm", "serve"), ("--x", "serve"))),
    ],
)
def test_a_command_is_the_program_and_the_operators_options(text: str, command: VllmCommand) -> None:
    assert read_command(text) == command


def test_a_url_is_kept_as_it_is() -> None:
    assert read_url("https://gpu-host:8200/") == "https://gpu-host:8200/"


def test_the_bound_on_the_engines_cache_is_a_number_of_bytes() -> None:
    assert read_bytes(str(LEAST_BYTES)) == LEAST_BYTES


@pytest.mark.parametrize("text", ["", "1G", "-5", str(LEAST_BYTES - 1)])
def test_a_bound_that_is_none_is_refused_with_what_would_be_right(text: str) -> None:
    with pytest.raises(ValueError, match=f"expected a number of bytes, at least {LEAST_BYTES}"):
        read_bytes(text)
