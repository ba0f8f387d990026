"""One training a slot: the lock is free only when everybody who could train there is dead."""

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path

import pytest

from app.processes.lock import CannotStart
from worker.supervising.slots import Slot, is_free, remove_orphans

# Takes the slot, lets a grandchild in a session of its own inherit it, says so, and waits.
HOLDER = """
import signal, subprocess, sys
from pathlib import Path
from worker.supervising.slots import Slot

slot = Slot.open(Path(sys.argv[1]), "cpu")
assert slot.try_lock()
fds = [slot.fd] if sys.argv[2] == "lends" else []
child = subprocess.Popen(["sleep", "100"], pass_fds=fds, start_new_session=True, stdout=subprocess.DEVNULL)
print(slot.key, child.pid, flush=True)
signal.pause()
"""
# Takes and leaves the slot; who holds it writes down when it began and ended to.
RACER = """
import sys, time
from pathlib import Path
from worker.supervising.slots import Slot

slot, held = Slot.open(Path(sys.argv[1]), "cpu"), []
while len(held) < 200:
    if slot.try_lock():
        began = time.monotonic_ns()
        time.sleep(0.0005)
        held.append((began, time.monotonic_ns()))
        slot.release()
print(held)
"""


@contextmanager
def holder(folder: Path, *, lends: bool) -> Iterator[tuple[subprocess.Popen[bytes], str, int]]:
    """A worker that holds the slot, the slot's key, and the pid of its grandchild."""
    argv = [sys.executable, "-c", HOLDER, str(folder), "lends" if lends else "keeps"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
        assert process.stdout
        key, child = process.stdout.readline().split()
        try:
            yield process, key.decode(), int(child)
        finally:
            process.kill()
            with suppress(ProcessLookupError):
                os.kill(int(child), signal.SIGKILL)


@pytest.fixture
def slot(tmp_path: Path) -> Iterator[Slot]:
    with Slot.open(tmp_path, "cpu") as opened:
        yield opened


def test_a_slot_has_one_holder(tmp_path: Path, slot: Slot) -> None:
    with Slot.open(tmp_path, "cpu") as second, Slot.open(tmp_path, "gpu") as other:
        assert slot.try_lock()
        assert slot.try_lock()

        assert not second.try_lock()
        assert other.try_lock()
        assert (slot.is_held, second.is_held) == (True, False)
        with pytest.raises(ValueError, match="slot cpu is not held"):
            second.fd  # noqa: B018


def test_the_key_stays_that_of_the_slot(tmp_path: Path, slot: Slot) -> None:
    slot.try_lock()
    slot.release()
    with Slot.open(tmp_path, "cpu") as again, Slot.open(tmp_path, "gpu") as other:
        assert again.try_lock()

        assert slot.key == again.key != other.key


def test_names_that_no_file_can_have_are_told_apart(tmp_path: Path) -> None:
    names = ["GPU-1/0", "GPU-1_0", "GPU-1%2F0", "..", "a b"]
    slots = [Slot.open(tmp_path, name) for name in names]

    assert all(slot.try_lock() for slot in slots)
    assert {path.parent for path in tmp_path.rglob("*.lock")} == {tmp_path}
    for slot in slots:
        slot.release()


@pytest.mark.parametrize("text", [b"", b'{"uuid": "ab', b"\xff"])
def test_a_file_that_cannot_be_read_is_a_slot_that_nobody_knows(tmp_path: Path, slot: Slot, text: bytes) -> None:
    slot.path.write_bytes(text)

    with Slot.open(tmp_path, "cpu") as again:
        assert again.try_lock()
        assert again.key != slot.key
        assert is_free(tmp_path, again.key) is False
    assert is_free(tmp_path, slot.key) is None


def test_the_holder_is_written_down(slot: Slot) -> None:
    slot.try_lock()
    record = json.loads(slot.path.read_text())
    started = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]

    assert (record["uuid"], record["pid"], record["started"]) == (slot.key, os.getpid(), int(started))


def test_a_holder_killed_by_force_leaves_the_slot_free(tmp_path: Path, slot: Slot) -> None:
    with holder(tmp_path, lends=False) as (worker, key, _):
        assert (slot.key, slot.try_lock(), is_free(tmp_path, key)) == (key, False, False)

        worker.kill()
        worker.wait()

        assert is_free(tmp_path, key) is True
        assert slot.try_lock()


def test_the_tree_of_a_killed_holder_keeps_the_slot_until_it_is_removed(tmp_path: Path, slot: Slot) -> None:
    with holder(tmp_path, lends=True) as (worker, key, orphan):
        worker.kill()
        worker.wait()
        assert (slot.try_lock(), is_free(tmp_path, key)) == (False, False)

        assert remove_orphans(slot, patience_seconds=0) == [orphan]

        assert is_free(tmp_path, key) is True
        assert slot.try_lock()


def test_a_holder_that_is_dead_and_not_yet_reaped_is_dead(tmp_path: Path, slot: Slot) -> None:
    with holder(tmp_path, lends=True) as (worker, _, orphan):
        worker.kill()
        os.waitid(os.P_PID, worker.pid, os.WEXITED | os.WNOWAIT)

        assert remove_orphans(slot, patience_seconds=0) == [orphan]


def test_nothing_of_a_holder_that_lives_is_removed(tmp_path: Path, slot: Slot) -> None:
    with holder(tmp_path, lends=True) as (worker, _, child):
        assert remove_orphans(slot, patience_seconds=0) == []

        assert worker.poll() is None
        os.kill(child, 0)


def test_orphans_get_the_time_that_a_guardian_gives_them(tmp_path: Path, slot: Slot) -> None:
    with holder(tmp_path, lends=True) as (worker, _, orphan):
        worker.kill()
        worker.wait()
        subprocess.Popen(["sh", "-c", f"sleep 0.5; kill -TERM {orphan}"]).wait()

        assert remove_orphans(slot, patience_seconds=60) == []
        assert slot.try_lock()


def test_who_only_reads_the_file_is_no_orphan(tmp_path: Path, slot: Slot) -> None:
    with holder(tmp_path, lends=True) as (worker, _, orphan), slot.path.open() as file:
        reader = subprocess.Popen(["sleep", "100"], stdin=file)
        worker.kill()
        worker.wait()

        assert remove_orphans(slot, patience_seconds=0) == [orphan]

        assert reader.poll() is None
        reader.kill()
        reader.wait()


def test_what_a_dead_guardian_left_in_a_slot_that_is_held_is_removed(slot: Slot) -> None:
    """The worker lives and holds the slot, so the lock itself cannot tell."""
    slot.try_lock()
    script = "setsid sleep 100 >/dev/null & echo $!"
    with subprocess.Popen(["sh", "-c", script], pass_fds=[slot.fd], stdout=subprocess.PIPE) as parent:
        assert parent.stdout
        orphan = int(parent.stdout.readline())
        parent.wait()

        assert remove_orphans(slot, patience_seconds=0) == [orphan]

    assert slot.is_held
    assert remove_orphans(slot, patience_seconds=0) == []


def test_only_this_host_says_of_its_own_slots_that_they_are_free(tmp_path: Path, slot: Slot) -> None:
    elsewhere = json.loads(slot.path.read_text()) | {"host": "elsewhere", "uuid": "of-another"}
    (tmp_path / "elsewhere-cpu.lock").write_text(json.dumps(elsewhere))

    assert is_free(tmp_path, slot.key) is True
    assert is_free(tmp_path, "of-another") is None
    assert is_free(tmp_path, "never-heard-of") is None
    assert is_free(tmp_path / "missing", slot.key) is None


def test_looking_at_a_slot_never_keeps_a_worker_out(tmp_path: Path, slot: Slot) -> None:
    watcher = "import sys\nfrom pathlib import Path\nfrom worker.supervising.slots import is_free\n"
    watcher += "print(flush=True)\nwhile True: is_free(Path(sys.argv[1]), sys.argv[2])"
    with subprocess.Popen([sys.executable, "-c", watcher, tmp_path, slot.key], stdout=subprocess.PIPE) as looking:
        assert looking.stdout
        looking.stdout.readline()
        for _ in range(200):
            assert slot.try_lock()
            slot.release()
        looking.kill()


def test_two_processes_never_hold_a_slot_together(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", RACER, str(tmp_path)]
    racers = [subprocess.Popen(argv, stdout=subprocess.PIPE) for _ in range(2)]
    times = [tuple(pair) for racer in racers for pair in json.loads(_output(racer).replace("(", "[").replace(")", "]"))]

    assert len(times) == 400
    ordered = sorted(times)
    assert all(ended < began for (_, ended), (began, _) in pairwise(ordered))


def _output(process: subprocess.Popen[bytes]) -> str:
    return process.communicate(timeout=60)[0].decode()


def nolock(*_: object) -> None:
    raise OSError(errno.ENOLCK, "No locks available")


@pytest.mark.parametrize("flock", [lambda *_: None, nolock], ids=["does nothing", "is refused"])
def test_a_disk_that_keeps_no_locks_gives_no_slot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flock: Callable[..., None]
) -> None:
    slot = Slot.open(tmp_path, "cpu")
    monkeypatch.setattr(fcntl, "flock", flock)

    with pytest.raises(CannotStart, match="locks do not hold in"):
        slot.try_lock()
