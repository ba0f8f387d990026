"""A dataset's card is written by strangers: whatever it names, no file of this host and no other server is asked.

The checker runs as it does for a job, with an audit hook that writes down each path that is opened and each connection.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.contracts.events import Failed, SourcesChecked
from app.contracts.order import BaseRef
from app.contracts.spec import JobSpec
from tests.support.hub import Hub, running
from tests.support.prepared_rows import a_check, run_cold
from tests.support.specs import a_body
from tests.support.tiny_model import build_tiny_model

CANARY = "CANARY-of-the-victim"
CHAT = b'{"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}\n'
HOOK = """
import os, sys
seen = os.open({seen!r}, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
def hook(event, args):
    if event in ("open", "socket.connect", "os.listdir", "os.scandir"):
        os.write(seen, (event + " " + repr(args[1] if event == "socket.connect" else args[0]) + chr(10)).encode())
sys.addaudithook(hook)
"""


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    with running(Hub(tmp_path_factory.mktemp("hub"))) as served:
        yield served


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("model") / "tiny")


def watched_check(hub: Hub, base: Path, folder: Path, card: object) -> tuple[str, str, object]:
    """What the checker wrote into its events, what it opened, and its last event."""
    hub.add(
        "datasets", f"org/{folder.name}", {"README.md": f"---\n{json.dumps(card)}\n---\n".encode(), "a.jsonl": CHAT}
    )
    (folder / "hook").mkdir()
    (folder / "hook" / "sitecustomize.py").write_text(HOOK.format(seen=str(folder / "seen")))
    spec = JobSpec.model_validate(a_body(dataset={"source": {"hub": f"org/{folder.name}"}}))
    order = a_check(folder, spec, BaseRef(source=str(base), is_local=True), None)
    paths = os.pathsep.join([str(folder / "hook"), os.environ.get("PYTHONPATH", ""), os.getcwd()])
    events = run_cold(order, HF_ENDPOINT=hub.url, HF_HOME=str(folder / "hf"), PYTHONPATH=paths)
    return (folder / "events.jsonl").read_text(), (folder / "seen").read_text(), events[-1]


@pytest.mark.parametrize(
    ("key", "form"),
    [
        ("data_files", "{victim}/*.json"),
        ("data_files", "../../../../../../../../../../..{victim}/secret.json"),
        ("data_files", "http://127.0.0.1:9/latest/meta-data.jsonl"),
        ("data_dir", "{victim}"),
    ],
)
def test_a_card_opens_nothing_outside_of_its_repository(
    hub: Hub, base: Path, tmp_path: Path, form: str, key: str
) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "secret.json").write_text(json.dumps({"text": CANARY}))

    written, seen, last = watched_check(
        hub, base, tmp_path, {"configs": [{"config_name": "default", key: form.format(victim=victim)}]}
    )

    assert isinstance(last, Failed)
    assert (last.code, last.blame, last.param) == ("unreadable_hub_dataset", "user_error", "dataset.source")
    assert str(victim) not in seen
    assert CANARY not in written
    assert str(victim) not in written
    assert {line for line in seen.splitlines() if line.startswith("socket.connect")} <= connections_to(hub)


def test_a_card_that_names_its_own_files_is_read(hub: Hub, base: Path, tmp_path: Path) -> None:
    _, seen, last = watched_check(
        hub, base, tmp_path, {"configs": [{"config_name": "default", "data_files": "*.jsonl"}]}
    )

    assert isinstance(last, SourcesChecked)
    assert "a.jsonl" in seen
    assert {line for line in seen.splitlines() if line.startswith("socket.connect")} == connections_to(hub)


def connections_to(hub: Hub) -> set[str]:
    return {f"socket.connect ('127.0.0.1', {hub.url.rsplit(':', 1)[1]})"}
