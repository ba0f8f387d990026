"""A guarded command leaves nothing behind, whoever dies first and however."""

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from app.processes.guardian import Guarded, spawn

SECONDS = 10
# A child that ignores SIGTERM, with a grandchild that does too, in a session of its own. Both hold the pipe.
STUBBORN = "trap '' TERM; setsid sh -c 'echo ready >/dev/fd/{pipe}; exec sleep 100' & exec sleep 100"
PARENT = """
import signal
from app.processes.guardian import spawn

child = spawn({argv!r}, grace_seconds=1, pass_fds=[{pipe}])
signal.alarm(30)  # the end, should the test fail
signal.pause()
"""


@dataclass
class Holders:
    """The processes that have the writing end of a pipe open: a read meets its end when the last of them is gone."""

    reader: int
    writer: int

    def shell(self, script: str) -> list[str]:
        return ["sh", "-c", script.format(pipe=self.writer)]

    def wait_until_ready(self) -> None:
        assert self._read() == b"ready\n"

    def are_gone(self) -> bool:
        os.close(self.writer)
        return self._read() == b""

    def _read(self) -> bytes:
        assert select.select([self.reader], [], [], SECONDS)[0], "nothing came in time"
        return os.read(self.reader, 100)


@pytest.fixture
def holders() -> Iterator[Holders]:
    reader, writer = os.pipe()
    yield Holders(reader, writer)
    os.close(reader)


def guarded(holders: Holders, script: str, grace_seconds: float = 60) -> Guarded:
    return spawn(holders.shell(script), grace_seconds=grace_seconds, pass_fds=[holders.writer])


def test_a_parent_killed_by_force_leaves_nothing_behind(holders: Holders) -> None:
    script = PARENT.format(argv=holders.shell(STUBBORN), pipe=holders.writer)
    with subprocess.Popen([sys.executable, "-c", script], pass_fds=[holders.writer]) as parent:
        holders.wait_until_ready()
        started = time.monotonic()

        parent.kill()

        assert holders.are_gone()
        assert time.monotonic() - started < SECONDS


def test_a_guardian_killed_by_force_takes_its_child_along(holders: Holders) -> None:
    with guarded(holders, "echo ready >/dev/fd/{pipe}; exec sleep 100") as child:
        holders.wait_until_ready()

        os.kill(child.pid, signal.SIGKILL)

        assert holders.are_gone()
        assert child.wait(SECONDS) == -signal.SIGKILL


def test_a_child_whose_guardian_died_before_it_was_bound_gives_up() -> None:
    not_the_parent = os.getpid() + 1
    script = f"from app.processes.guardian_process import _bind\n_bind({not_the_parent})\nprint('alive')"

    done = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, timeout=SECONDS)

    assert (done.returncode, done.stdout) == (128 + signal.SIGKILL, b"")


@pytest.mark.parametrize(
    ("script", "code"), [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137), ("kill -TERM $$", 143)]
)
def test_the_exit_code_is_that_of_the_command(script: str, code: int) -> None:
    with spawn(["sh", "-c", script]) as child:
        assert child.wait(SECONDS) == code
        assert child.poll() == code


def test_a_command_that_does_not_exist_says_so(tmp_path: Path) -> None:
    with spawn(["no-such-command"], output=tmp_path / "log") as child:
        assert child.wait(SECONDS) == 127

    assert (tmp_path / "log").read_text() == "cannot start no-such-command: No such file or directory\n"


def test_a_stopped_command_may_end_in_its_own_way(holders: Holders) -> None:
    script = "trap 'exit 3' TERM; echo ready >/dev/fd/{pipe}; sleep 100 & wait"
    with guarded(holders, script) as child:
        holders.wait_until_ready()

        child.stop()

        assert child.wait(SECONDS) == 3


@pytest.mark.parametrize(
    ("grace_seconds", "second"),
    [(0.2, lambda child: None), (100, lambda child: child.stop(grace_seconds=0.2)), (60, Guarded.kill)],
    ids=["after its grace", "after a shorter grace of a second request", "at once by a kill"],
)
def test_a_command_that_ignores_the_request_is_killed(
    holders: Holders, grace_seconds: float, second: Callable[[Guarded], None]
) -> None:
    with guarded(holders, STUBBORN, grace_seconds) as child:
        holders.wait_until_ready()
        child.stop()

        second(child)

        assert child.wait(SECONDS) == 128 + signal.SIGKILL
        assert holders.are_gone()


def test_what_a_finished_command_left_running_is_ended(holders: Holders) -> None:
    with guarded(holders, "setsid sleep 100 & exit 5") as child:
        assert child.wait(SECONDS) == 5

        assert holders.are_gone()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_guardian_cannot_be_ended_by_a_polite_signal(holders: Holders, number: signal.Signals) -> None:
    with guarded(holders, "trap 'exit 3' TERM; echo ready >/dev/fd/{pipe}; sleep 100 & wait") as child:
        holders.wait_until_ready()

        os.kill(child.pid, number)

        child.stop()
        assert child.wait(SECONDS) == 3


def test_wait_gives_up_in_time() -> None:
    with spawn(["sleep", "100"]) as child, pytest.raises(subprocess.TimeoutExpired):
        child.wait(0.01)


def test_orders_to_a_command_that_has_ended_are_no_errors() -> None:
    with spawn(["true"]) as child:
        child.wait(SECONDS)

        child.stop()
        child.kill()


def test_environment_folder_and_output_are_those_asked_for(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("before\n")

    with spawn(["sh", "-c", "pwd; echo $COLOUR >&2; cat"], env={"COLOUR": "red"}, cwd=tmp_path, output=log) as child:
        assert child.wait(SECONDS) == 0

    assert log.read_text() == f"before\n{tmp_path}\nred\n"


def test_the_output_may_be_an_open_descriptor(holders: Holders) -> None:
    with spawn(["echo", "ready"], output=holders.writer) as child:
        holders.wait_until_ready()

        assert child.wait(SECONDS) == 0


@pytest.mark.parametrize(("asked", "found"), [(500, "500"), (5000, None)], ids=["taken", "refused"])
def test_the_kernel_takes_a_command_first_that_is_marked_for_it(tmp_path: Path, asked: int, found: str | None) -> None:
    before = Path("/proc/self/oom_score_adj").read_text().strip()
    argv = ["cat", "/proc/self/oom_score_adj"]

    with spawn(argv, output=tmp_path / "log", oom_score_adj=asked) as child:
        assert child.wait(SECONDS) == 0

    assert (tmp_path / "log").read_text().strip() == (found or before)
