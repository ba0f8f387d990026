"""Signals and the lease, in processes of their own."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from tests import ROOT
from worker.stopping import lease_of, wait_for_renewal
from worker.training.schedule import SaveSchedule


def python(code: str, **options: object) -> subprocess.Popen[str]:
    """A process that has printed its first line."""
    argv = [sys.executable, "-c", textwrap.dedent(code)]
    process = subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True, **options)  # type: ignore[call-overload]
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process  # type: ignore[no-any-return]


BEFORE = """
    import time
    from worker.stopping import Requests
    requests = Requests()
    requests.wait_for_training()
    print("ready", flush=True)
    time.sleep(20)
"""
LISTENING = """
    import signal
    from worker.stopping import Requests
    requests = Requests()
    requests.wait_for_training()
    requests.listen()
    print("ready", flush=True)
    while not requests.stop:
        signal.pause()
    print(requests.checkpoint, requests.stop)
"""
ENDING = """
    import time
    from worker.stopping import Requests
    requests = Requests()
    requests.listen()
    requests.close()
    print("ready", flush=True)
    time.sleep(0.5)
    print(requests.checkpoint, requests.stop)
"""
# `re` holds the interpreter's lock for minutes in this search.
LOCKED = """
    import re, sys
    from worker.stopping import keep_lease
    keep_lease(int(sys.stdin.readline()), 0.5)
    print("ready", flush=True)
    re.match(r"(a+)+$", "a" * 40 + "b")
"""
LEASED = """
    import sys, time
    from worker.stopping import keep_lease
    keep_lease(int(sys.stdin.readline()), 0.5)
    print("ready", flush=True)
    time.sleep(20)
"""


def leased(code: str) -> tuple[subprocess.Popen[str], int]:
    """A process under a lease of half a second, and the end of the pipe that renews it."""
    read_end, write_end = os.pipe()
    feed, end = os.pipe()
    os.write(end, f"{read_end}\n".encode())
    process = python(code, pass_fds=(read_end,), stdin=feed)
    for descriptor in (read_end, feed, end):
        os.close(descriptor)
    return process, write_end


def test_before_training_a_stop_ends_the_process_and_a_checkpoint_is_not_heard() -> None:
    with python(BEFORE) as process:
        process.send_signal(signal.SIGUSR1)
        time.sleep(0.2)
        lives = process.poll() is None
        process.terminate()

    assert lives
    assert process.returncode == -signal.SIGTERM


@pytest.mark.parametrize(
    ("code", "heard"), [(LISTENING, "True True\n"), (ENDING, "False False\n")], ids=["in training", "after training"]
)
def test_in_training_both_are_remembered_and_after_it_neither_is_heard(code: str, heard: str) -> None:
    with python(code) as process:
        process.send_signal(signal.SIGUSR1)
        process.terminate()
        said, _ = process.communicate(timeout=5)

    assert (said, process.returncode) == (heard, 0)


@pytest.mark.parametrize("code", [LEASED, LOCKED], ids=["idle", "with-the-interpreter-locked"])
def test_a_lease_that_is_not_renewed_ends_the_process(code: str) -> None:
    process, write_end = leased(code)
    started = time.monotonic()

    with process:
        process.wait(10)
    os.close(write_end)

    assert process.returncode == -signal.SIGALRM
    assert time.monotonic() - started < 5


def test_each_byte_renews_the_lease_and_the_end_of_the_pipe_does_not() -> None:
    process, write_end = leased(LEASED)

    with process:
        for _ in range(4):
            time.sleep(0.2)
            os.write(write_end, b".")
        lives = process.poll() is None
        os.close(write_end)

    assert lives
    assert process.returncode == -signal.SIGALRM


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        ({"GUARDIAN_LEASE_FD": "5"}, None),
        ({"GUARDIAN_LEASE_FD": "5", "GUARDIAN_LEASE_SECONDS": "150.5"}, (5, 150.5)),
    ],
)
def test_a_lease_needs_a_descriptor_and_seconds(
    environment: dict[str, str], expected: tuple[int, float] | None
) -> None:
    assert lease_of(environment) == expected


@pytest.mark.parametrize(
    ("save_seconds", "pause"), [(0.01, 20.0), (0.9, 90.0), (2.0, 120.0), (3.6, 120.0), (60.0, 2000.0)]
)
def test_auto_saves_by_time_at_three_percent_of_it(save_seconds: float, pause: float) -> None:
    schedule = SaveSchedule("auto")
    schedule.begin(1000.0)

    schedule.saved(1100.0, save_seconds)

    assert not schedule.is_due(1, 1100.0 + pause - 0.01)
    assert schedule.is_due(1, 1100.0 + pause + 0.01)


def test_the_first_automatic_save_comes_after_half_a_minute() -> None:
    schedule = SaveSchedule("auto")

    schedule.begin(1000.0)

    assert [schedule.is_due(1, now) for now in (1029.9, 1030.1)] == [False, True]


@pytest.mark.parametrize(("save_steps", "expected"), [(4, [4, 8]), (1, [*range(1, 10)]), (None, [])])
def test_a_number_saves_every_so_many_steps_and_null_never(save_steps: int | None, expected: list[int]) -> None:
    schedule = SaveSchedule(save_steps)
    schedule.begin(0.0)

    assert [step for step in range(1, 10) if schedule.is_due(step, 1e9)] == expected


def test_renewals_that_have_waited_count_for_nothing() -> None:
    reader, writer = os.pipe()
    os.write(writer, b"RR")
    thread = threading.Thread(target=wait_for_renewal, args=(reader,))
    thread.start()

    thread.join(0.2)
    assert thread.is_alive()
    os.write(writer, b"R")
    thread.join(10)
    assert not thread.is_alive()

    os.close(reader)
    os.close(writer)
