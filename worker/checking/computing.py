"""Bounds what a stranger's tokenizer computes: a regular expression in it may take for ever over a few words.

No call into such a library can be broken off, so the kernel ends the whole process (SIGPROF, `man 2 setitimer`). That
is the verdict `too_much_computing`: `worker.supervising.verdict` gives it by the signal, the pipeline for a process of
its pool.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

# Of a core, for one chunk of records and for what comes before them. A usual chunk takes a second.
MOST_SECONDS = 60.0


@contextmanager
def computing_at_most(seconds: float = MOST_SECONDS) -> Iterator[None]:
    """Inside, this process computes for so long, all its threads together, or it is ended. Not to be nested."""
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
