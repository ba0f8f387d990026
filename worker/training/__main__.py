"""`python -m worker.training ORDER.json`: run one training attempt. `worker.fetching` must have downloaded a hub base.

Exit codes: 0 finished, 1 failed and reported it, 75 saved a checkpoint and stopped because of SIGTERM.
"""

import gc
import os
import sys
from pathlib import Path

from app.contracts.events import Blame, Failed
from app.contracts.order import TrainingOrder
from worker.confinement.allowed import hub_folder, of_training
from worker.confinement.process import confine, go_offline, link_repository
from worker.events import EventWriter
from worker.failures import guarded, kept_out
from worker.stopping import INTERRUPTED, Requests, keep_lease, lease_of
from worker.training.ranks.followers import Followers
from worker.training.start import StartMoment


def main() -> int:
    start = StartMoment.of_this_process()
    order = TrainingOrder.model_validate_json(Path(sys.argv[1]).read_text())
    allowed, hub = of_training(order), order.events.parent / "hf"
    followers = Followers.start(order, Path(sys.argv[1]))
    link_repository(hub, hub_folder(order.base))
    go_offline(hub)
    confine(allowed)  # must come before the first thread
    return train(order, start, followers)


def train(order: TrainingOrder, start: StartMoment, followers: Followers) -> int:
    """Train in this process, which is confined, and return its exit code."""
    lease = lease_of(dict(os.environ))
    if lease is not None:
        keep_lease(*lease)
    requests, code = Requests(), 0
    requests.wait_for_training()
    followers.watch()

    def follow_recipe() -> None:
        from worker.training.recipe import fine_tune  # an import that fails is reported like any failure

        gc.freeze()  # modules are never freed; to look through them takes most of a second of every collection
        nonlocal code
        code = 0 if fine_tune(order, events, requests, start, followers) else INTERRUPTED

    with EventWriter(order.events) as events:
        code = guarded(follow_recipe, events, [out_of_memory, kept_out]) or code
    followers.dismiss()
    requests.close()
    return code


def out_of_memory(error: BaseException) -> Failed | None:
    """A user error for running out of memory, with a hint about what would help. Returns None for other errors."""
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        return Failed(
            blame=Blame.USER,
            code="host_out_of_memory",
            message="the model or the batch needs more memory than this host has",
            hint="use a smaller model, lower per_device_train_batch_size or max_seq_length, or train on another host",
            param="model.model_name",
        )
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
