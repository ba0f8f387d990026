"""vLLM servers for tests: the recorded protocol always, and the real one where TEST_VLLM names its program."""

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import httpx

from app.contracts.generation import Sampling
from app.contracts.probe import PROBE, Probe
from tests.integration.engine.model_caches import ServedModel, build_served_model, reference
from tests.integration.engine.probes import probe_of
from tests.integration.engine.processes import free_port
from tests.integration.engine.requests import PROMPT, a_request, last_of, tokens_of
from tests.integration.engine.vllm_server import KEY, Server, adapter_in, an_answering_engine, create_vllm
from tests.support.forking import start_forker
from tests.support.serial_engine import SerialEngine
from tests.support.serving import serving
from tests.support.waiting import wait_for
from worker.inference.engine import Refusal, TokenRequest
from worker.inference.vllm.engine import VllmEngine
from worker.inference.vllm.server import VllmServer

PROGRAM = os.environ.get("TEST_VLLM")
START_SECONDS = 180.0
SETTINGS = {
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
    "VLLM_API_KEY": KEY,
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
}
OPTIONS = "--dtype float32 --enable-lora --max-lora-rank 16 --max-loras 4 --max-cpu-loras 16 --enforce-eager"


def recorded_command() -> str:
    """The command of a program that speaks the recorded protocol, started as vLLM is."""
    return shlex.join([sys.executable, "-m", "tests.integration.engine.vllm_program", str(start_forker()), "serve"])


def build_proved_model(folder: Path) -> ServedModel:
    """Models whose plain adapters have their probes. vLLM has no attention for heads of 16 numbers on a CPU."""
    served_model = build_served_model(folder, heads=2)
    for name in ("small", "wide"):
        bundle = served_model.adapters[name].folder
        (bundle / PROBE).write_text(_short(probe_of(served_model.base.folder, bundle)).model_dump_json())
    return served_model


@contextmanager
def answering(served_model: ServedModel) -> Iterator[SerialEngine]:
    """The engine of any number of servers, one after another.

    It reads base and adapters before they start: PEFT may not be at work in two threads of one process.
    """
    engine = an_answering_engine()
    try:
        for adapter in (None, *(adapter_in(served_model.adapters[name].folder) for name in ("small", "wide"))):
            sampling = Sampling(temperature=0, max_new_tokens=1)
            last_of(engine, TokenRequest(served_model.base, adapter, list(PROMPT), frozenset(), sampling))
        yield engine
    finally:
        engine.close()
        assert engine.join(30.0)


def _short(probe: Probe) -> Probe:
    """Two prompts of four steps: every step is a request."""
    prompts = [prompt.model_copy(update={"steps": prompt.steps[:4]}) for prompt in probe.prompts[:2]]
    return probe.model_copy(update={"prompts": tuple(prompts)})


def recorded(server: Server) -> AbstractContextManager[str]:
    """The URL of a server that speaks the recorded protocol."""
    return serving(create_vllm(server))


@contextmanager
def real(base: Path) -> Iterator[str]:
    """The URL of the program of TEST_VLLM, which serves the base on this host's CPU."""
    assert PROGRAM is not None
    port = free_port()
    command = [PROGRAM, "serve", str(base), "--host", "127.0.0.1", "--port", str(port), *OPTIONS.split()]
    process = subprocess.Popen(command, env={**os.environ, **SETTINGS})
    try:
        wait_for("vLLM answers", lambda: _is_up(port), START_SECONDS)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=60)


def _is_up(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health", trust_env=False).is_success
    except httpx.TransportError:
        return False


@contextmanager
def engine_at(url: str, *, places: int = 64, patience_seconds: float = 60.0) -> Iterator[VllmEngine]:
    """An engine that knows the key of the tests."""
    engine = VllmEngine(VllmServer(url, KEY), places=places, patience_seconds=patience_seconds)
    try:
        yield engine
    finally:
        engine.close()
        assert engine.join(30.0)


def is_well(engine: VllmEngine) -> bool:
    try:
        return engine.health().loaded_base is not None
    except Refusal:
        return False


def is_small(engine: VllmEngine, served_model: ServedModel) -> bool:
    """Whether the adapter `small` is what answers for it."""
    return tokens_of(engine, a_request(served_model, "small")) == reference(
        served_model.base, served_model.adapter("small"), PROMPT, 12
    )


def writers(log: Path) -> list[int]:
    """Every process whose output goes to the file."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if (entry / "fd" / "1").resolve() == log:
                found.append(int(entry.name))
        except OSError:
            continue
    return found
