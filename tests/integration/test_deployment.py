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
from app.jobs.queue import QUEUES
from tests.integration.conftest import REQUIRED

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
DOCKERFILES = ["Dockerfile", "Dockerfile.gpu"]


def test_compose_takes_the_file() -> None:
    if shutil.which("docker-compose") is None and not REQUIRED:
        pytest.skip("docker-compose is not installed")
    told = subprocess.run(["docker-compose", "config", "-q"], cwd=ROOT, capture_output=True, text=True, check=False)

    assert told.returncode == 0, told.stderr


def test_every_part_of_the_service_has_a_container() -> None:
    assert set(SERVICES) == {"postgres", "redis", "migrate", "api", "checker", "worker", "engine"}


@pytest.mark.parametrize("service", ["migrate", "api", "checker", "worker", "engine"])
def test_a_command_names_a_module_that_exists(service: str) -> None:
    command = SERVICES[service]["command"]

    assert command[:2] == ["python", "-m"]
    assert importlib.util.find_spec(command[2]) is not None


@pytest.mark.parametrize("service", ["checker", "worker"])
def test_a_worker_listens_to_a_queue_that_is_rung(service: str) -> None:
    command = SERVICES[service]["command"]

    assert command[command.index("-Q") + 1] in QUEUES.values()


@pytest.mark.parametrize("service", ["migrate", "api", "checker", "worker", "engine"])
def test_every_variable_is_one_that_the_settings_read(service: str) -> None:
    names = {name.removeprefix(PREFIX).lower() for name in SERVICES[service]["environment"] if name.startswith(PREFIX)}

    assert names <= set(Settings.model_fields)


@pytest.mark.parametrize("service", ["postgres", "redis", "api", "engine"])
def test_what_others_wait_for_has_a_health_check(service: str) -> None:
    assert SERVICES[service]["healthcheck"]["test"]


@pytest.mark.parametrize("service", ["worker", "engine"])
def test_the_parts_that_compute_reserve_a_gpu(service: str) -> None:
    devices = SERVICES[service]["deploy"]["resources"]["reservations"]["devices"]

    assert devices[0]["capabilities"] == ["gpu"]


@pytest.mark.parametrize("name", DOCKERFILES)
def test_a_dockerfile_copies_only_what_exists(name: str) -> None:
    copied = re.findall(r"^COPY (.+) \S+$", (ROOT / name).read_text(), flags=re.MULTILINE)

    assert copied
    assert all((ROOT / path).exists() for line in copied for path in line.split())


def test_every_file_that_compose_builds_from_exists() -> None:
    builds = {service["build"]["dockerfile"] for service in SERVICES.values() if "build" in service}

    assert builds == set(DOCKERFILES)
