"""The events file on a disk that is full for a while."""

import subprocess
import sys
from pathlib import Path

from worker.supervising.tail import EventTail

# Writes events until the file may not grow, and one more when it may again.
WRITER = """
import resource, sys
from pathlib import Path
from app.contracts.events import Resumed
from worker.events import EventWriter

_, most = resource.getrlimit(resource.RLIMIT_FSIZE)
with EventWriter(Path(sys.argv[1])) as events:
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, most))
    refused = 0
    for step in range(6):
        try:
            events.write(Resumed(step=step))
        except OSError:
            refused += 1
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    events.write(Resumed(step=99))
print(refused)
"""


def test_an_event_that_the_disk_does_not_take_is_refused_and_spoils_no_other(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"

    done = subprocess.run(
        [sys.executable, "-c", WRITER, str(path)], capture_output=True, text=True, timeout=60, check=True
    )

    events, _ = EventTail(path).peek()
    steps = [event.step for event in events if event.kind == "resumed"]
    assert len(events) == len(steps)
    assert steps == [*range(6 - int(done.stdout)), 99]
    assert int(done.stdout) > 0
