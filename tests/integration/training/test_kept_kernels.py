"""What one trainer compiles, the next one finds, also after two have compiled it at the same time."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from app.processes.environments import Process
from worker.child import environment

TRAINER = """
import json
import torch
from torch._dynamo.utils import counters

@torch.compile(fullgraph=True)
def layer(rows, weights):
    return torch.nn.functional.silu(rows @ weights).sum()

rows, weights = (torch.ones(4, 4, requires_grad=True) for _ in range(2))
layer(rows, weights).backward()
print(json.dumps({**counters["inductor"], **counters["aot_autograd"]}))
"""


def start(cache: Path) -> subprocess.Popen[str]:
    env = environment(Process.TRAIN, cache)
    return subprocess.Popen([sys.executable, "-c", TRAINER], env=env, stdout=subprocess.PIPE, text=True)


def counts(process: subprocess.Popen[str]) -> dict[str, Any]:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0
    found: dict[str, Any] = json.loads(output)
    return found


def test_two_trainers_at_once_leave_their_kernels_to_the_next(tmp_path: Path) -> None:
    for process in [start(tmp_path) for _ in range(2)]:
        counts(process)

    found = counts(start(tmp_path))

    assert (found.get("fxgraph_cache_hit"), found.get("fxgraph_cache_miss")) == (2, None)
    assert (found.get("autograd_cache_hit"), found.get("autograd_cache_miss")) == (1, None)
