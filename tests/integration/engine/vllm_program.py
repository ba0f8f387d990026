"""`python -m tests.integration.engine.vllm_program serve <base> …`: the recorded protocol, started as vLLM is.

It has a process of its own below it, as vLLM has one that computes, which nobody but its guardian ends.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import uvicorn

from tests.integration.engine.vllm_server import Server, create_vllm
from worker.inference.engine import ModelFolder

CORE = [sys.executable, "-c", "import time; time.sleep(1000)"]


def main() -> None:
    options = _options()
    print(f"serves {options.base}", flush=True)  # noqa: T201  the log is what a test reads
    subprocess.Popen(CORE)
    server = Server(ModelFolder(options.base.name, options.base), key=os.environ["VLLM_API_KEY"])
    server.is_loading_allowed = os.environ["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "1" and options.enable_lora
    uvicorn.run(create_vllm(server), host=options.host, port=options.port, log_level="critical")
    server.engine.close()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("verb", choices=["serve"])
    parser.add_argument("base", type=Path)
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    for name in ("--max-loras", "--max-cpu-loras", "--max-lora-rank"):
        parser.add_argument(name, type=int, required=True)
    for name in ("--enable-lora", "--enable-prompt-tokens-details"):
        parser.add_argument(name, action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
