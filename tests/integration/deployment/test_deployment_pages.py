"""The commands of docs/kubernetes.md and docs/hosts.md, run as they are written before helm and docker-compose."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import ROOT
from tests.integration.conftest import REQUIRED
from tests.integration.deployment.test_deployment import SECRETS
from tests.support.pages import BLOCK

HELM = Path(sys.executable).with_name("helm")
# Clusters and registries are not asked: what kubectl is told is kept, and helm shows what it would make.
PRELUDE = """
set -eu
docker() { :; }
curl() { :; }
kubectl() { printf '%s\\0' "$@" >> "$HOME/kubectl"; printf '\\0' >> "$HOME/kubectl"; echo pod/tunesmith-api-1; }
helm() { shift; [ "$1" = --install ] && shift; "$HELM" template "$@" > "$HOME/objects.yaml"; }
cp -r "$CHARTS" deploy
"""
YAML_BLOCK = re.compile(r"^ *```yaml\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)


def blocks(page: str) -> list[str]:
    return BLOCK.findall((ROOT / "docs" / page).read_text())


def run(script: str, home: Path, **environment: str) -> None:
    env = {**os.environ, "HOME": str(home), **environment}
    done = subprocess.run(["bash", "-c", script], cwd=home, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def calls(home: Path) -> list[list[str]]:
    return [call.split("\0") for call in (home / "kubectl").read_text().split("\0\0")[:-1]]


def values_of(found: Any, key: str) -> list[Any]:
    """All values of a key, at any depth."""
    if isinstance(found, dict):
        return [value for name, each in found.items() for value in ([each] if name == key else values_of(each, key))]
    return [value for each in found for value in values_of(each, key)] if isinstance(found, list) else []


def test_the_commands_of_the_kubernetes_page_make_what_they_name(tmp_path: Path) -> None:
    run(PRELUDE + "".join(blocks("kubernetes.md")), tmp_path, HELM=str(HELM), CHARTS=str(ROOT / "deploy"))

    objects = [found for found in yaml.safe_load_all((tmp_path / "objects.yaml").read_text()) if found]
    kinds = {(found["kind"], found["metadata"]["name"]) for found in objects}
    made = {
        (call[5], word.removeprefix("--from-literal=").partition("=")[0])
        for call in calls(tmp_path)
        if "secret" in call
        for word in call
        if word.startswith("--from-literal=")
    }
    assert {(ref["name"], ref["key"]) for ref in values_of(objects, "secretKeyRef")} == made
    named = {word for call in calls(tmp_path) for word in call if word.startswith(("service/", "deploy/"))}
    assert named == {"service/tunesmith-api", "deploy/tunesmith-api"}
    assert {("Service", "tunesmith-api"), ("Deployment", "tunesmith-api"), ("StatefulSet", "tunesmith-engine")} <= kinds
    assert {("Deployment", "tunesmith-worker-l4"), ("Deployment", "tunesmith-worker-h100x8")} <= kinds
    assert set(values_of(objects, "image")) == {"registry.example/tunesmith:2", "registry.example/tunesmith-gpu:2"}


@pytest.mark.parametrize("file", ["docker-compose.yml", "compose.worker.yml"])
def test_compose_takes_the_files_that_the_page_of_hosts_adds(file: str, tmp_path: Path) -> None:
    added = [yaml.safe_load(found) for found in YAML_BLOCK.findall((ROOT / "docs" / "hosts.md").read_text())]
    known = set(yaml.safe_load((ROOT / file).read_text())["services"])
    (mine,) = [one for one in added if ("postgres" in one["services"]) == (file == "docker-compose.yml")]
    (tmp_path / "mine.yml").write_text(yaml.safe_dump(mine))

    done = compose(["-f", file, "-f", str(tmp_path / "mine.yml"), "config"])

    merged = yaml.safe_load(done.stdout)["services"]
    assert set(mine["services"]) <= known
    for name, service in mine["services"].items():
        assert [port.rpartition(":")[0] for port in service["ports"]] == [
            _published(port) for port in merged[name]["ports"]
        ]


def _published(port: str | dict[str, Any]) -> str:
    """The address and port of the host, in any of the forms in which Compose shows it."""
    return port.rpartition(":")[0] if isinstance(port, str) else f"{port['host_ip']}:{port['published']}"


def test_a_loop_starts_one_worker_for_each_gpu(tmp_path: Path) -> None:
    (loop,) = [block for block in blocks("hosts.md") if "for gpu in" in block]
    keep = f'docker() {{ shift; echo "$WORKER_GPU $*" >> "$HOME/docker"; }}\nWORKER_GPU=none\n{loop}'

    run(keep, tmp_path)

    build, *started = (tmp_path / "docker").read_text().splitlines()
    assert build.endswith(" build")
    assert len(started) == 3
    for line in started:
        gpu, _, words = line.partition(" ")
        assert f"-p tunesmith-gpu{gpu} " in words
        services = yaml.safe_load(compose(["-f", "compose.worker.yml", "config"], WORKER_GPU=gpu).stdout)["services"]
        devices = {name: values_of(services[name], "device_ids") for name in ("worker", "engine")}
        assert devices == {"worker": [[gpu]], "engine": [[gpu]]}
        assert f"trainer{gpu}@%h" in services["worker"]["command"]


def test_the_commands_of_an_installation_name_what_a_checkout_has() -> None:
    commands = "".join(blocks("operations.md"))
    paths = set(re.findall(r"/opt/tunesmith/(\S+)", commands))
    targets = set(re.findall(r"make -C /opt/tunesmith (\S+)", commands))

    assert "deploy/systemd/tunesmith.service" in paths
    assert [path for path in paths if not (ROOT / path).exists()] == []
    assert targets == {".venv/.ready"}
    assert "READY := .venv/.ready" in (ROOT / "Makefile").read_text()


def compose(words: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    if shutil.which("docker-compose") is None and not REQUIRED:
        pytest.skip("docker-compose is not installed")
    env = {"PATH": os.environ["PATH"], **SECRETS, **environment}
    done = subprocess.run(["docker-compose", *words], cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done
