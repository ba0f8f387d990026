"""A job's checkpoint as who answers: it may make room for a newer one at any moment, and then it is no answer at all.

The trainer's optimizer and random numbers lie beside the weights, as pickles; they are never opened here.
"""

from pathlib import Path

from app.contracts.checkpoints import CHECKPOINT_GONE, outline
from app.contracts.generation import AdapterRef, EngineError
from worker.inference.engine import Refusal

# How it shows that files went away between the look at them and their reading.
TRACES = frozenset({"adapter_rejected", "model_unavailable", "engine_failed"})


def check_checkpoint(ref: AdapterRef) -> None:
    """Raises Refusal 404 `checkpoint_gone` unless the folder has the content that the version names, in full."""
    found = outline(Path(ref.path))
    if found is None or found.version != ref.version:
        raise Refusal(404, CHECKPOINT_GONE, f"the checkpoint {ref.name} is not kept any more", "adapter")


def blame_checkpoint(ref: AdapterRef, error: EngineError) -> EngineError:
    """The error, or that the checkpoint is gone where that explains it."""
    if error.code not in TRACES:
        return error
    try:
        check_checkpoint(ref)
    except Refusal as gone:
        return gone.error
    return error
