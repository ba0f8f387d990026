"""`python -m worker.training ORDER.json`: one training attempt.

Exit codes: 0 finished, 1 failed and said so, 75 stopped behind a checkpoint as it was asked to by SIGTERM.
"""

import os
import sys
from pathlib import Path

from app.contracts.events import Blame, Failed
from app.contracts.order import TrainingOrder
from worker.events import EventWriter
from worker.failures import guarded
from worker.stopping import INTERRUPTED, Requests, keep_lease, lease_of


def main() -> int:
    lease = lease_of(dict(os.environ))
    if lease is not None:
        keep_lease(*lease)
    requests, code = Requests(), 0
    requests.wait_for_training()
    order = TrainingOrder.model_validate_json(Path(sys.argv[1]).read_text())

    def train() -> None:
        from worker.training.recipe import fine_tune  # an import that fails is reported like any failure

        nonlocal code
        code = 0 if fine_tune(order, events, requests) else INTERRUPTED

    with EventWriter(order.events) as events:
        code = guarded(train, events, [out_of_memory]) or code
    requests.close()
    return code


def out_of_memory(error: BaseException) -> Failed | None:
    """A GPU that is too small for the spec is the spec's failure, with what would help."""
    if type(error).__name__ != "OutOfMemoryError":
        return None
    return Failed(
        blame=Blame.USER,
        code="out_of_gpu_memory",
        message="the GPU has not enough memory for this spec",
        hint="lower per_device_train_batch_size and raise gradient_accumulation_steps, or lower max_seq_length",
        param="training.per_device_train_batch_size",
    )


if __name__ == "__main__":
    sys.exit(main())
