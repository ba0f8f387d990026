"""`python -m worker.training.ranks.follower ORDER.json RANK`: compute a share of each step of a training.

Rank 0 starts it (`followers`), and holds the other end of its standard input: when that is closed, this process ends.
It takes the same steps as rank 0, and writes no event but its own failure. Exit codes: those of `worker.training`.
"""

import ctypes
import os
import signal
import sys
import threading
from pathlib import Path

from app.contracts.events import Event, Failed
from app.contracts.order import TrainingOrder
from app.processes.guardian_process import PR_SET_PDEATHSIG
from worker.confinement.allowed import hub_folder, of_follower
from worker.confinement.process import confine, go_offline, link_repository
from worker.events import EventWriter
from worker.failures import guarded, kept_out
from worker.training.__main__ import out_of_memory
from worker.training.ranks.followers import folder_of


class FailureWriter(EventWriter):
    """Leaves all events to rank 0 but the one that ends the attempt."""

    def write(self, event: Event) -> None:
        if isinstance(event, Failed):
            super().write(event)


def main() -> int:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # it dies with rank 0, also while it computes
    order, rank = TrainingOrder.model_validate_json(Path(sys.argv[1]).read_text()), int(sys.argv[2])
    folder = folder_of(order) / str(rank)
    with FailureWriter(order.events) as events:
        allowed = of_follower(order, folder)
        link_repository(folder / "hf", hub_folder(order.base))
        go_offline(folder / "hf")
        confine(allowed)  # must come before the first thread
        threading.Thread(target=_end_with_rank_0, daemon=True).start()
        order = order.model_copy(update={"work_dir": folder, "eval_rows": None})

        def take_steps() -> None:
            from worker.training.ranks.following import follow  # an import that fails is reported like any failure

            follow(order, rank, events)

        return guarded(take_steps, events, [out_of_memory, kept_out])


def _end_with_rank_0() -> None:
    while os.read(0, 1):
        pass
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
