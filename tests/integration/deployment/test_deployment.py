"""The compose files and the Dockerfile say only what exists, and leave no door open."""

import importlib.util
import os
import re
import shutil
import subprocess
from typing import Any

import pytest
import yaml

from app.config import PREFIX, Settings
from app.contracts.vllm import URL_VARIABLE
from app.jobs.queue.notifier import QUEUES
from app.processes.environments import STORE_KEYS
from tests import ROOT
from tests.integration.conftest import REQUIRED
from worker.inference.vllm.server import is_old

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
WORKER: dict[str, Any] = yaml.safe_load((ROOT / "compose.worker.yml").read_text())["services"]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
EVERYTHING = {**SERVICES, **{f"{name} of a worker's host": service for name, service in WORKER.items()}}
OURS = {name: service for name, service in EVERYTHING.items() if "build" in service}
# What has no default: a compose file that is started without it says so.
SECRETS = {
    "POSTGRES_PASSWORD": "a",
    "REDIS_PASSWORD": "b",
    "TUNESMITH_ENGINE_KEY": "c",
    "VLLM_API_KEY": "d",
    "TUNESMITH_SECRET_KEY": "e",
    "TUNESMITH_HOSTNAME": "gpu-b",
    "TUNESMITH_DATABASE_URL": "postgresql+psycopg://x/y",
    "TUNESMITH_BROKER_URL": "redis://x",
    "TUNESMITH_SHARED_HOME": "/srv",
}
# Where `vllm serve` listens unless it is told otherwise.
VLLM_PORT = 8000


def compose(file: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    if shutil.which("docker-compose") is None and not REQUIRED:
        pytest.skip("docker-compose is not installed")
    argv = ["docker-compose", "-f", file, "config", "-q"]
    env = {"PATH": os.environ["PATH"], **environment}
    return subprocess.run(argv, cwd=ROOT, env=env, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("file", ["docker-compose.yml", "compose.worker.yml"])
def test_compose_takes_the_file(file: str) -> None:
    told = compose(file, SECRETS)

    assert told.returncode == 0, told.stderr


@pytest.mark.parametrize(
    ("file", "name"),
    [
        (file, name)
        for file in ("docker-compose.yml", "compose.worker.yml")
        for name in SECRETS
        if f"${{{name}:?" in (ROOT / file).read_text()
    ],
)
def test_no_secret_and_no_address_of_another_host_has_a_default_or_is_empty(file: str, name: str) -> None:
    told = compose(file, {**SECRETS, name: ""})

    assert told.returncode != 0


@pytest.mark.parametrize("file", ["docker-compose.yml", "compose.worker.yml"])
def test_all_that_is_named_like_a_secret_has_to_be_given(file: str) -> None:
    """A token of the hub opens no door of ours, and most services have no store."""
    named = re.findall(r"\$\{(\w*(?:KEY|PASSWORD|SECRET)\w*)(:\??)?", (ROOT / file).read_text())
    secrets = [(name, check) for name, check in named if name not in STORE_KEYS]

    assert {name for name, check in secrets if check != ":?"} == set()
    assert {name for name, _ in secrets} <= set(SECRETS)


@pytest.mark.parametrize("service", EVERYTHING)
def test_a_container_has_no_rights_that_it_does_not_need(service: str) -> None:
    chosen = EVERYTHING[service]

    assert chosen["cap_drop"] == ["ALL"]
    assert ("cap_add" in chosen) == (service == "vllm")
    assert chosen["security_opt"] == ["no-new-privileges:true"]
    assert chosen["init"] is True
    assert chosen["logging"]["options"]["max-size"]
    assert "privileged" not in chosen


@pytest.mark.parametrize("service", [name for name in EVERYTHING if name != "vllm"])
def test_a_container_writes_to_volumes_and_memory_alone(service: str) -> None:
    chosen = EVERYTHING[service]

    assert chosen["read_only"] is True
    assert chosen["user"] not in ("root", "0")
    assert any(mount.startswith("/tmp") for mount in chosen["tmpfs"])
    assert chosen["pids_limit"]


@pytest.mark.parametrize("service", OURS)
def test_both_images_run_as_one_user(service: str) -> None:
    uid = OURS[service]["user"]

    assert re.findall(r"^USER (.+)$", DOCKERFILE, flags=re.MULTILINE) == [uid, uid]


def test_database_and_broker_are_in_a_network_without_a_way_out() -> None:
    assert COMPOSE["networks"]["store"] == {"internal": True}
    assert all(
        SERVICES[name]["networks"] == ["store"] and "ports" not in SERVICES[name] for name in ("postgres", "redis")
    )


@pytest.mark.parametrize("image", ["postgres", "redis"])
def test_an_image_of_others_is_pinned_by_its_digest(image: str) -> None:
    assert re.fullmatch(rf"{image}:[\d.]+@sha256:[0-9a-f]{{64}}", SERVICES[image]["image"])


def test_all_that_an_image_installs_has_a_hash() -> None:
    installs = re.findall(r"pip install (.+)", DOCKERFILE)

    assert re.fullmatch(r"python:[\w.-]+@sha256:[0-9a-f]{64}", re.findall(r"^FROM (\S+)", DOCKERFILE, flags=re.M)[0])
    assert all("--require-hashes" in line or "--no-deps --no-build-isolation" in line for line in installs)


@pytest.mark.parametrize("name", ["api", "gpu", "dev"])
def test_every_pinned_package_has_a_hash(name: str) -> None:
    pinned = re.split(r"\n(?=\S)", (ROOT / "requirements" / f"{name}.txt").read_text())

    assert all("--hash=sha256:" in entry for entry in pinned if not entry.startswith("#"))


def test_what_is_pinned_for_development_is_what_the_images_run() -> None:
    dev, gpu, api = (pins(name) for name in ("dev", "gpu", "api"))

    assert api.items() <= gpu.items() <= dev.items()


def pins(name: str) -> dict[str, str]:
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    return dict(re.findall(r"^([\w.-]+)==(\S+)", text, flags=re.MULTILINE))


def test_every_part_of_the_service_has_a_container() -> None:
    every_time = {name for name, service in SERVICES.items() if "profiles" not in service}

    assert every_time == {"postgres", "redis", "migrate", "api", "checker", "worker", "engine"}
    assert set(SERVICES) - every_time == {"vllm-engine", "vllm"}


@pytest.mark.parametrize("service", OURS)
def test_a_command_names_a_module_that_exists(service: str) -> None:
    command = OURS[service]["command"]

    assert command[:2] == ["python", "-m"]
    assert importlib.util.find_spec(command[2]) is not None


@pytest.mark.parametrize("service", ["checker", "worker"])
def test_a_worker_listens_to_a_queue_that_is_rung(service: str) -> None:
    command = SERVICES[service]["command"]

    assert command[command.index("-Q") + 1] in QUEUES.values()


@pytest.mark.parametrize("service", OURS)
def test_every_variable_is_one_that_the_settings_read(service: str) -> None:
    names = {name.removeprefix(PREFIX).lower() for name in OURS[service]["environment"] if name.startswith(PREFIX)}

    assert names <= set(Settings.model_fields)


@pytest.mark.parametrize("service", [name for name in EVERYTHING if name != "migrate"])
def test_all_that_stays_up_has_a_health_check(service: str) -> None:
    assert EVERYTHING[service]["healthcheck"]["test"]


@pytest.mark.parametrize("service", ["checker", "worker"])
def test_the_health_check_of_a_worker_asks_for_its_own_name(service: str) -> None:
    for services in (SERVICES, WORKER):
        command = services[service]["command"]

        assert command[command.index("-n") + 1] == f"{services[service]['healthcheck']['test'][-1]}@%h"


@pytest.mark.parametrize("service", ["worker", "engine", "vllm"])
def test_the_parts_that_compute_reserve_a_gpu(service: str) -> None:
    (device,) = SERVICES[service]["deploy"]["resources"]["reservations"]["devices"]

    assert device["capabilities"] == ["gpu"]
    assert len(device["device_ids"]) == 1


def test_vllm_is_a_version_that_keeps_adapters_out_of_the_base() -> None:
    name, _, version = SERVICES["vllm"]["image"].partition(":")

    assert name == "vllm/vllm-openai"
    assert not is_old(version.removeprefix("v"))


def test_vllm_is_reached_by_its_engine_alone_and_takes_its_key() -> None:
    server, engine = SERVICES["vllm"], SERVICES["vllm-engine"]
    others = [service for name, service in SERVICES.items() if name not in ("vllm", "vllm-engine")]

    assert "ports" not in server
    assert (server["networks"], engine["networks"]) == (["vllm"], ["default", "vllm"])
    assert not any("vllm" in service.get("networks", []) for service in others)
    assert server["environment"]["VLLM_API_KEY"] == engine["environment"]["VLLM_API_KEY"]
    assert engine["environment"][URL_VARIABLE] == f"${{{URL_VARIABLE}:-http://vllm:{VLLM_PORT}}}"


def test_vllm_loads_adapters_from_the_folders_that_the_engine_names() -> None:
    server, engine = SERVICES["vllm"], SERVICES["vllm-engine"]

    assert server["environment"]["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "1"
    assert "--enable-lora" in server["command"]
    assert "home:/var/lib/tunesmith:ro" in server["volumes"]
    assert server["cap_add"] == ["DAC_OVERRIDE"]  # root without it cannot open what is for user 10001 alone
    assert "home:/var/lib/tunesmith" in engine["volumes"]


def test_the_dockerfile_copies_only_what_exists() -> None:
    copied = re.findall(r"^COPY (.+) \S+$", DOCKERFILE, flags=re.MULTILINE)

    assert copied
    assert all((ROOT / path).exists() for line in copied for path in line.split())


def test_what_the_dockerfile_copies_is_not_left_out_by_dockerignore() -> None:
    copied = {
        path.split("/")[0]
        for line in re.findall(r"^COPY (.+) \S+$", DOCKERFILE, flags=re.MULTILINE)
        for path in line.split()
    }

    assert copied == {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}


@pytest.mark.parametrize("service", OURS)
def test_every_image_is_a_target_of_the_dockerfile(service: str) -> None:
    assert OURS[service]["build"]["target"] in re.findall(r"^FROM \S+ AS (\w+)", DOCKERFILE, flags=re.MULTILINE)
