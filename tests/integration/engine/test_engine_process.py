"""The engine as a process: how it starts, what it says, and what the API hears when it ends."""

import asyncio
import json
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import httpx
import pytest

from app.contracts.cores import WAITING
from app.contracts.generation import EngineError, EngineEvent, Finish, GenerateOrder
from app.contracts.order import BaseRef
from app.errors import EngineUnavailable
from app.generate.client import HttpEngineClient
from app.processes.engine_address import EngineAddress
from tests.integration.engine.model_caches import ServedModel
from tests.integration.engine.processes import HEADERS, KEY, EngineProcess, free_port
from tests.integration.engine.requests import an_order, answers_of, error_of, in_one_piece
from tests.support.serial_engine import SerialEngine
from tests.support.waiting import wait_for

COMMIT = "0" * 40


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("output") / "output.log"


@pytest.fixture(scope="module")
def process(
    tmp_path_factory: pytest.TempPathFactory, served_model: ServedModel, output: Path
) -> Iterator[EngineProcess]:
    """`python -m worker.inference` without a network, whose hub cache holds one model."""
    home = tmp_path_factory.mktemp("hf")
    cached = home / "hub" / "models--someone--tiny"
    shutil.copytree(served_model.base.folder, cached / "snapshots" / COMMIT)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(COMMIT)
    with pytest.MonkeyPatch.context() as patch:
        for name in WAITING:
            patch.delenv(name, raising=False)
        started = EngineProcess(output=output, HF_HOME=str(home), OMP_DISPLAY_ENV="true")
    with started:
        yield started


def an_endless_order(served_model: ServedModel) -> GenerateOrder:
    base = BaseRef(source=str(served_model.endless_base.folder), is_local=True)
    return an_order(served_model, base=base, max_new_tokens=2000)


@asynccontextmanager
async def client_of(url: str) -> AsyncIterator[HttpEngineClient]:
    client = HttpEngineClient(EngineAddress(url, KEY))
    try:
        yield client
    finally:
        await client.close()


def told(url: str, order: GenerateOrder, after_first: Callable[[], object] = lambda: None) -> list[EngineEvent]:
    """All that the API hears; something may happen when the first piece has come."""

    async def run() -> list[EngineEvent]:
        heard: list[EngineEvent] = []
        async with client_of(url) as client, aclosing(client.generate(order)) as events:
            async for event in events:
                heard.append(event)
                if len(heard) == 1:
                    after_first()
        return heard

    return asyncio.run(run())


def test_over_http_comes_what_the_engine_says(
    process: EngineProcess, engine: SerialEngine, served_model: ServedModel
) -> None:
    order = an_order(served_model, adapter=served_model.ref("small"), max_new_tokens=30)

    assert in_one_piece(told(process.url, order)) == in_one_piece(answers_of(engine, order))
    assert isinstance(told(process.url, order)[-1], Finish)


def test_a_model_of_the_hub_comes_from_the_cache(
    process: EngineProcess, engine: SerialEngine, served_model: ServedModel
) -> None:
    order = an_order(served_model, base=BaseRef(source="someone/tiny", is_local=False))

    assert in_one_piece(told(process.url, order)) == in_one_piece(answers_of(engine, an_order(served_model)))


@pytest.mark.parametrize(
    ("base", "status"),
    [
        (BaseRef(source="nobody/nothing", is_local=False), 503),
        (BaseRef(source="no/such/name", is_local=False), 404),
        (BaseRef(source=f"{tempfile.gettempdir()}/nowhere/at/all", is_local=True), 404),
    ],
)
def test_a_base_that_is_not_to_be_had_is_unavailable(
    process: EngineProcess, served_model: ServedModel, base: BaseRef, status: int
) -> None:
    error = error_of(told(process.url, an_order(served_model, base=base)))

    assert (error.status, error.code) == (status, "model_unavailable")
    assert "/nowhere" not in error.message


def test_an_error_before_the_first_token_has_its_status(process: EngineProcess, served_model: ServedModel) -> None:
    order = an_order(served_model, max_new_tokens=100_000).model_dump_json()

    response = httpx.post(f"{process.url}/generate", content=order, headers=HEADERS)

    assert (response.status_code, response.json()["code"]) == (422, "context_length_exceeded")


def test_an_order_that_is_none_is_refused(process: EngineProcess) -> None:
    response = httpx.post(f"{process.url}/generate", json={"request_id": "r"}, headers=HEADERS)

    assert (response.status_code, response.json()["code"]) == (422, "invalid_order")


def test_a_client_that_goes_away_stops_the_engine(process: EngineProcess, served_model: ServedModel) -> None:
    order = json.loads(an_endless_order(served_model).model_dump_json())

    with httpx.stream("POST", f"{process.url}/generate", json=order, headers=HEADERS) as response:
        chunks = response.iter_bytes()
        next(chunks)
        assert process.health().is_busy

    wait_for("the engine is idle", lambda: not process.health().is_busy)


def test_a_stopped_engine_says_so_and_exits_in_order(served_model: ServedModel) -> None:
    codes: list[int] = []
    with EngineProcess() as process:
        order = an_endless_order(served_model)
        heard = told(process.url, order, lambda: codes.append(process.end(signal.SIGTERM)))

    assert isinstance(heard[-1], EngineError)
    assert heard[-1].code in ("engine_stopping", "engine_unavailable")
    assert codes == [0]


def test_an_engine_that_is_not_there_is_unavailable(served_model: ServedModel) -> None:
    url = f"http://127.0.0.1:{free_port()}"

    async def health() -> None:
        async with client_of(url) as client:
            await client.health()

    with pytest.raises(EngineUnavailable):
        asyncio.run(health())
    assert [event.kind for event in told(url, an_order(served_model))] == ["error"]


def test_a_tokenizer_of_a_bundle_is_read_and_not_that_of_the_base(
    process: EngineProcess, served_model: ServedModel, tmp_path: Path
) -> None:
    ref = served_model.ref("small")
    assert ref is not None
    shutil.copytree(ref.path, tmp_path / "bundle")
    (tmp_path / "bundle" / "chat_template.jinja").write_text("{{ raise_exception('the bundle speaks') }}")
    mine = ref.model_copy(update={"path": str(tmp_path / "bundle"), "version": "v2"})

    order = an_order(served_model, adapter=mine, messages=[{"role": "user", "content": "hi"}])

    assert "the bundle speaks" in error_of(told(process.url, order)).message


def test_its_openmp_waits_without_a_core(process: EngineProcess, output: Path) -> None:
    assert "OMP_WAIT_POLICY = 'PASSIVE'" in output.read_text()
