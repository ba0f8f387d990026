"""`python -m worker.inference`: the engine process. SIGTERM ends its answers with an error and stops it."""

import worker.inference.cores  # noqa: F401  # isort: skip  # before torch

import argparse
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import uvicorn
from transformers.utils import logging as transformers_logging

from app.contracts.engine_cache import VARIABLE as CACHE_VARIABLE
from app.contracts.engine_cache import read_bytes
from app.contracts.hub import MAX_BYTES_VARIABLE, MOST_BYTES
from app.contracts.vllm import COMMAND_VARIABLE, ONE_OF_BOTH, URL_VARIABLE, read_command, read_url
from app.guardian_process import UMASK
from app.known_hosts import HOSTS_VARIABLE, TRUST_VARIABLE, HostRules
from worker.inference.bases import DTYPES, Placement
from worker.inference.batching.engine import BatchingEngine
from worker.inference.batching.host import BatchLimits
from worker.inference.engine import Engine
from worker.inference.server import create_app
from worker.inference.vllm.engine import VllmEngine
from worker.inference.vllm.managed import Managed
from worker.inference.vllm.program import KEY_VARIABLE, Program
from worker.inference.vllm.servers import Elsewhere
from worker.inference.yielding import Holds

GRACE_SECONDS = 5
T = TypeVar("T")


class EngineServer(uvicorn.Server):
    """A server that tells the engine before it waits for the connections to end."""

    def __init__(self, config: uvicorn.Config, engine: Engine) -> None:
        super().__init__(config)
        self._engine = engine

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._engine.close()
        await super().shutdown(sockets)


def main() -> None:
    os.umask(UMASK)
    options = read_options(sys.argv[1:])
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)  # a line for every token of a probe
    transformers_logging.disable_progress_bar()
    engine = _engine(options)
    holds = Holds(engine) if isinstance(engine, BatchingEngine) else None  # a vLLM server's memory is not ours
    config = uvicorn.Config(
        create_app(engine, holds, _host_rules(), options.cache, options.max_hub_bytes),
        host=options.host,
        port=options.port,
        access_log=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    for ending in (signal.SIGTERM, signal.SIGINT):
        signal.signal(ending, lambda *_: sys.exit(0))  # uvicorn raises the signal once more when it has shut down
    try:
        EngineServer(config, engine).run()
    finally:
        if not engine.join(GRACE_SECONDS):
            os._exit(0)  # a model that is being loaded cannot be interrupted otherwise


def _host_rules() -> HostRules:
    """As the API's: an engine in a network of its own is told its name, and that the network is trusted."""
    is_trusted = os.environ.get(TRUST_VARIABLE, "").lower() in ("1", "true", "yes", "on")
    return HostRules.of(os.environ.get(HOSTS_VARIABLE, ""), "", trusts_network=is_trusted)


def _engine(options: argparse.Namespace) -> BatchingEngine | VllmEngine:
    if options.vllm_url is not None:
        key = os.environ.get(KEY_VARIABLE)
        return VllmEngine(Elsewhere(options.vllm_url, key, allow_old=options.vllm_allow_old))
    if options.vllm_command is not None:
        program = Program(options.vllm_command, options.vllm_log)
        return VllmEngine(Managed(program, allow_old=options.vllm_allow_old))
    placement = Placement.choose(options.device, options.dtype)
    limits = BatchLimits(cache_bytes=options.cache_bytes)
    return BatchingEngine(placement, limits=limits, on_broken_device=lambda: os.kill(os.getpid(), signal.SIGTERM))


def read_options(words: Sequence[str]) -> argparse.Namespace:
    """Raises SystemExit 2 for words, and for variables of the environment, that make no sense."""
    parser = argparse.ArgumentParser(prog="python -m worker.inference", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8100)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, …")
    parser.add_argument("--dtype", default="auto", choices=("auto", *DTYPES))
    parser.add_argument(
        "--cache-bytes",
        type=_read_by(read_bytes),
        default=os.environ.get(CACHE_VARIABLE),
        help=f"of keys and values, of all models in memory together; default: ${CACHE_VARIABLE}, or by free memory",
    )
    parser.add_argument("--cache", type=Path, help="where hashes of base models are kept, as in TUNESMITH_HOME/cache")
    parser.add_argument(
        "--max-hub-bytes",
        type=int,
        default=os.environ.get(MAX_BYTES_VARIABLE, MOST_BYTES),
        help=f"of one model that is downloaded from the hub; default: ${MAX_BYTES_VARIABLE}, or {MOST_BYTES}",
    )
    _add_vllm(parser)
    options = parser.parse_args(words)
    if options.vllm_url is not None and options.vllm_command is not None:
        parser.error(ONE_OF_BOTH)
    return options


def _add_vllm(parser: argparse.ArgumentParser) -> None:
    """Device, dtype and cache are vLLM's own where it answers."""
    parser.add_argument(
        "--vllm-url",
        type=_read_by(read_url),
        default=os.environ.get(URL_VARIABLE),
        help=f"answer through the vLLM server there, whose API key is in {KEY_VARIABLE}; default: ${URL_VARIABLE}",
    )
    parser.add_argument(
        "--vllm-command",
        type=_read_by(read_command),
        default=os.environ.get(COMMAND_VARIABLE),
        help="answer through a vLLM that is started with this command, such as 'vllm serve --max-lora-rank 64', for "
        f"the base that is asked; default: ${COMMAND_VARIABLE}",
    )
    parser.add_argument("--vllm-log", type=Path, help="what that vLLM writes is appended here; default: with the rest")
    parser.add_argument(
        "--vllm-allow-old",
        action="store_true",
        help="take a vLLM before 0.33, which mixes up base and adapters: they are answered in turns then",
    )


def _read_by(read: Callable[[str], T]) -> Callable[[str], T]:
    """argparse tells the words of its own error only."""

    def checked(text: str) -> T:
        try:
            return read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return checked


if __name__ == "__main__":
    main()
