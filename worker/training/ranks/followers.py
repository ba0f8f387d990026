"""Starts the ranks of a training after the first one, each in a process of its own, and ends with them.

    rank 0: the trainer ──starts──> ranks 1, 2, ...: `worker.training.ranks.follower`
            events, checkpoints, evaluations, the adapter       only their share of each step's gradient

A follower holds nothing that has to be kept. When rank 0 has taken its last step, for whatever reason, or has died, its
followers end. When a follower dies, rank 0 ends in the same way, and the next attempt resumes. Nothing here imports
torch: followers start before the process is confined.
"""

import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from app.contracts.order import TrainingOrder
from worker.stopping import lease_of

FOLLOWER = "worker.training.ranks.follower"
FOLDER = "ranks"
# For NCCL and Gloo: ranks of one host find each other over its loopback. Memory is shared through CUDA's own handles,
# because two confined processes cannot pass file descriptors to each other. NVLink's multicast is not used.
ON_THIS_HOST = {
    "GLOO_SOCKET_IFNAME": "lo",
    "NCCL_SOCKET_IFNAME": "=lo",
    "NCCL_IB_DISABLE": "1",
    "NCCL_CUMEM_ENABLE": "0",
    "NCCL_NVLS_ENABLE": "0",
    "NVSHMEM_DISABLE_NVLS": "1",
    "TORCH_SYMM_MEM_DISABLE_MULTICAST": "1",
    "TORCH_NCCL_ENABLE_MONITORING": "0",
}


def folder_of(order: TrainingOrder) -> Path:
    """Where the ranks of an attempt meet; each follower has a folder with its number in it."""
    return order.events.parent / FOLDER


@dataclass
class Followers:
    """The processes of all ranks but the first. A process with `processes` empty trains alone."""

    processes: Sequence["subprocess.Popen[bytes]"] = ()
    _are_needed: bool = field(default=True, init=False)

    @classmethod
    def start(cls, order: TrainingOrder, path: Path) -> "Followers":
        """Start the order's followers. `path`: the file of the order. Call it before the process is confined."""
        if order.ranks == 1:
            return cls()
        for name, value in ON_THIS_HOST.items():
            os.environ.setdefault(name, value)
        lease = lease_of(dict(os.environ))
        if lease is not None:
            os.set_inheritable(lease[0], False)
        return cls([_start(order, path, rank) for rank in range(1, order.ranks)])

    def watch(self) -> None:
        """From now on this process ends as soon as one of them does, and in the same way."""
        for rank, process in enumerate(self.processes, 1):
            threading.Thread(target=self._end_with, args=(rank, process), name=f"rank {rank}", daemon=True).start()

    def dismiss(self) -> None:
        """Let them end: no step is left."""
        self._are_needed = False
        for process in self.processes:
            assert process.stdin is not None
            process.stdin.close()

    def _end_with(self, rank: int, process: "subprocess.Popen[bytes]") -> None:
        code = process.wait()
        if not self._are_needed:
            return
        os.write(2, f"rank {rank} has ended with exit code {code}, and the attempt ends with it\n".encode())
        if code < 0:
            os.kill(os.getpid(), -code)
        os._exit(code or 1)


def _start(order: TrainingOrder, path: Path, rank: int) -> "subprocess.Popen[bytes]":
    """Start a follower. It inherits the locks of the slots, so that these are free only when all ranks are dead."""
    folder = folder_of(order) / str(rank)
    folder.mkdir(parents=True)
    devices = {"CUDA_VISIBLE_DEVICES": order.devices[rank]} if order.devices else {}
    return subprocess.Popen(
        [sys.executable, "-m", FOLLOWER, str(path.resolve()), str(rank)],
        stdin=subprocess.PIPE,
        env={**os.environ, **devices},
        cwd=folder,
        close_fds=False,
    )
