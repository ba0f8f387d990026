"""Answers from a job's checkpoint, which may be deleted for a newer one at any moment.

The trainer's optimizer and random states lie beside the weights as pickles; they are never opened here.
"""

from pathlib import Path

from app.contracts.checkpoints import CHECKPOINT_GONE, outline
from app.contracts.generation import AdapterRef, EngineError
from worker.inference.engine import Refusal

# Codes of errors that occur if files are deleted between the check and the reading.
TRACES = frozenset({"adapter_rejected", "model_unavailable", "engine_failed"})


def check_checkpoint(ref: AdapterRef) -> None:
    """Raises Refusal 404 `checkpoint_gone` unless the folder has exactly the content that the version names."""
    found = outline(Path(ref.path))
    if found is None or found.version != ref.version:
        raise Refusal(404, CHECKPOINT_GONE, f"the checkpoint {ref.name} no longer exists", "adapter")


def blame_checkpoint(ref: AdapterRef, error: EngineError) -> EngineError:
    """The error, or `checkpoint_gone` if that explains it."""
    if error.code not in TRACES:
        return error
    try:
        check_checkpoint(ref)
    except Refusal as gone:
        return gone.error
    return error
