"""A log is bounded while its writer has it open, and an offset of it names the same byte for ever."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from app.jobs.schemas import LogPage
from app.jobs.views.logs import LOG_NAME, attempt_dir, read_log
from app.processes.guardian import spawn
from app.processes.log_rotation import rotate, rotated_log

MEBIBYTE = 2**20
LINE_BYTES = 100
LINES = 209_700
# 20 MiB in numbered lines, in writes that a library makes.
CHATTY = f"""
import os, time
for n in range(0, {LINES}, 100):
    os.write(1, b"".join(b"%0{LINE_BYTES - 1}d\\n" % line for line in range(n, n + 100)))
    time.sleep(0.0002)
"""


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = attempt_dir(tmp_path, 1) / LOG_NAME
    path.parent.mkdir(parents=True)
    return path


def pages(job_dir: Path, offset: int = 0, *, is_ended: bool = True) -> Iterator[LogPage]:
    """From an offset to the end of what is there."""
    while True:
        page = read_log(job_dir, 1, offset=offset, limit=MEBIBYTE, is_ended=is_ended)
        yield page
        if page.is_complete or not page.text:
            return
        offset = page.next_offset


def rotate_and_die(log: Path, death: int) -> int:
    """How a process ended that rotates, killed at one of its calls that open, lock or change a file, from 0 on."""
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    try:
        left = iter([*range(death), None])

        def die(event: str, args: tuple[object, ...]) -> None:
            is_open = event == "open" and str(args[0]).startswith(str(log))
            if (is_open or event in ("os.rename", "os.truncate", "fcntl.flock")) and next(left) is None:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(die)
        rotate(log, 1000)
        os._exit(0)
    finally:
        os._exit(1)


def append(log: Path, text: str) -> None:
    with log.open("a") as file:
        file.write(text)


def test_a_chatty_child_keeps_a_bounded_log_without_holes(tmp_path: Path, log: Path) -> None:
    """Followed while it runs: all that was printed was read once, but for what fell into the moment of a cut."""
    found, offset, cuts, largest = [], 0, 0, 0
    with spawn([sys.executable, "-c", CHATTY], output=log) as child:
        while child.poll() is None:
            cuts += rotate(log, MEBIBYTE)
            for page in pages(tmp_path, offset, is_ended=False):
                assert page.next_offset - len(page.text) == offset, "a reader that keeps up misses nothing"
                offset = page.next_offset
                found.append(page.text)
            largest = max(largest, log.stat().st_size)
    found += [page.text for page in pages(tmp_path, offset)]
    numbers = [int(line) for line in "".join(found).splitlines() if re.fullmatch(r"\d{99}", line)]
    holes = [after - before - 1 for before, after in pairwise(numbers) if after != before + 1]

    assert cuts >= 5
    assert numbers[0] == 0
    assert numbers[-1] == LINES - 1
    assert all(hole > 0 for hole in holes), "nothing was read twice, and the order is that of writing"
    assert len(holes) <= cuts
    lost = LINES * LINE_BYTES - len("".join(found))
    assert (sum(holes) - 2 * len(holes)) * LINE_BYTES <= lost <= cuts * 100_000, "a cut may tear a line at either end"
    assert rotated_log(log).stat().st_size < 8 * MEBIBYTE
    assert largest < 8 * MEBIBYTE


def test_what_is_kept_is_a_suffix_of_what_was_written(tmp_path: Path, log: Path) -> None:
    written = ""
    for number in range(50):
        text = f"{number} ".zfill(100)
        written += text
        append(log, text)
        rotate(log, 1000)
    first = read_log(tmp_path, 1, offset=0, limit=1, is_ended=False).first_offset

    assert 0 < first < len(written) - 1000
    assert "".join(page.text for page in pages(tmp_path)) == written[first:]
    assert "".join(page.text for page in pages(tmp_path, first + 150)) == written[first + 150 :]


def test_a_log_is_moved_only_when_it_is_longer_than_allowed(log: Path) -> None:
    assert not rotate(log, 1000)

    append(log, "x" * 1000)
    assert not rotate(log, 1000)

    append(log, "x")
    assert rotate(log, 1000)
    assert (log.stat().st_size, rotated_log(log).stat().st_size) == (0, 1000)


def test_a_disk_that_takes_no_copy_costs_no_byte(tmp_path: Path, log: Path) -> None:
    append(log, "x" * 2000)
    log.with_name(LOG_NAME + ".1.part").mkdir()  # nothing can be written there

    assert not rotate(log, 1000)

    assert "".join(page.text for page in pages(tmp_path)) == "x" * 2000


@pytest.mark.parametrize("former", [0, 1], ids=["first", "second"])
@pytest.mark.parametrize("death", range(12))
def test_a_rotation_that_dies_anywhere_leaves_true_offsets(tmp_path: Path, log: Path, death: int, former: int) -> None:
    """An offset that named a byte before names the same byte or none; what is new comes behind all of them."""
    written = ""
    for round_ in range(former + 1):
        written += (text := "".join(f"{round_}-{number:06d}\n" for number in range(150)))
        append(log, text)
        assert round_ == former or rotate(log, 1000)

    assert rotate_and_die(log, death) in (0, -signal.SIGKILL)

    for again in (False, True):
        append(log, "new\n")
        for offset in range(0, len(written), 50):
            page = read_log(tmp_path, 1, offset=offset, limit=40, is_ended=False)
            if (start := page.next_offset - len(page.text)) < len(written):
                assert page.text == (written + "new\n")[start : page.next_offset]
        kept = list(pages(tmp_path, len(written)))
        assert "".join(page.text for page in kept).endswith("new\n" * (1 + again))
        rotate(log, 1000)


def test_the_deaths_above_are_all_that_there_are(log: Path) -> None:
    for death, code in [(11, -signal.SIGKILL), (12, 0)]:
        append(log, "x" * 2000)
        rotate(log, 1000)
        append(log, "x" * 2000)

        assert rotate_and_die(log, death) == code


def test_a_reader_waits_for_no_frozen_rotation(tmp_path: Path, log: Path) -> None:
    append(log, "x" * 2000)
    script = "import fcntl, os, signal, sys\nfile = open(sys.argv[1])\nfcntl.flock(file, fcntl.LOCK_EX)\n"
    script += "print(flush=True)\nos.kill(os.getpid(), signal.SIGSTOP)"
    with subprocess.Popen([sys.executable, "-c", script, str(log)], stdout=subprocess.PIPE) as frozen:
        assert frozen.stdout
        frozen.stdout.readline()

        page = read_log(tmp_path, 1, offset=7, limit=100, is_ended=True)

        assert (page.text, page.next_offset, page.is_complete) == ("", 7, False)
        os.kill(frozen.pid, signal.SIGKILL)

    assert read_log(tmp_path, 1, offset=7, limit=100, is_ended=True).text == "x" * 100
