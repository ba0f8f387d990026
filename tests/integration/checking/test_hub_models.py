"""A base of the hub: asked for its sizes, fetched within them, and trained on by a process that reaches no network."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse

from app.contracts.events import ATTEMPT_EVENT, Failed, Finished
from app.contracts.order import BaseRef
from app.contracts.spec import JobSpec
from app.processes.environments import Process
from tests.support.hub import SHA, Hub, running
from tests.support.prepared_rows import a_check, a_training, failure_of, prepare, run
from tests.support.serving import serving
from tests.support.specs import a_body
from tests.support.tiny_model import build_tiny_model
from worker.child import environment

CHATS = [
    {"messages": [{"role": "user", "content": f"hello {n}"}, {"role": "assistant", "content": "hi"}]} for n in range(8)
]
UNWANTED = ("pytorch_model.bin", "tiny.gguf", "onnx/model.onnx", "consolidated.safetensors", "model.fp16.safetensors")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def hub(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    with running(Hub(tmp_path_factory.mktemp("hub"))) as served:
        files = {path.name: path.read_bytes() for path in tiny.iterdir()}
        served.add("models", "org/tiny", {**files, **dict.fromkeys(UNWANTED, b"never fetched")})
        yield served


def a_spec(**groups: Any) -> JobSpec:
    model = {"model_name": "org/tiny", "max_seq_length": 128, "load_in_4bit": False}
    return JobSpec.model_validate(a_body(model=model, training={"max_steps": 2}, **groups))


def checked(hub: Hub, folder: Path, most_bytes: int) -> Any:
    source = folder / "rows.jsonl"
    source.write_text('{"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}\n')
    order = a_check(folder, a_spec(), BaseRef(source="org/tiny", is_local=False), source, max_hub_bytes=most_bytes)
    return run(order, HF_ENDPOINT=hub.url, HF_HOME=str(folder / "hf"))


def test_a_model_that_is_too_large_is_refused_before_its_weights_are_fetched(hub: Hub, tmp_path: Path) -> None:
    failed = failure_of(checked(hub, tmp_path, most_bytes=100_000))

    assert (failed.code, failed.blame.value, failed.param) == ("hub_too_large", "user_error", "model.model_name")
    assert "at most 100,000 are" in failed.message
    assert not [*(tmp_path / "hf").rglob("*.safetensors")]


def trained(hub: Hub, tiny: Path, folder: Path, **env: str) -> tuple[list[Any], str]:
    """The events and the log of one attempt on the hub's model."""
    data = prepare(tiny, folder / "prepared", CHATS, a_spec())
    attempt = folder / "attempt"
    (attempt / "work").mkdir(parents=True)
    base = BaseRef(source="org/tiny", is_local=False, revision=SHA)
    order = a_training(attempt, a_spec(), base, **data, cache_dir=folder / "cache")
    (attempt / "order.json").write_text(order.model_dump_json())
    places = {"HF_ENDPOINT": hub.url, "HF_HOME": str(folder / "hf"), **env}
    with (attempt / "log").open("wb") as log:
        for process, module in ((Process.FETCH, "worker.fetching"), (Process.TRAIN, "worker.training")):
            argv = [sys.executable, "-m", module, str(attempt / "order.json")]
            chosen = {**environment(process, folder / "cache"), **places}
            done = subprocess.run(argv, env=chosen, cwd=attempt, stdout=log, stderr=log, timeout=400, check=False)
            if done.returncode != 0:
                break
    events = [ATTEMPT_EVENT.validate_json(line) for line in (attempt / "events.jsonl").read_text().splitlines()]
    return events, (attempt / "log").read_text()


def test_what_is_read_is_fetched_and_trained_on_without_a_network(hub: Hub, tiny: Path, tmp_path: Path) -> None:
    events, log = trained(hub, tiny, tmp_path)
    fetched = {path.name for path in (tmp_path / "hf").rglob("snapshots/*/*")}

    assert isinstance(events[-1], Finished), log[-3000:]
    assert [event.phase.value for event in events if event.kind == "phase"][:2] == ["download", "load"]
    assert "model.safetensors" in fetched
    assert not fetched & {Path(name).name for name in UNWANTED}


def test_a_repository_that_is_not_there_is_told_by_the_fetching(hub: Hub, tiny: Path, tmp_path: Path) -> None:
    (hub.root / "models" / "org" / "tiny").rename(hub.root / "models" / "org" / "gone")
    try:
        events, log = trained(hub, tiny, tmp_path)
    finally:
        (hub.root / "models" / "org" / "gone").rename(hub.root / "models" / "org" / "tiny")

    assert isinstance(events[-1], Failed), log[-3000:]
    assert events[-1].code == "unknown_repository"


def endless_hub() -> FastAPI:
    """It says that its file has ten bytes, and sends it without end."""
    app = FastAPI()

    def stream() -> Iterator[bytes]:
        while True:
            yield bytes(2**20)

    @app.api_route("/{owner}/{name}/resolve/{revision}/{file}", methods=["GET", "HEAD"])
    def resolve(owner: str, name: str, revision: str, file: str, request: Request) -> Response:
        headers = {"etag": '"x"', "x-repo-commit": SHA}
        if request.method == "HEAD":
            return Response(headers={**headers, "content-length": "10"})
        return StreamingResponse(stream(), headers=headers)

    return app


def test_a_stream_that_is_longer_than_was_said_is_cut_off(tmp_path: Path) -> None:
    code = (
        "from worker.downloads import Repository\n"
        f"Repository('org/endless', 'model', '{SHA}', {{'model.safetensors': 10}}).download('model.safetensors')"
    )
    with serving(endless_hub()) as url:
        env = {**os.environ, "HF_ENDPOINT": url, "HF_HOME": str(tmp_path)}
        argv = [sys.executable, "-c", code]
        done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=120, check=False)

    assert "is longer than the 10 bytes that the hub announced" in done.stderr
    assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) < 2**20
