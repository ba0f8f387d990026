"""The engine process in front of a vLLM server: what the API and the worker hear of it."""

import signal
from pathlib import Path

import httpx
import pytest

from app.contracts.generation import ENGINE_EVENT, AdapterRef
from app.contracts.probe import Proof
from app.contracts.vllm import COMMAND_VARIABLE, ONE_OF_BOTH, URL_VARIABLE, VllmCommand
from tests.integration.engine.model_caches import ServedModel
from tests.integration.engine.probes import an_order as a_proof_order
from tests.integration.engine.processes import HEADERS, EngineProcess
from tests.integration.engine.requests import an_order, answers_of, in_one_piece
from tests.integration.engine.vllm_server import KEY, Server
from tests.integration.engine.vllms import recorded_command, writers
from tests.support.waiting import wait_for
from worker.inference.__main__ import read_options
from worker.inference.vllm.engine import VllmEngine


@pytest.fixture
def served_model(proved_model: ServedModel) -> ServedModel:
    return proved_model


def test_over_http_comes_what_the_engine_says(
    vllm_url: str, vllm_engine: VllmEngine, vllm_server: Server, served_model: ServedModel
) -> None:
    order = an_order(served_model, adapter=served_model.ref("small"), max_new_tokens=8)
    proof = a_proof_order(served_model.adapters["wide"].folder, served_model.base.folder)
    expected = in_one_piece(answers_of(vllm_engine, order))

    with EngineProcess("--vllm-url", vllm_url, VLLM_API_KEY=KEY) as process:
        answer = httpx.post(f"{process.url}/generate", content=order.model_dump_json(), headers=HEADERS)
        proved = httpx.post(f"{process.url}/prove", content=proof.model_dump_json(), headers=HEADERS, timeout=60)
        vllm_server.is_dead = True
        wait_for("its health says so", lambda: httpx.get(f"{process.url}/health", headers=HEADERS).status_code == 503)
        code = process.end(signal.SIGTERM)

    assert in_one_piece([ENGINE_EVENT.validate_json(line) for line in answer.text.splitlines()]) == expected
    assert Proof.model_validate_json(proved.content).proved
    assert code == 0


def test_what_another_engine_may_serve_is_no_verdict_on_the_adapter(vllm_url: str, served_model: ServedModel) -> None:
    proof = a_proof_order(served_model.adapters["small"].folder, served_model.other_base.folder)
    whole = AdapterRef(adapter_id="adapter-x", version="v1", path=str(served_model.other_base.folder), kind="full")

    with EngineProcess("--vllm-url", vllm_url, VLLM_API_KEY=KEY) as process:
        wait_for("vLLM is known", lambda: httpx.get(f"{process.url}/health", headers=HEADERS).is_success)
        answer = httpx.post(f"{process.url}/prove", content=proof.model_dump_json(), headers=HEADERS)
        order = an_order(served_model, adapter=whole).model_dump_json()
        refused = httpx.post(f"{process.url}/generate", content=order, headers=HEADERS)

    assert [(each.status_code, each.json()["code"]) for each in (answer, refused)] == [(409, "base_not_served")] * 2


WRONG = [
    (["--vllm-url", "127.0.0.1:8200"], {}, "expected a URL such as"),
    ([], {URL_VARIABLE: ""}, "expected a URL such as"),
    ([], {COMMAND_VARIABLE: "vllm"}, "expected a command such as"),
    (["--vllm-url", "http://127.0.0.1:8200"], {COMMAND_VARIABLE: "vllm serve"}, ONE_OF_BOTH),
]


@pytest.mark.parametrize(("words", "environment", "reason"), WRONG, ids=str)
def test_what_names_no_vllm_is_refused_at_the_start(
    words: list[str],
    environment: dict[str, str],
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    with pytest.raises(SystemExit, match="2"):
        read_options(words)

    assert reason in capsys.readouterr().err


def test_the_variables_of_the_service_are_the_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(URL_VARIABLE, "http://127.0.0.1:8200")
    assert read_options([]).vllm_url == "http://127.0.0.1:8200"

    monkeypatch.delenv(URL_VARIABLE)
    monkeypatch.setenv(COMMAND_VARIABLE, "vllm serve --seed 1")
    assert read_options([]).vllm_command == VllmCommand(("vllm", "serve"), ("--seed", "1"))


@pytest.mark.parametrize(("how", "code"), [(signal.SIGTERM, 0), (signal.SIGKILL, -signal.SIGKILL)])
def test_a_server_that_the_engine_started_ends_with_it(
    served_model: ServedModel, tmp_path: Path, how: signal.Signals, code: int
) -> None:
    order = an_order(served_model, adapter=served_model.ref("small"), max_new_tokens=4).model_dump_json()
    log = tmp_path.resolve() / "vllm.log"

    with EngineProcess("--vllm-log", str(log), "--vllm-command", recorded_command()) as process:
        answer = httpx.post(f"{process.url}/generate", content=order, headers=HEADERS, timeout=120)
        running = writers(log)
        ended = process.end(how)
        wait_for("nothing is left of it", lambda: writers(log) == [])

    assert answer.status_code == 200
    assert len(running) == 3  # the guardian, the server, and what that has started
    assert ended == code
