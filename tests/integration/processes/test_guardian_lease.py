"""A training ends before the lease on its job does, whoever of its worker and its guardian is frozen."""

import math
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from app.processes.guardian import Guarded, Lease, spawn
from tests.support.waiting import wait_for

SECONDS = 10
# A loaded machine is late.
SLACK = 3
# Ignores SIGTERM, as does a grandchild in a session of its own.
STUBBORN = "trap '' TERM; setsid sleep 100 & echo ready; exec sleep 100"
POLITE = "trap 'echo asked; exit 3' TERM; echo ready; sleep 100 & wait"
PARENT = """
import os, sys, time
from app.processes.guardian import Lease, spawn

output, *argv = sys.argv[1:]
child = spawn(argv, output=int(output), lease=Lease(0.5, 1, 1.5))
os.close(int(output))
print(child.pid, flush=True)
while True:
    child.renew()
    time.sleep(0.1)
"""
# A child that keeps the timer as a trainer does, says when it was renewed, and never ends by itself.
WATCHFUL = """
import os, signal
fd, seconds = int(os.environ["GUARDIAN_LEASE_FD"]), float(os.environ["GUARDIAN_LEASE_SECONDS"])
signal.setitimer(signal.ITIMER_REAL, seconds)
os.write(1, b"%d\\n" % os.getpid())
while os.read(fd, 100):
    signal.setitimer(signal.ITIMER_REAL, seconds)
    os.write(1, b"renewed\\n")
signal.pause()
"""


@dataclass
class Output:
    """What a tree prints. It ends when the last process that has it open is gone."""

    reader: int

    def read(self, size: int = 100) -> bytes:
        assert select.select([self.reader], [], [], SECONDS)[0], "nothing came in time"
        return os.read(self.reader, size)

    def line(self) -> bytes:
        """The next line, b"" at the end."""
        line = b""
        while not line.endswith(b"\n") and (byte := self.read(1)):
            line += byte
        return line

    def seconds_until_its_end(self, since: float) -> float:
        while self.read():
            pass
        return time.monotonic() - since


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    os.close(reader)


@pytest.fixture
def output(pipe: tuple[int, int]) -> Output:
    return Output(pipe[0])


def leased(pipe: tuple[int, int], script: str, lease: Lease | None, grace_seconds: float = 60) -> Guarded:
    child = spawn(["sh", "-c", script], output=pipe[1], lease=lease, grace_seconds=grace_seconds)
    os.close(pipe[1])
    return child


@contextmanager
def renewing_parent(pipe: tuple[int, int], *argv: str) -> Iterator[tuple[int, int]]:
    """The pids of a parent that renews a command's lease, and of its guardian."""
    command = [sys.executable, "-c", PARENT, str(pipe[1]), *argv]
    with subprocess.Popen(command, pass_fds=[pipe[1]], stdout=subprocess.PIPE) as parent:
        os.close(pipe[1])
        assert parent.stdout
        guardian = int(parent.stdout.readline())
        try:
            yield parent.pid, guardian
        finally:
            parent.kill()
            with suppress(ProcessLookupError):
                os.kill(guardian, signal.SIGKILL)


@pytest.mark.parametrize("terms", [(0, 1, 2), (1, 1, 2), (1, 3, 2), (2, 1, 3), (-1, 1, 2), (1, 2, math.nan)])
def test_a_lease_whose_times_do_not_grow_is_refused(terms: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match="0 < term_after < kill_after < alarm_after"):
        Lease(*terms)


def test_a_lease_that_nobody_renews_asks_the_child_to_end_and_gives_it_time(
    pipe: tuple[int, int], output: Output
) -> None:
    started = time.monotonic()
    with leased(pipe, POLITE, Lease(0.5, 30, 60)) as child:
        assert child.wait(SECONDS) == 3

        assert 0.5 <= time.monotonic() - started < 0.5 + SLACK
        assert (output.line(), output.line()) == (b"ready\n", b"asked\n")


def test_a_lease_that_nobody_renews_kills_a_tree_that_does_not_end(pipe: tuple[int, int], output: Output) -> None:
    started = time.monotonic()
    with leased(pipe, STUBBORN, Lease(0.3, 0.8, 30)) as child:
        assert child.wait(SECONDS) == 128 + signal.SIGKILL

        assert 0.8 <= output.seconds_until_its_end(started) < 0.8 + SLACK


def test_renewals_that_come_late_but_in_time_keep_a_child_alive(pipe: tuple[int, int], output: Output) -> None:
    with leased(pipe, POLITE, Lease(1.5, 2, 3)) as child:
        assert output.line() == b"ready\n"
        for _ in range(3):
            time.sleep(0.8)
            child.renew()

        assert child.poll() is None


def test_a_renewal_counts_from_when_its_write_began(pipe: tuple[int, int], output: Output) -> None:
    """Not from when it was told: the worker may have been frozen between the two."""
    with leased(pipe, POLITE, Lease(2, 60, 90)) as child:
        assert output.line() == b"ready\n"
        began = time.monotonic()
        time.sleep(1.5)

        child.renew(began)
        child.renew(began - 1000)  # an older one changes nothing

        assert child.wait(SECONDS) == 3
        assert 2 <= time.monotonic() - began < 2 + SLACK


def test_a_stopping_child_keeps_its_lease_and_its_grace(pipe: tuple[int, int], output: Output) -> None:
    with leased(pipe, STUBBORN, Lease(2, 2.5, 3), grace_seconds=3.5) as child:
        assert output.line() == b"ready\n"
        stopped = time.monotonic()
        child.stop()
        while child.poll() is None and time.monotonic() - stopped < SECONDS:
            child.renew()
            time.sleep(0.1)

        assert 3.5 <= time.monotonic() - stopped < 3.5 + SLACK


def test_a_frozen_parent_loses_its_tree_in_time(pipe: tuple[int, int], output: Output) -> None:
    with renewing_parent(pipe, "sh", "-c", STUBBORN) as (parent, _):
        assert output.line() == b"ready\n"
        frozen = time.monotonic()

        os.kill(parent, signal.SIGSTOP)

        assert 0.8 <= output.seconds_until_its_end(frozen) < 1 + SLACK


def test_a_child_whose_parent_and_guardian_are_frozen_ends_by_its_own_timer(
    pipe: tuple[int, int], output: Output
) -> None:
    with renewing_parent(pipe, sys.executable, "-c", WATCHFUL) as (parent, guardian):
        child = int(output.line())
        assert output.line() == b"renewed\n"

        os.kill(parent, signal.SIGSTOP)
        os.kill(guardian, signal.SIGSTOP)
        frozen = time.monotonic()
        wait_for("the end of the child", lambda: _state(child) == "Z", SECONDS)

        assert 1.2 <= time.monotonic() - frozen < 1.5 + SLACK


def test_a_child_is_not_told_of_a_renewal_that_came_too_late(pipe: tuple[int, int], output: Output) -> None:
    """Its own time would begin again with it, and end after the lease."""
    child = spawn([sys.executable, "-c", WATCHFUL], output=pipe[1], lease=Lease(50, 60, 61))
    os.close(pipe[1])
    with child:
        assert int(output.line()) > 0

        child.renew(time.monotonic() - 2)
        assert not select.select([output.reader], [], [], 0.3)[0]

        child.renew()
        assert output.line() == b"renewed\n"


def test_a_thawed_guardian_judges_by_the_newest_renewal(pipe: tuple[int, int], output: Output) -> None:
    with leased(pipe, POLITE, Lease(1.5, 2, 2.5)) as child:
        assert output.line() == b"ready\n"
        os.kill(child.pid, signal.SIGSTOP)
        for _ in range(25):
            child.renew()
            time.sleep(0.1)

        os.kill(child.pid, signal.SIGCONT)
        child.renew()
        time.sleep(0.2)

        assert child.poll() is None


def test_a_frozen_guardian_never_blocks_its_parent(pipe: tuple[int, int], output: Output) -> None:
    with leased(pipe, POLITE, Lease(50, 60, 70)) as child:
        assert output.line() == b"ready\n"
        os.kill(child.pid, signal.SIGSTOP)

        for _ in range(20_000):  # more than its pipe holds
            child.renew()

        os.kill(child.pid, signal.SIGKILL)
        assert child.wait(SECONDS) == -signal.SIGKILL


def test_a_child_is_told_of_its_own_lease_alone(
    pipe: tuple[int, int], output: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GUARDIAN_LEASE_FD", "77")
    monkeypatch.setenv("GUARDIAN_LEASE_SECONDS", "5")

    with leased(pipe, "echo ${GUARDIAN_LEASE_FD-none} ${GUARDIAN_LEASE_SECONDS-none}", None) as child:
        assert child.wait(SECONDS) == 0

    assert output.line() == b"none none\n"


# The last line is the signal: dash cannot trap what was ignored when it started, Python can.
LISTENER = """
import os, signal, sys
print("ready", flush=True)
os.read(int(sys.argv[1]), 1)
def save(*_):
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # while Python ends, it has its default action again
    sys.exit("saved")
signal.signal(signal.SIGUSR1, save)
print("listening", flush=True)
signal.pause()
"""


def test_a_child_can_read_its_renewals_and_not_write_them(pipe: tuple[int, int], output: Output) -> None:
    """A writing end in the child would keep it from seeing that its guardian is gone."""
    with leased(
        pipe, "ls -l /proc/$$/fd | grep -F $(readlink /proc/$$/fd/$GUARDIAN_LEASE_FD)", Lease(50, 60, 70)
    ) as child:
        assert child.wait(SECONDS) == 0

    assert output.line().startswith(b"lr-x")
    assert output.line() == b""


def test_a_checkpoint_is_asked_for_by_a_signal_that_cannot_kill(pipe: tuple[int, int], output: Output) -> None:
    gate, opener = os.pipe()
    with spawn([sys.executable, "-c", LISTENER, str(gate)], output=pipe[1], pass_fds=[gate]) as child:
        assert output.line() == b"ready\n"
        child.checkpoint()  # nobody listens yet
        os.write(opener, b"!")
        assert output.line() == b"listening\n"

        child.checkpoint()

        assert child.wait(SECONDS) == 1
        assert output.line() == b"saved\n"
    for end in (gate, opener, pipe[1]):
        os.close(end)


def _state(pid: int) -> str:
    """Z: it has ended, and its frozen parent has not heard of it."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_the_lease_of_a_command_that_waits_begins_with_its_first_renewal(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    lease = Lease(0.5, 1, 1.5)
    with spawn(["bash", "-c", POLITE], output=writer, lease=lease, is_waiting=True, grace_seconds=SECONDS) as child:
        os.close(os.dup(writer))
        output = Output(reader)
        assert output.line() == b"ready\n"
        time.sleep(lease.alarm_after)
        assert child.poll() is None

        child.renew()

        assert output.line() == b"asked\n"
        assert child.wait(SECONDS) == 3
