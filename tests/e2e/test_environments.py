"""Every process of the running service has the variables that it needs, read by the kernel's own account of each."""

import base64
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.e2e.stack import Stack, running
from tests.support import hub
from tests.support.tiny_model import build_tiny_model

REPO = "acme/token-tiny"
# A process by the last of these words that is in its command line.
WORDS = {
    "app.cli": "up",
    "valkey": "broker",
    "app.serve": "api",
    "tunesmith.check": "checker",
    "tunesmith.train": "trainer",
    "worker.inference": "engine",
    "worker.inference.text.schema_child": "grammar",
    "worker.checking": "check",
    "worker.fetching": "fetch",
    "worker.training": "train",
    "worker.templating": "template",
    "worker.rendering.render_child": "render",
}
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


class Observer:
    """Looks at all processes below one, over and over; what each kind of them was seen to have."""

    def __init__(self, root: int) -> None:
        self._root, self._over = root, threading.Event()
        self.seen: dict[str, set[str]] = defaultdict(set)

    def look(self) -> None:
        children: dict[int, list[int]] = defaultdict(list)
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
                children[int(parent)].append(int(folder.name))
        self._walk(self._root, "up", children)

    def _walk(self, pid: int, parent: str, children: dict[int, list[int]]) -> None:
        kind = parent
        with suppress(OSError):
            line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            names = {part.split(b"=")[0].decode() for part in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")}
            kind = next((WORDS[word] for word in reversed(WORDS) if word in line), parent)
            self.seen[kind] |= names
        for child in children[pid]:
            self._walk(child, kind, children)

    @contextmanager
    def watching(self) -> Iterator[None]:
        def run() -> None:
            while not self._over.wait(0.05):
                self.look()

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join()


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
            observer = Observer(stack.process.pid)
            with observer.watching():
                train_and_ask(stack)
            yield observer.seen


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
