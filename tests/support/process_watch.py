"""Looks at all processes of a service over and over, as the kernel shows them: their words and their environments."""

import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# A process by the last of these words that is in its command line; a guardian counts as its parent.
WORDS = {
    "app.cli": "up",
    "valkey": "broker",
    "app.serve": "api",
    "tunesmith.check": "checker",
    "tunesmith.train": "trainer",
    "worker.inference": "engine",
    "worker.inference.text.schema_child": "grammar",
    "worker.checking": "check",
    "worker.fetching": "fetch",
    "worker.training": "train",
    "worker.templating": "template",
    "worker.rendering.render_child": "render",
}
LOOK_SECONDS = 0.05
# Gets the kind of a process, its command line, and its environment with NULs between the variables.
Note = Callable[[str, str, str], None]


class ProcessWatch:
    """Tells `note` of every process below `root`, again in each look."""

    def __init__(self, root: int, note: Note) -> None:
        self._root, self._note, self._over = root, note, threading.Event()

    @contextmanager
    def watching(self) -> Iterator[None]:
        thread = threading.Thread(target=self._run)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join()

    def _run(self) -> None:
        while not self._over.wait(LOOK_SECONDS):
            self._look()

    def _look(self) -> None:
        children: dict[int, list[int]] = defaultdict(list)
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
                children[int(parent)].append(int(folder.name))
        self._walk(self._root, "up", children)

    def _walk(self, pid: int, parent: str, children: dict[int, list[int]]) -> None:
        kind = parent
        with suppress(OSError):
            line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            environment = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace")
            kind = next((WORDS[word] for word in reversed(WORDS) if word in line), parent)
            self._note(kind, line, environment)
        for child in children[pid]:
            self._walk(child, kind, children)
