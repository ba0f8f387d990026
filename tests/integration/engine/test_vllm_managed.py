"""A vLLM that the engine starts for the base that is asked: replaced, killed, frozen, never coming up."""

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from app.contracts.generation import EngineError
from app.contracts.vllm import read_command
from tests.integration.engine.model_caches import ServedModel, reference
from tests.integration.engine.requests import PROMPT, a_request, collect, events_of, last_of, refusal_of, tokens_of
from tests.integration.engine.vllms import OPTIONS, PROGRAM, SETTINGS, is_small, is_well, recorded_command, writers
from tests.support.waiting import wait_for
from worker.inference.engine import Ended, Token, TokenRequest
from worker.inference.vllm.engine import VllmEngine
from worker.inference.vllm.process import ManagedVllm, VllmProgram, VllmTimeouts

FAILS = """sh -c 'echo "serves $1"; exit 3' serve"""
HANGS = """sh -c 'echo "serves $1"; sleep 1000' serve"""


@pytest.fixture(scope="module")
def served_model(proved_model: ServedModel) -> ServedModel:
    return proved_model


@dataclass(frozen=True)
class Started:
    """An engine, and the file that its servers write to."""

    engine: VllmEngine
    log: Path

    def pids(self) -> list[int]:
        """Servers that run now, by the file that they write to; what is below them and the guardians left out."""
        return [pid for pid in writers(self.log) if b"vllm_program" in command_line(pid) and not is_guardian(pid)]

    def pid(self) -> int:
        (pid,) = self.pids()
        return pid

    def is_up_again(self, starts: int) -> bool:
        """Whether there was another start than so many, and its server can be asked."""
        return len(self.starts()) > starts and is_well(self.engine)

    def starts(self) -> list[str]:
        """The bases for which a server was started, in order."""
        starts = [line for line in self.log.read_text().splitlines() if line.startswith("serves ")]
        return [Path(line).name for line in starts]


def command_line(pid: int) -> bytes:
    try:
        return Path("/proc", str(pid), "cmdline").read_bytes()
    except OSError:
        return b""


def is_guardian(pid: int) -> bool:
    return b"guardian_process" in command_line(pid)


@contextmanager
def managed(folder: Path, command: str | None = None, *, timeouts: VllmTimeouts | None = None) -> Iterator[Started]:
    """Nothing that it starts may be left at its end."""
    log = folder.resolve() / "vllm.log"
    engine = VllmEngine(ManagedVllm(VllmProgram(read_command(command or recorded_command()), log), timeouts))
    try:
        yield Started(engine, log)
    finally:
        engine.close()
        assert engine.join(30.0)
        assert writers(log) == []


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    with managed(tmp_path_factory.mktemp("managed")) as started:
        yield started


def test_nothing_runs_before_anybody_asks(tmp_path: Path) -> None:
    with managed(tmp_path) as fresh:
        health = fresh.engine.health()

    assert (health.loaded_base, health.loaded_adapters) == (None, [])
    assert not fresh.log.exists()


def test_base_and_adapters_are_answered_by_a_server_of_that_base(started: Started, served_model: ServedModel) -> None:
    assert tokens_of(started.engine, a_request(served_model)) == reference(served_model.base, None, PROMPT, 12)
    assert is_small(started.engine, served_model)

    health = started.engine.health()
    assert (health.device, health.loaded_base, health.answers) == ("vLLM 0.33.0", "base-0", "in_batches")
    assert health.loaded_adapters == ["adapter-small@v1"]


def test_another_base_replaces_it_when_all_is_answered(started: Started, served_model: ServedModel) -> None:
    bases = [served_model.other_base, served_model.base] * 4
    assert isinstance(last_of(started.engine, a_request(served_model)), Ended)
    before = len(started.starts())

    answers = asyncio.run(asked_together(started, served_model, [a_request(served_model, base=base) for base in bases]))

    assert answers == [reference(base, None, PROMPT, 12) for base in bases]
    assert started.starts()[before:] == ["base-1", "base-0"]
    assert len(started.pids()) == 1


async def asked_together(started: Started, served_model: ServedModel, requests: list[TokenRequest]) -> list[list[int]]:
    """The tokens of requests that all wait while another one is answered."""
    long = a_request(served_model, max_new_tokens=2000, ignore_eos=True)
    async with aclosing(started.engine.generate(long)) as held:
        await anext(held)
        answers = [asyncio.create_task(collect(started.engine.generate(request))) for request in requests]
        while started.engine.health().waiting < len(requests):
            await asyncio.sleep(0.01)
    return [[event.id for event in await answer if isinstance(event, Token)] for answer in answers]


def test_a_server_that_is_killed_is_started_again_and_proves_its_adapters_anew(
    started: Started, served_model: ServedModel
) -> None:
    assert is_small(started.engine, served_model)
    before = len(started.starts())

    last = killed_in_the_middle(started, served_model)

    assert isinstance(last, EngineError)
    assert (last.status, last.code) == (503, "engine_unavailable")
    wait_for("a new one is up, and nobody has asked", lambda: started.is_up_again(before), 60)
    assert started.engine.health().loaded_adapters == []
    assert is_small(started.engine, served_model)
    assert len(started.starts()) == before + 1


def killed_in_the_middle(started: Started, served_model: ServedModel) -> object:
    async def run() -> object:
        request = a_request(served_model, max_new_tokens=2000, ignore_eos=True)
        async with aclosing(started.engine.generate(request)) as events:
            assert isinstance(await anext(events), Token)
            os.kill(started.pid(), signal.SIGKILL)
            return [event async for event in events][-1]

    return asyncio.run(run())


def test_one_that_is_frozen_is_replaced(tmp_path: Path, served_model: ServedModel) -> None:
    with managed(tmp_path, timeouts=VllmTimeouts(silence=6.0)) as frozen:
        assert isinstance(last_of(frozen.engine, a_request(served_model)), Ended)
        os.kill(frozen.pid(), signal.SIGSTOP)

        wait_for("another one is up", lambda: frozen.is_up_again(1), 60)

        assert tokens_of(frozen.engine, a_request(served_model)) == reference(served_model.base, None, PROMPT, 12)


def test_one_that_ends_at_its_start_is_a_reason_and_no_loop(tmp_path: Path, served_model: ServedModel) -> None:
    with managed(tmp_path, FAILS) as failing:
        first = refusal_of(failing.engine, a_request(served_model))
        again = refusal_of(failing.engine, a_request(served_model))

        assert (first.status, first.code) == (503, "engine_unavailable")
        assert "its process ended with code 3; its log tells more" in first.message
        assert again.retry_after_seconds == 1
        assert failing.engine.health().loaded_base is None
        time.sleep(1.5)  # nobody asks, and nothing happens
        assert failing.starts() == ["base-0"]


@pytest.mark.skipif(PROGRAM is None, reason="TEST_VLLM names no vLLM")
def test_the_real_program_is_started_and_replaced(
    tmp_path: Path, served_model: ServedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in SETTINGS.items():
        monkeypatch.setenv(name, value)

    with managed(tmp_path, f"{PROGRAM} serve {OPTIONS}") as real:
        assert is_small(real.engine, served_model)
        replaced = tokens_of(real.engine, a_request(served_model, base=served_model.other_base))
        assert real.engine.health().loaded_base == "base-1"

    assert replaced == reference(served_model.other_base, None, PROMPT, 12)


def test_a_program_that_is_not_there_is_named(tmp_path: Path, served_model: ServedModel) -> None:
    engine = VllmEngine(ManagedVllm(VllmProgram(read_command("no-such-vllm serve"), tmp_path / "vllm.log")))

    error = refusal_of(engine, a_request(served_model))
    engine.close()

    assert engine.join(30.0)
    assert "its process ended with code 127" in error.message
    assert "cannot start no-such-vllm" in (tmp_path / "vllm.log").read_text()


def test_one_that_does_not_come_up_in_time_is_ended(tmp_path: Path, served_model: ServedModel) -> None:
    with managed(tmp_path, HANGS, timeouts=VllmTimeouts(start=1.0)) as hanging:
        error = refusal_of(hanging.engine, a_request(served_model))

        assert "it did not come up within 1 seconds" in error.message
        wait_for("nothing is left of it", lambda: writers(hanging.log) == [])


def test_an_engine_that_closes_while_it_starts_ends_every_answer(tmp_path: Path, served_model: ServedModel) -> None:
    with managed(tmp_path, HANGS) as hanging, ThreadPoolExecutor(1) as threads:
        answer = threads.submit(events_of, hanging.engine, a_request(served_model))
        wait_for("it starts", lambda: hanging.log.exists() and hanging.starts())
        hanging.engine.close()

        (event,) = answer.result(30)

    assert isinstance(event, EngineError)
    assert event.code == "engine_stopping"
