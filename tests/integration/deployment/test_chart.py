"""The Helm chart makes only objects that Kubernetes takes, which fit together and leave no door open."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from sqlalchemy import text

from app.config import PREFIX, Settings
from app.database.connection import Database, utc_now
from app.jobs.states import JobStatus
from app.processes.environments import ROWS, Process, is_secret
from app.processes.guardian import KILL_WAIT_SECONDS
from tests import ROOT
from tests.integration.deployment.test_deployment import SERVICES, WORKER
from tests.integration.engine.processes import KEY, EngineProcess
from tests.support.jobs import add_job

CHART = ROOT / "deploy" / "helm" / "tunesmith"
VALUES = sorted((CHART / "ci").glob("*.yaml"))
HELM = Path(sys.executable).with_name("helm")
# The oldest version that Chart.yaml allows, and the newest that is known.
VERSIONS = ("1.27.0", kubernetes_validate.latest_version())
WORKLOADS = ("Deployment", "StatefulSet", "Job")
PROCESSES = {
    "api": Process.API,
    "checker": Process.CHECKER,
    "worker": Process.TRAINER,
    "engine": Process.ENGINE,
}
ENGINES_OF_COMPOSE = ((SERVICES, "engine"), (SERVICES, "vllm-engine"), (WORKER, "engine"))
Object = dict[str, Any]


def helm(command: str, *arguments: str, values: Path = VALUES[0]) -> subprocess.CompletedProcess[str]:
    words = [str(HELM), command, *(["t"] if command == "template" else []), str(CHART), "-f", str(values), *arguments]
    return subprocess.run(words, capture_output=True, text=True, check=False)


def rendered(values: Path, *arguments: str) -> list[Object]:
    done = helm("template", *arguments, values=values)
    assert done.returncode == 0, done.stderr
    return [found for found in yaml.safe_load_all(done.stdout) if found is not None]


@pytest.fixture(scope="module", params=VALUES, ids=lambda path: path.stem)
def objects(request: pytest.FixtureRequest) -> list[Object]:
    return rendered(request.param)


@pytest.fixture(scope="module")
def everything() -> list[Object]:
    return rendered(CHART / "ci" / "everything.yaml")


def of_kind(objects: list[Object], *kinds: str) -> list[Object]:
    return [found for found in objects if found["kind"] in kinds]


def component(found: Object) -> str:
    return str(found["metadata"]["labels"]["app.kubernetes.io/component"])


def pods(objects: list[Object]) -> Iterator[tuple[Object, Object]]:
    """Each pod template, with what makes pods of it."""
    for workload in of_kind(objects, *WORKLOADS):
        yield workload, workload["spec"]["template"]


def containers(objects: list[Object]) -> list[tuple[Object, Object]]:
    return [(workload, one) for workload, pod in pods(objects) for one in pod["spec"]["containers"]]


def environment(container: Object) -> dict[str, Object]:
    return {variable["name"]: variable for variable in container["env"]}


def matches(selector: dict[str, str], labels: dict[str, str]) -> bool:
    return selector.items() <= labels.items()


@pytest.mark.parametrize("values", VALUES, ids=lambda path: path.stem)
def test_helm_finds_no_fault(values: Path) -> None:
    done = helm("lint", "--strict", values=values)

    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_takes_every_object(objects: list[Object], version: str) -> None:
    ours = [found for found in objects if "keda.sh" not in found["apiVersion"] and "coreos" not in found["apiVersion"]]

    assert len(ours) > 10
    for found in ours:
        kubernetes_validate.validate(found, version, strict=True)


def test_every_part_of_the_service_has_pods(objects: list[Object]) -> None:
    assert {component(workload) for workload, _ in pods(objects)} == {*PROCESSES, "migrate"}


def test_names_are_given_once(objects: list[Object]) -> None:
    names = [(found["kind"], found["metadata"]["name"]) for found in objects]

    assert len(names) == len(set(names))


def test_a_container_has_no_rights_that_it_does_not_need(objects: list[Object]) -> None:
    for _, container in containers(objects):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["limits"]["memory"]
        assert {mount["mountPath"] for mount in container["volumeMounts"]} >= {"/tmp"}


def test_a_pod_runs_as_the_user_of_the_image_and_knows_nothing_of_the_cluster(objects: list[Object]) -> None:
    (uid,) = set(re.findall(r"^USER (\d+):\d+$", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE))

    for _, pod in pods(objects):
        chosen = pod["spec"]["securityContext"]
        assert (chosen["runAsNonRoot"], chosen["runAsUser"], chosen["seccompProfile"]) == (
            True,
            int(uid),
            {"type": "RuntimeDefault"},
        )
        assert pod["spec"]["automountServiceAccountToken"] is False
        # Otherwise a Service named tunesmith-api adds TUNESMITH_API_PORT, which the settings refuse.
        assert pod["spec"]["enableServiceLinks"] is False
        assert pod["spec"]["shareProcessNamespace"] is True  # as Compose's `init`
    assert [account["automountServiceAccountToken"] for account in of_kind(objects, "ServiceAccount")] == [False]


def test_all_that_is_mounted_is_a_volume_and_home_and_locks_are_where_they_belong(objects: list[Object]) -> None:
    for workload, pod in pods(objects):
        volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
        (container,) = pod["spec"]["containers"]
        mounts = {mount["mountPath"]: volumes[mount["name"]] for mount in container["volumeMounts"]}

        home = environment(container)["TUNESMITH_HOME"]["value"]
        is_shared = "persistentVolumeClaim" in mounts.get("/var/lib/tunesmith", {})
        if component(workload) == "migrate":
            assert home.startswith("/tmp/")
        elif is_shared:
            assert (home, mounts["/var/lib/tunesmith/run"]["emptyDir"]) == ("/var/lib/tunesmith", {})
        else:
            assert home.startswith("/var/lib/tunesmith/")
            assert "TUNESMITH_STORE_URL" in environment(container)


def test_all_that_stays_up_has_probes(objects: list[Object]) -> None:
    for workload, container in containers(objects):
        if workload["kind"] != "Job":
            assert {"startupProbe", "livenessProbe"} <= set(container)
        if component(workload) in ("api", "engine"):
            assert "readinessProbe" in container
    (api,) = [container for workload, container in containers(objects) if component(workload) == "api"]
    assert (api["livenessProbe"]["httpGet"]["path"], api["readinessProbe"]["httpGet"]["path"]) == (
        "/healthz",
        "/readyz",
    )


def test_a_probe_asks_for_its_own_worker_and_a_container_runs_what_compose_runs(objects: list[Object]) -> None:
    for workload, container in containers(objects):
        command = container["command"]
        in_compose = [word.replace("${WORKER_GPU:-0}", "0") for word in SERVICES[component(workload)]["command"]]

        assert command == in_compose[: len(command)]
        if "-n" in command:
            probe = container["livenessProbe"]["exec"]["command"]
            assert command[command.index("-n") + 1] == f"{probe[-1]}@%h"
            assert container["startupProbe"]["exec"]["command"] == probe


def test_an_engine_is_asked_with_its_key_in_every_deployment(
    objects: list[Object], engine_process: EngineProcess
) -> None:
    (engine,) = [container for workload, container in containers(objects) if component(workload) == "engine"]
    probes = [engine[probe]["exec"]["command"] for probe in ("startupProbe", "livenessProbe", "readinessProbe")]
    probes += [services[name]["healthcheck"]["test"][1:] for services, name in ENGINES_OF_COMPOSE]
    (command,) = {json.dumps(probe) for probe in probes}

    program = json.loads(command)[-1].replace("8100", str(engine_process.port))
    codes = [
        subprocess.run(
            [sys.executable, "-c", program], env={"TUNESMITH_ENGINE_KEY": key}, stderr=subprocess.PIPE
        ).returncode
        for key in (KEY, "another-key-of-an-engine")
    ]

    assert codes == [0, 1]


@pytest.mark.parametrize("name", ["api", "checker", "worker"])
def test_a_process_starts_with_the_variables_of_its_container(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (container,) = [
        container
        for workload, container in containers(rendered(CHART / "ci" / "shared-home.yaml"))
        if component(workload) == name
    ]
    secrets = {
        "TUNESMITH_DATABASE_URL": "postgresql+psycopg://me@db/x",
        "TUNESMITH_BROKER_URL": "rediss://broker",
        "TUNESMITH_ENGINE_KEY": "k" * 32,
        "TUNESMITH_SECRET_KEY": "a" * 43 + "=",
    }
    for variable, chosen in environment(container).items():
        monkeypatch.setenv(variable, chosen.get("value") or secrets[variable])

    settings = Settings()

    assert settings.database == secrets["TUNESMITH_DATABASE_URL"]
    assert [str(settings.home), settings.trust_network] == ["/var/lib/tunesmith", True]


def test_every_variable_is_one_that_the_settings_read(objects: list[Object]) -> None:
    found = {name for _, container in containers(objects) for name in environment(container) if name.startswith(PREFIX)}

    assert {name.removeprefix(PREFIX).lower() for name in found} <= set(Settings.model_fields)


def test_a_container_has_the_secrets_of_its_process_alone_and_all_from_secrets(objects: list[Object]) -> None:
    for workload, container in containers(objects):
        secrets = {name: variable for name, variable in environment(container).items() if is_secret(name)}
        known = {name for name in secrets if not name.startswith("AWS_") and name != "TUNESMITH_SECRET_KEY"}

        assert all(set(variable) == {"name", "valueFrom"} for variable in secrets.values())
        if component(workload) == "migrate":
            assert set(secrets) == {"TUNESMITH_DATABASE_URL"}
        else:
            assert all(ROWS[PROCESSES[component(workload)]].have(name) for name in known)


def test_the_engines_are_named_as_their_pods_are_and_know_their_names(objects: list[Object], tmp_path: Path) -> None:
    (engine,) = of_kind(objects, "StatefulSet")
    (service,) = [one for one in of_kind(objects, "Service") if component(one) == "engine"]
    name, port = engine["metadata"]["name"], service["spec"]["ports"][0]["port"]
    hosts = [f"{name}-{place}.{service['metadata']['name']}" for place in range(engine["spec"]["replicas"])]
    urls = {
        environment(container)["TUNESMITH_ENGINE_URL"]["value"]
        for workload, container in containers(objects)
        if component(workload) in ("api", "worker")
    }

    (container,) = engine["spec"]["template"]["spec"]["containers"]
    assert service["spec"]["clusterIP"] == "None"
    assert engine["spec"]["serviceName"] == service["metadata"]["name"]
    assert urls == {",".join(f"http://{host}:{port}" for host in hosts)}
    assert environment(container)["TUNESMITH_ALLOWED_HOSTS"]["value"].split(",") == hosts
    settings = Settings(home=tmp_path, engine_url=urls.pop(), engine_key="k" * 16, trust_network=True)
    assert [address.name for address in settings.engines] == [f"{host}:{port}" for host in hosts]


def test_selectors_find_the_pods_that_are_meant_and_no_others(objects: list[Object]) -> None:
    templates = list(pods(objects))
    for workload in of_kind(objects, "Deployment", "StatefulSet"):
        selector = workload["spec"]["selector"]["matchLabels"]
        found = [owner["metadata"]["name"] for owner, pod in templates if matches(selector, pod["metadata"]["labels"])]
        assert found == [workload["metadata"]["name"]]
    for chosen in of_kind(objects, "PodDisruptionBudget", "Service"):
        selector = chosen["spec"]["selector"].get("matchLabels", chosen["spec"]["selector"])
        owners = [owner["metadata"]["name"] for owner, pod in templates if matches(selector, pod["metadata"]["labels"])]
        assert owners == [chosen["metadata"]["name"]]


def test_a_service_names_a_port_of_its_pods(objects: list[Object]) -> None:
    ports = {
        component(workload): {port["name"]: port["containerPort"] for port in container.get("ports", [])}
        for workload, container in containers(objects)
    }

    for service in of_kind(objects, "Service"):
        assert all(port["targetPort"] in ports[component(service)] for port in service["spec"]["ports"])
    assert ports["engine"] == {"engine": 8100}


def test_every_pod_may_do_only_what_a_policy_names(everything: list[Object]) -> None:
    policies = of_kind(everything, "NetworkPolicy")
    (common,) = [policy for policy in policies if policy["metadata"]["name"] == "t-tunesmith"]
    for workload, pod in pods(everything):
        labels = pod["metadata"]["labels"]
        applied = [policy for policy in policies if matches(policy["spec"]["podSelector"]["matchLabels"], labels)]
        (own,) = [policy for policy in applied if policy is not common]

        assert common in applied
        assert own["spec"]["policyTypes"] == ["Ingress", "Egress"]
        assert ("ingress" in own["spec"]) == (component(workload) in ("api", "engine"))
    assert (common["spec"]["policyTypes"], "ingress" in common["spec"]) == (["Ingress", "Egress"], False)


def test_policies_name_the_ports_and_the_pods_of_this_release(everything: list[Object]) -> None:
    policies = {one["metadata"]["name"].rpartition("-")[2]: one["spec"] for one in of_kind(everything, "NetworkPolicy")}
    out = {name: {rule["ports"][0]["port"] for rule in spec["egress"]} for name, spec in policies.items()}

    assert out["api"] == {6432, 6379, 9000, 8100, 443}  # 443: what the values add
    assert out["checker"] == {6432, 6379, 9000, 443}
    assert out["worker"] == {6432, 6379, 9000, 443, 8100}
    assert out["engine"] == {9000, 443}
    assert out["migrate"] == {6432}
    (rule,) = policies["engine"]["ingress"]
    clients = [peer["podSelector"]["matchLabels"]["app.kubernetes.io/component"] for peer in rule["from"]]
    assert (rule["ports"][0]["port"], clients) == ("engine", ["api", "worker"])
    (rule,) = policies["api"]["ingress"]
    assert rule["ports"][0]["port"] == "http"
    assert all(rule["from"])  # an empty list of peers, or an empty peer, would let everybody in


def test_a_worker_has_time_for_its_checkpoint_and_no_pod_more_beside_it(objects: list[Object]) -> None:
    for worker in [one for one in of_kind(objects, "Deployment") if component(one) == "worker"]:
        pod = worker["spec"]["template"]["spec"]
        grace = float(environment(pod["containers"][0])["TUNESMITH_GRACE_SECONDS"]["value"])

        assert pod["terminationGracePeriodSeconds"] >= grace + KILL_WAIT_SECONDS + 30
        assert worker["spec"]["strategy"]["rollingUpdate"]["maxSurge"] == 0
        resources = pod["containers"][0]["resources"]
        assert resources["limits"]["nvidia.com/gpu"] == resources["requests"]["nvidia.com/gpu"] > 0


def test_the_database_is_migrated_before_anything_changes(objects: list[Object]) -> None:
    (job,) = of_kind(objects, "Job")

    assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
    # What the release makes is not there yet when it is installed.
    assert "serviceAccountName" not in job["spec"]["template"]["spec"]
    assert "persistentVolumeClaim" not in json.dumps(job)


def test_keda_and_prometheus_are_told_of_what_is_there(everything: list[Object]) -> None:
    names = {found["metadata"]["name"] for found in of_kind(everything, "Deployment")}
    (authentication,) = of_kind(everything, "TriggerAuthentication")
    scaled = of_kind(everything, "ScaledObject")
    (monitor,) = of_kind(everything, "ServiceMonitor")
    (service,) = [one for one in of_kind(everything, "Service") if component(one) == "api"]

    assert {one["spec"]["scaleTargetRef"]["name"] for one in scaled} == {n for n in names if "-worker-" in n}
    assert {one["spec"]["triggers"][0]["authenticationRef"]["name"] for one in scaled} == {
        authentication["metadata"]["name"]
    }
    assert not [
        one for one in of_kind(everything, "Deployment") if "replicas" in one["spec"] and "worker" in component(one)
    ]
    assert matches(monitor["spec"]["selector"]["matchLabels"], service["metadata"]["labels"])
    assert monitor["spec"]["endpoints"][0]["port"] in {port["name"] for port in service["spec"]["ports"]}


def test_autoscaling_and_metrics_are_off_unless_they_are_asked_for() -> None:
    kinds = {found["kind"] for found in rendered(CHART / "ci" / "store.yaml")}

    assert (
        kinds & {"ScaledObject", "TriggerAuthentication", "ServiceMonitor", "HorizontalPodAutoscaler", "Ingress"}
        == set()
    )


def test_workers_are_as_many_as_jobs_that_run_or_have_waited_for_long(
    database: Database, database_url: str, everything: list[Object]
) -> None:
    if not database_url.startswith("postgresql"):
        pytest.skip("KEDA asks a PostgreSQL")
    long_ago, now = utc_now() - timedelta(minutes=10), utc_now()
    for status, created_at, gpus in (
        (JobStatus.QUEUED, long_ago, 1),
        (JobStatus.QUEUED, long_ago, 8),
        (JobStatus.QUEUED, now, 1),
        (JobStatus.RUNNING, now, 1),
        (JobStatus.SUCCEEDED, long_ago, 1),
        (JobStatus.PAUSED, long_ago, 1),
        (JobStatus.VALIDATING, long_ago, 1),
    ):
        add_job(database, status, created_at=created_at, gpus=gpus)

    with database.reader() as session:
        wanted = {
            one["metadata"]["name"].rpartition("-")[2]: session.scalar(
                text(one["spec"]["triggers"][0]["metadata"]["query"])
            )
            for one in of_kind(everything, "ScaledObject")
        }

    assert wanted == {"h100": 2, "h100x8": 3}


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--set", "images.api="], "images.api"),
        (["--set", "secrets.database.name="], "secrets.database.name"),
        (["--set", "secrets.broker.name="], "secrets.broker.name"),
        (["--set", "secrets.engine.name="], "secrets.engine.name"),
        (["--set", "store.url="], "store.url or home.existingClaim is needed"),
        (["--set", "home.existingClaim=x"], "both set"),
        (["--set", "worker.replicas=2"], "worker"),
        (["--set", "api.replcas=2"], "replcas"),
        (["--set", "settings.DATABASE_URL=postgresql://me:secret@db/x"], "settings"),
        (["--set", "engine.replicas=0"], "engine.replicas"),
        (["--set", "api.ingress.enabled=true"], "api.ingress.host is needed"),
        (["--set", "autoscaling.enabled=true"], "autoscaling.secret.name is needed"),
    ],
)
def test_values_that_cannot_work_are_refused_by_name(arguments: list[str], complaint: str) -> None:
    done = helm("template", *arguments, values=CHART / "ci" / "store.yaml")

    assert done.returncode != 0
    assert complaint in done.stderr


def test_no_secret_has_a_value_in_the_chart() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())

    assert {secret["name"] for secret in values["secrets"].values()} == {""}
    assert helm("template", values=CHART / "values.yaml").returncode != 0


def test_what_the_chart_sets_itself_is_no_setting_of_its_values(everything: list[Object]) -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    chosen = yaml.safe_load((CHART / "ci" / "everything.yaml").read_text())["settings"]
    made = {
        name for _, container in containers(everything) for name in environment(container) if name.startswith(PREFIX)
    }

    refused = set(schema["properties"]["settings"]["propertyNames"]["not"]["enum"])

    ours = {name.removeprefix(PREFIX) for name in made if name.startswith(PREFIX)}
    assert ours - set(chosen) <= refused
