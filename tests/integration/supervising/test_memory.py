"""The kernel's own count of what it killed for want of memory."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from worker.memory import MEMBERSHIP, MOUNT, oom_kills


@pytest.mark.parametrize(
    ("membership", "file", "counts"),
    [
        ("0::/system.slice/worker.service", "system.slice/worker.service/memory.events", "oom 4\noom_kill 3\n"),
        ("0::/", "memory.events", "low 0\nhigh 0\nmax 9\noom 4\noom_kill 3\noom_group_kill 0\n"),
        (
            "5:cpu,cpuacct:/a\n4:memory:/docker/x\n0::/",
            "memory/docker/x/memory.oom_control",
            "under_oom 0\noom_kill 3\n",
        ),
        ("4:memory:/docker/x", "memory/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n"),
    ],
)
def test_the_count_is_that_of_the_group(tmp_path: Path, membership: str, file: str, counts: str) -> None:
    (tmp_path / "cgroup").write_text(membership + "\n")
    (tmp_path / "mount" / file).parent.mkdir(parents=True)
    (tmp_path / "mount" / file).write_text(counts)

    assert oom_kills(tmp_path / "cgroup", tmp_path / "mount") == 3


@pytest.mark.parametrize("membership", ["", "0::/", "4:memory:/x\n0::/", "9:name=systemd:/"])
def test_where_nothing_counts_there_is_no_count(tmp_path: Path, membership: str) -> None:
    (tmp_path / "cgroup").write_text(membership)

    assert oom_kills(tmp_path / "cgroup", tmp_path) is None
    assert oom_kills(tmp_path / "missing", tmp_path) is None


@pytest.fixture
def small_group() -> Iterator[tuple[Path, str]]:
    """A group of its own with 32 MiB, and its line in /proc/<pid>/cgroup; only where this process may make one."""
    line = next((line for line in MEMBERSHIP.read_text().splitlines() if ":memory:" in line), "")
    name = line.rpartition(":")[2] + "/tunesmith-test"
    folder = MOUNT / "memory" / name.lstrip("/")
    try:
        folder.mkdir()
        (folder / "memory.limit_in_bytes").write_text(str(32 * 2**20))
    except OSError:
        pytest.skip("no cgroup v1 that this process may write to")
    yield folder, f"4:memory:{name}\n"
    folder.rmdir()


def test_the_kernel_counts_what_it_kills(tmp_path: Path, small_group: tuple[Path, str]) -> None:
    folder, line = small_group
    (tmp_path / "cgroup").write_text(line)
    before = oom_kills(tmp_path / "cgroup")

    script = f"echo $$ > {folder}/cgroup.procs; exec head -c 200m /dev/zero | tail -c 200m >/dev/null"
    done = subprocess.run(["bash", "-c", script], check=False, timeout=60)

    assert before == 0
    assert oom_kills(tmp_path / "cgroup") == 1
    assert done.returncode != 0
