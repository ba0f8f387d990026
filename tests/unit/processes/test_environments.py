"""Which variables a process gets: only what its row names."""

import pytest

from app.processes.environments import ROWS, SECRETS, STORE_KEYS, Process, environment_of, is_secret, read_names

# What reads strangers' files.
STRANGERS = {Process.CHECK, Process.TRAIN, Process.TEMPLATE, Process.RENDER, Process.GRAMMAR, Process.VLLM}
FETCHING = {Process.CHECKER, Process.TRAINER, Process.ENGINE, Process.CHECK, Process.FETCH}
COMPUTING = {Process.TRAIN, Process.ENGINE, Process.CHECK, Process.VLLM}
OUR_SECRETS = (
    "TUNESMITH_DATABASE_URL",
    "TUNESMITH_BROKER_URL",
    "TUNESMITH_ENGINE_KEY",
    "TUNESMITH_SECRET_KEY",
    "VLLM_API_KEY",
)
OF_THE_HUB = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH", "HTTPS_PROXY", "http_proxy")
OF_DEVICES = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "TORCH_LOGS", "TRITON_CACHE_DIR")
OF_ALL = ("PATH", "HOME", "LC_ALL", "TZ", "PYTHONPATH", "HF_HOME", "COVERAGE_PROCESS_START")
OF_NOBODY = ("AWS_SECRET_ACCESS_KEY", "SSH_AUTH_SOCK", "HF_HUB_TOKEN", "TORCH_TOKEN", "PASSWORD")


def who_gets(name: str, **others: str) -> set[Process]:
    return {process for process in Process if name in environment_of(process, {name: "x", **others})}


def test_every_process_has_a_row() -> None:
    assert set(ROWS) == set(Process)


@pytest.mark.parametrize("name", [*OUR_SECRETS, *(f"{name}_FILE" for name in OUR_SECRETS)])
def test_what_reads_strangers_files_gets_no_secret_of_the_service(name: str) -> None:
    assert who_gets(name).isdisjoint(STRANGERS)


@pytest.mark.parametrize("name", [*STORE_KEYS, *(f"{name}_FILE" for name in STORE_KEYS), "AWS_ROLE_ARN"])
def test_the_keys_of_the_store_are_where_files_are_moved_and_nowhere_else(name: str) -> None:
    with_a_store = who_gets(name, TUNESMITH_STORE_URL="s3://bucket")

    assert with_a_store == {Process.API, Process.CHECKER, Process.TRAINER, Process.ENGINE}
    assert who_gets(name) == set()


@pytest.mark.parametrize("name", OF_THE_HUB)
def test_tokens_and_proxies_are_only_where_something_is_fetched(name: str) -> None:
    assert who_gets(name) == FETCHING


@pytest.mark.parametrize("name", OF_DEVICES)
def test_what_computes_gets_what_devices_listen_to(name: str) -> None:
    assert who_gets(name) >= COMPUTING


def test_what_is_always_needed_is_everywhere_and_what_nobody_needs_is_nowhere() -> None:
    assert {name: who_gets(name) for name in OF_ALL} == {name: set(Process) for name in OF_ALL}
    assert {name: who_gets(name) for name in OF_NOBODY} == {name: set() for name in OF_NOBODY}


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
