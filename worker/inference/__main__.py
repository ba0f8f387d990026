"""`python -m worker.inference`: the engine process. SIGTERM ends its answers with an error and stops it."""

import argparse
import logging
import os
import signal
import socket
import sys
from urllib.parse import urlsplit

import uvicorn
from transformers.utils import logging as transformers_logging

from worker.inference.bases import DTYPES, Placement
from worker.inference.batching.engine import BatchingEngine
from worker.inference.batching.host import BatchLimits
from worker.inference.engine import Engine
from worker.inference.server import create_app
from worker.inference.vllm.engine import VllmEngine
from worker.inference.yielding import Holds

# vLLM's own variable for the same key.
KEY_VARIABLE = "VLLM_API_KEY"
GRACE_SECONDS = 5


class EngineServer(uvicorn.Server):
    """A server that tells the engine before it waits for the connections to end."""

    def __init__(self, config: uvicorn.Config, engine: Engine) -> None:
        super().__init__(config)
        self._engine = engine

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._engine.close()
        await super().shutdown(sockets)


def main() -> None:
    options = _options()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)  # a line for every token of a probe
    transformers_logging.disable_progress_bar()
    engine = _engine(options)
    holds = Holds(engine) if isinstance(engine, BatchingEngine) else None  # a vLLM server's memory is not ours
    config = uvicorn.Config(
        create_app(engine, holds),
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


def _engine(options: argparse.Namespace) -> BatchingEngine | VllmEngine:
    if options.vllm_url is not None:
        return VllmEngine(options.vllm_url, os.environ.get(KEY_VARIABLE), allow_old=options.vllm_allow_old)
    placement = Placement.choose(options.device, options.dtype)
    limits = BatchLimits(cache_tokens=options.cache_tokens)
    return BatchingEngine(placement, limits=limits, on_broken_device=lambda: os.kill(os.getpid(), signal.SIGTERM))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m worker.inference", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8100)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, …")
    parser.add_argument("--dtype", default="auto", choices=("auto", *DTYPES))
    parser.add_argument(
        "--cache-tokens", type=int, help="tokens whose keys and values are held; default: by free memory"
    )
    parser.add_argument(
        "--vllm-url",
        type=_http_url,
        help=f"answer through the vLLM server there, whose API key is in {KEY_VARIABLE}; "
        "device, dtype and cache are its own then",
    )
    parser.add_argument(
        "--vllm-allow-old",
        action="store_true",
        help="take a vLLM before 0.33, which mixes up base and adapters: they are answered in turns then",
    )
    return parser.parse_args()


def _http_url(text: str) -> str:
    if urlsplit(text).scheme not in ("http", "https") or not urlsplit(text).hostname:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a URL such as http://127.0.0.1:8200")
    return text


if __name__ == "__main__":
    main()
