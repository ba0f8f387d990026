"""The compose file and the Dockerfiles say only what exists."""

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.config import PREFIX, Settings
from app.contracts.vllm import URL_VARIABLE
from app.jobs.queue import QUEUES
from tests.integration.conftest import REQUIRED
from worker.inference.vllm.served import is_old

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
DOCKERFILES = ["Dockerfile", "Dockerfile.gpu"]
# Where `vllm serve` listens unless it is told otherwise.
VLLM_PORT = 8000


def test_compose_takes_the_file() -> None:
    if shutil.which("docker-compose") is None and not REQUIRED:
        pytest.skip("docker-compose is not installed")
    told = subprocess.run(["docker-compose", "config", "-q"], cwd=ROOT, capture_output=True, text=True, check=False)

    assert told.returncode == 0, told.stderr


def test_every_part_of_the_service_has_a_container() -> None:
    every_time = {name for name, service in SERVICES.items() if "profiles" not in service}

    assert every_time == {"postgres", "redis", "migrate", "api", "checker", "worker", "engine"}
    assert set(SERVICES) - every_time == {"vllm-engine", "vllm"}


@pytest.mark.parametrize("service", ["migrate", "api", "checker", "worker", "engine", "vllm-engine"])
def test_a_command_names_a_module_that_exists(service: str) -> None:
    command = SERVICES[service]["command"]

    assert command[:2] == ["python", "-m"]
    assert importlib.util.find_spec(command[2]) is not None


@pytest.mark.parametrize("service", ["checker", "worker"])
def test_a_worker_listens_to_a_queue_that_is_rung(service: str) -> None:
    command = SERVICES[service]["command"]

    assert command[command.index("-Q") + 1] in QUEUES.values()


@pytest.mark.parametrize("service", ["migrate", "api", "checker", "worker", "engine", "vllm-engine"])
def test_every_variable_is_one_that_the_settings_read(service: str) -> None:
    names = {name.removeprefix(PREFIX).lower() for name in SERVICES[service]["environment"] if name.startswith(PREFIX)}

    assert names <= set(Settings.model_fields)


@pytest.mark.parametrize("service", ["postgres", "redis", "api", "engine", "vllm-engine", "vllm"])
def test_what_others_wait_for_has_a_health_check(service: str) -> None:
    assert SERVICES[service]["healthcheck"]["test"]


@pytest.mark.parametrize("service", ["worker", "engine", "vllm"])
def test_the_parts_that_compute_reserve_a_gpu(service: str) -> None:
    devices = SERVICES[service]["deploy"]["resources"]["reservations"]["devices"]

    assert devices[0]["capabilities"] == ["gpu"]


def test_vllm_is_a_version_that_keeps_adapters_out_of_the_base() -> None:
    name, _, version = SERVICES["vllm"]["image"].partition(":")

    assert name == "vllm/vllm-openai"
    assert not is_old(version.removeprefix("v"))


def test_vllm_is_reached_by_its_engine_alone_and_takes_its_key() -> None:
    server, engine = SERVICES["vllm"], SERVICES["vllm-engine"]
    others = [service for name, service in SERVICES.items() if name not in ("vllm", "vllm-engine")]

    assert "ports" not in server
    assert (server["networks"], engine["networks"]) == (["vllm"], ["default", "vllm"])
    assert not any("networks" in service for service in others)
    assert server["environment"]["VLLM_API_KEY"] == engine["environment"]["VLLM_API_KEY"]
    assert engine["environment"][URL_VARIABLE] == f"${{{URL_VARIABLE}:-http://vllm:{VLLM_PORT}}}"


def test_vllm_loads_adapters_from_the_folders_that_the_engine_names() -> None:
    server, engine = SERVICES["vllm"], SERVICES["vllm-engine"]

    assert server["environment"]["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "1"
    assert "--enable-lora" in server["command"]
    assert "home:/var/lib/tunesmith:ro" in server["volumes"]
    assert "home:/var/lib/tunesmith" in engine["volumes"]


@pytest.mark.parametrize("name", DOCKERFILES)
def test_a_dockerfile_copies_only_what_exists(name: str) -> None:
    copied = re.findall(r"^COPY (.+) \S+$", (ROOT / name).read_text(), flags=re.MULTILINE)

    assert copied
    assert all((ROOT / path).exists() for line in copied for path in line.split())


def test_every_file_that_compose_builds_from_exists() -> None:
    builds = {service["build"]["dockerfile"] for service in SERVICES.values() if "build" in service}

    assert builds == set(DOCKERFILES)
