"""Limits the CPU time of an untrusted tokenizer, whose regular expressions may never finish on a short text.

A call into the library cannot be interrupted, so the kernel kills the whole process (SIGPROF, `man 2 setitimer`). The
job then fails with `too_much_computing`: `worker.supervising.verdict` detects the signal, the pipeline a killed pool
process.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

# CPU seconds for one chunk of records, and for loading the tokenizer. A usual chunk takes one second.
MOST_SECONDS = 60.0


@contextmanager
def computing_at_most(seconds: float = MOST_SECONDS) -> Iterator[None]:
    """Kills this process if all its threads together use more CPU time inside the context. Do not nest it."""
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
