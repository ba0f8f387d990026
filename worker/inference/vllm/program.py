"""The vLLM program of this host: how it is started for a base, on loopback, with a key that nobody else has."""

import socket
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from app.contracts.vllm import VllmCommand
from app.environments import VLLM_KEY, Process, for_child
from app.guardian import Guarded, spawn

LOOPBACK = "127.0.0.1"
# vLLM's own variable for the key that its clients have to name.
KEY_VARIABLE = VLLM_KEY
# Before the operator's own options, which therefore hold.
OPTIONS = (
    *("--enable-lora", "--max-loras", "8", "--max-cpu-loras", "64", "--max-lora-rank", "64"),
    "--enable-prompt-tokens-details",
)
# What vLLM has to end its own processes before all of them are killed.
GRACE_SECONDS = 10.0


@dataclass(frozen=True)
class Program:
    """`log` is a file that its output is appended to; None: the engine's own output."""

    command: VllmCommand
    log: Path | None = None

    def start(self, base: Path, port: int, key: str) -> Guarded:
        """The program and all below it under a guardian: they end with this process, however that ends."""
        environment = for_child(Process.VLLM) | {
            KEY_VARIABLE: key,
            "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
            "VLLM_NO_USAGE_STATS": "1",
            "HF_HUB_OFFLINE": "1",  # the base is a folder
        }
        return spawn(self.words(base, port), env=environment, output=self.log, grace_seconds=GRACE_SECONDS)

    def words(self, base: Path, port: int) -> list[str]:
        """The command line: vLLM wants the model right behind `serve`; of an option given twice the last counts."""
        ours = ("--host", LOOPBACK, "--port", str(port))
        return [*self.command.program, str(base), *OPTIONS, *self.command.options, *ours]


def free_port() -> int:
    """One of loopback that nobody listens on now."""
    with closing(socket.create_server((LOOPBACK, 0))) as listener:
        port: int = listener.getsockname()[1]
    return port
