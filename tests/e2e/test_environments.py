"""Every process of the running service has the variables that it needs, read by the kernel's own account of each."""

import base64
from collections import defaultdict
from collections.abc import Iterator

import pytest

from tests.e2e.stack import Stack, running
from tests.support import hub
from tests.support.process_watch import ProcessWatch
from tests.support.tiny_model import build_tiny_model

REPO = "acme/token-tiny"
DATABASE, BROKER, KEY = "TUNESMITH_DATABASE_URL", "TUNESMITH_BROKER_URL", "TUNESMITH_ENGINE_KEY"
OF_SECRETS = "TUNESMITH_SECRET_KEY"
HUB = {"HF_TOKEN", "HTTPS_PROXY"}
WATCHED = {DATABASE, BROKER, KEY, OF_SECRETS, "VLLM_API_KEY", "AWS_SECRET_ACCESS_KEY", "OPERATORS_OWN"} | HUB
ALLOWED = {
    "broker": set(),
    "api": {DATABASE, BROKER, KEY, OF_SECRETS},
    "checker": {DATABASE, BROKER, OF_SECRETS} | HUB,
    "trainer": {DATABASE, BROKER, KEY, OF_SECRETS} | HUB,
    "engine": {KEY, "VLLM_API_KEY"} | HUB,
    "grammar": set(),
    "check": HUB,
    "fetch": HUB,
    "train": set(),
    "template": set(),
    "render": set(),
}


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, set[str]]]:
    """What a service had that trained on a private model of the hub, and answered with it."""
    folder = tmp_path_factory.mktemp("s")
    model = build_tiny_model(folder / "model")
    with hub.running(hub.Hub(folder / "hub")) as served:
        served.add("models", REPO, {path.name: path.read_bytes() for path in model.iterdir()})
        environment = {
            "HF_ENDPOINT": served.url,
            "HF_HOME": str(folder / "hf"),
            "HF_TOKEN": hub.TOKEN,
            "HTTPS_PROXY": "http://user:password@127.0.0.1:9",
            DATABASE: f"sqlite:///{folder / 'home' / 'tunesmith.db'}",
            KEY: "a-key-of-sixteen-or-more",
            OF_SECRETS: base64.b64encode(b"k" * 32).decode(),
            "VLLM_API_KEY": "of-vllm",
            "AWS_SECRET_ACCESS_KEY": "of-somebody",
            "OPERATORS_OWN": "passed",
            "TUNESMITH_PASS_ENVIRONMENT": "OPERATORS_OWN",
        }
        with running(folder / "home", environment) as stack:
            found: dict[str, set[str]] = defaultdict(set)

            def note(kind: str, _line: str, environment: str) -> None:
                found[kind] |= {variable.partition("=")[0] for variable in environment.split("\0")}

            with ProcessWatch(stack.process.pid, note).watching():
                train_and_ask(stack)
            yield found


def train_and_ask(stack: Stack) -> None:
    model = {"model_name": REPO, "max_seq_length": 256, "load_in_4bit": False, "chat_template": "chatml"}
    job_id = stack.submit(model=model, training={"max_steps": 3, "learning_rate": 0.02})
    ended = stack.wait(job_id, "succeeded", "failed")
    assert ended["status"] == "succeeded", ended
    schema = {"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "string", "maxLength": 4000}}}
    answer = stack.generate(adapter=job_id, response_format=schema)
    assert answer.status_code == 200, answer.text


def test_every_kind_of_process_was_seen(seen: dict[str, set[str]]) -> None:
    assert set(ALLOWED) <= set(seen)


@pytest.mark.parametrize("kind", ALLOWED)
def test_a_process_has_what_it_needs_and_nothing_else(seen: dict[str, set[str]], kind: str) -> None:
    assert seen[kind] & WATCHED == ALLOWED[kind] | {"OPERATORS_OWN"}
