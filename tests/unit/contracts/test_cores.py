"""How many cores there are for a process, and what OpenMP is told of those who share them."""

import os
from pathlib import Path

import pytest

from app.contracts.cores import count_cores, sharing_cores
from app.processes.environments import Process
from worker.child import environment

NO_GROUP = Path("/nowhere")
ALLOWED = len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, ALLOWED),
        ({"cpu.max": "max 100000\n"}, ALLOWED),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "9900000 100000\n"}, min(ALLOWED, 99)),
        ({"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 1),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, ALLOWED),
    ],
)
def test_a_container_has_as_many_cores_as_its_quota(tmp_path: Path, files: dict[str, str], cores: int) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)

    assert count_cores(tmp_path) == cores


def test_threads_that_wait_leave_the_core_to_others() -> None:
    assert sharing_cores({}, NO_GROUP) == {"OMP_WAIT_POLICY": "PASSIVE"}


@pytest.mark.parametrize("name", ["OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"])
def test_what_the_operator_chose_stays(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.setenv(name, "7")

    chosen = environment(Process.TRAIN, Path("/cache"))

    assert chosen[name] == "7"
    assert chosen.get("OMP_WAIT_POLICY") in (None, "7")
