"""The API and a worker's proof before two engine processes, one of which is killed and comes back."""

import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.config import Settings
from app.contracts.generation import AdapterRef
from app.contracts.order import BaseRef
from app.contracts.probe import Proof, ProofOrder
from app.generate import routing
from app.main import create_app
from app.processes.engine_ranking import ranked
from tests.integration.engine.model_caches import ServedModel
from tests.integration.engine.processes import KEY, EngineProcess
from tests.integration.engine.test_engine_behind_api import ASK, ENDLESS, events_of
from tests.support.serving import serving
from tests.support.waiting import wait_for
from worker.hashing import bundle_version
from worker.supervising.proving import ask

SHORT = {**ASK, "model": ENDLESS["model"]}


@contextmanager
def two_engines(base: Path) -> Iterator[tuple[EngineProcess, EngineProcess]]:
    """Two engines, first the one that is asked first for the base."""
    with ExitStack() as stack:
        by_name = {each.address.name: each for each in (stack.enter_context(EngineProcess()) for _ in range(2))}
        first, second = ranked(by_name, str(base))
        yield by_name[first], by_name[second]


def an_api(served_model: ServedModel, home: Path, *engines: EngineProcess) -> Any:
    urls = ",".join(engine.url for engine in engines)
    models = served_model.base.folder.parent
    return serving(create_app(Settings(home=home, models_dir=models, engine_url=urls, engine_key=KEY)))


def test_an_engine_that_is_killed_is_left_out_and_comes_back(
    served_model: ServedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routing, "AWAY_SECONDS", 0.1)
    base = served_model.base.folder.parent / ENDLESS["model"]
    with two_engines(base) as (first, second), an_api(served_model, tmp_path, second, first) as url:
        before = [httpx.post(f"{url}/generate", json=SHORT, timeout=60).json()["text"] for _ in range(3)]
        idle = second.health().loaded_base
        with httpx.stream("POST", f"{url}/generate", json=ENDLESS, timeout=60) as response:
            events = events_of(response)
            next(events)
            first.end(signal.SIGKILL)
            last = list(events)[-1][1]
        meanwhile = httpx.post(f"{url}/generate", json=SHORT, timeout=60).json()["text"]
        told = httpx.get(f"{url}/readyz").json()
        with EngineProcess(port=first.port) as again:

            def is_asked() -> bool:
                return httpx.post(f"{url}/generate", json=SHORT).is_success and again.health().loaded_base is not None

            wait_for("the first engine is asked again", is_asked)
            afterwards = httpx.get(f"{url}/readyz").json()

    assert (idle, last["error"]["code"]) == (None, "engine_unavailable")
    assert {*before, meanwhile} == {before[0]}
    assert (told["engine"], told["engine_reason"]) == (True, None)
    assert told["engines"][first.address.name]["is_up"] is False
    assert told["problems"]["engine"].startswith(f"{first.address.name}: the engine does not answer")
    assert {name: engine["is_up"] for name, engine in afterwards["engines"].items()} == {
        first.address.name: True,
        second.address.name: True,
    }


def test_a_proof_is_made_by_the_engine_that_will_answer_or_by_the_next(served_model: ServedModel, bundle: Path) -> None:
    with two_engines(served_model.base.folder) as (first, second):
        base = BaseRef(source=str(served_model.base.folder), is_local=True)
        ref = AdapterRef(adapter_id="a", version=bundle_version(bundle), path=str(bundle), kind="lora")
        order = ProofOrder(base=base, adapter=ref)
        engines = [second.address, first.address]

        proofs = [ask(engines, order, lambda: None, 60)]
        loaded = (first.health().loaded_base is not None, second.health().loaded_base is not None)
        first.end(signal.SIGKILL)
        proofs.append(ask(engines, order, lambda: None, 60))

    assert loaded == (True, False)
    assert [isinstance(proof, Proof) and proof.proved for proof in proofs] == [True, True], proofs
