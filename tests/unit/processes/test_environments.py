"""Which variables a process gets: only what its row names."""

import pytest

from app.processes.environments import ROWS, SECRETS, Process, environment_of, is_secret, read_names

STRANGERS = (Process.CHECK, Process.TRAIN, Process.TEMPLATE, Process.RENDER, Process.GRAMMAR, Process.VLLM)
OUR_SECRETS = ("TUNESMITH_DATABASE_URL", "TUNESMITH_BROKER_URL", "TUNESMITH_ENGINE_KEY", "VLLM_API_KEY")
FETCHING = {Process.CHECKER, Process.TRAINER, Process.ENGINE, Process.CHECK, Process.FETCH}


def test_every_process_has_a_row() -> None:
    assert set(ROWS) == set(Process)


@pytest.mark.parametrize("process", STRANGERS)
@pytest.mark.parametrize("name", [*OUR_SECRETS, *(f"{name}_FILE" for name in OUR_SECRETS)])
def test_what_reads_strangers_files_gets_no_secret_of_the_service(process: Process, name: str) -> None:
    assert environment_of(process, {name: "x"}) == {}


@pytest.mark.parametrize("process", Process)
@pytest.mark.parametrize("name", ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH", "HTTPS_PROXY", "http_proxy"])
def test_tokens_and_proxies_are_only_where_something_is_fetched(process: Process, name: str) -> None:
    assert (name in environment_of(process, {name: "x"})) == (process in FETCHING)


@pytest.mark.parametrize("process", Process)
@pytest.mark.parametrize("name", ["PATH", "HOME", "LC_ALL", "TZ", "PYTHONPATH", "HF_HOME", "COVERAGE_PROCESS_START"])
def test_what_is_always_needed_is_everywhere(process: Process, name: str) -> None:
    assert environment_of(process, {name: "x"}) == {name: "x"}


@pytest.mark.parametrize("process", [Process.TRAIN, Process.ENGINE, Process.CHECK, Process.VLLM])
@pytest.mark.parametrize("name", ["CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "TORCH_LOGS", "TRITON_CACHE_DIR"])
def test_what_computes_gets_what_devices_listen_to(process: Process, name: str) -> None:
    assert environment_of(process, {name: "x"}) == {name: "x"}


@pytest.mark.parametrize("process", Process)
@pytest.mark.parametrize("name", ["AWS_SECRET_ACCESS_KEY", "SSH_AUTH_SOCK", "HF_HUB_TOKEN", "TORCH_TOKEN", "PASSWORD"])
def test_what_nobody_needs_is_nowhere(process: Process, name: str) -> None:
    assert environment_of(process, {name: "x"}) == {}


@pytest.mark.parametrize("process", Process)
def test_an_operator_lets_every_process_have_more(process: Process) -> None:
    assert environment_of(process, {"MINE": "1", "OTHER": "2"}, ["MINE"]) == {"MINE": "1"}


def test_names_are_read_with_commas() -> None:
    assert read_names(" A, B ,,C") == ["A", "B", "C"]


@pytest.mark.parametrize("name", ["HF_TOKEN", "TUNESMITH_DATABASE_URL", "TUNESMITH_HOME", "VLLM_API_KEY_FILE"])
def test_a_secret_cannot_be_passed_to_every_process(name: str) -> None:
    with pytest.raises(ValueError, match=f"found {name}, expected"):
        read_names(f"A,{name}")


@pytest.mark.parametrize("name", [*sorted(SECRETS), "TUNESMITH_DATABASE_URL_FILE", "GITHUB_TOKEN", "DB_PASSWORD"])
def test_a_secret_is_known_by_its_name(name: str) -> None:
    assert is_secret(name)
