"""Forks a process for every check from one that has already imported what a check imports, which takes seconds.

Each check still has a process of its own, as in the service: it confines itself and ends, and the next one has nothing
of it. One line of JSON in: order, environment, log. One line out: exit code, CPU seconds, the most bytes of memory.
"""

import gc
import json
import os
import sys
from importlib import import_module, reload

from huggingface_hub import constants

from worker.checking import __main__ as checker

# What a check imports once it is confined; without torch comes before all that imports transformers.
OURS = ("without_torch", "context", "dataset", "model")
THEIRS = ("pandas", "transformers.models.auto.configuration_auto", "transformers.models.auto.tokenization_auto")


def check(order: str, environment: dict[str, str], log: str) -> int:
    """In the forked process: what `python -m worker.checking ORDER` does."""
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ.clear()
    os.environ.update(environment)
    reload(constants)  # the hub's address and folders, which are read from the environment at the import
    sys.argv = ["worker.checking", order]
    return checker.main()


def main() -> None:
    for module in (*(f"worker.checking.{name}" for name in OURS), *THEIRS):
        import_module(module)
    gc.freeze()
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            sys.exit(check(*json.loads(line)))
        _, status, used = os.wait4(pid, 0)
        ended = (os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime, used.ru_maxrss * 1024)
        sys.stdout.write(f"{json.dumps(ended)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
