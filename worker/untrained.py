"""Finds control tokens on which a base was never trained: their vectors are zero, or equal for several tokens.

A chat template may write such tokens. LoRA does not change their vectors, so the model cannot tell them apart. The
checker looks for them in the files of a local base, the trainer in the loaded weights of a base from the hub.
"""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from app.contracts.events import Noticed
from app.contracts.rows import INPUT_IDS, LABELS
from app.contracts.spec import JobSpec

Vector = NDArray[np.float32]
Vectors = Mapping[int, Vector]
# Returns the vectors of those of the given tokens that have one.
Reader = Callable[[Collection[int]], Vectors]
EMBEDDINGS, HEAD = "embed_tokens", "lm_head"
# Unsloth counts a vector as zero up to this value.
ZERO = 1e-16
SHOWN = 8


@dataclass(frozen=True)
class Weights:
    """Reads a model's input embeddings and its output head. `head` is None if both are the same tensor."""

    embeddings: Reader
    head: Reader | None


def untrained_among(vectors: Vectors) -> set[int]:
    """The tokens whose vector is zero or equals the vector of another of these tokens."""
    uses = Counter(vector.tobytes() for vector in vectors.values())
    return {token for token, vector in vectors.items() if np.abs(vector).max() <= ZERO or uses[vector.tobytes()] > 1}


def find_untrained(rows: Path, spec: JobSpec, added: Mapping[int, str], weights: Weights) -> Noticed | None:
    """A notice about tokens that occur in the rows and stay untrained in this training. Returns None if there are none.

    `added`: the tokenizer's added tokens, by id; no others are looked at.
    """
    if spec.model.full_finetuning or not added:
        return None
    modules = [*spec.lora.named_targets, *(spec.lora.modules_to_save or [])]
    trained = {name.rsplit(".", 1)[-1] for name in modules}
    found: set[int] = set()
    for column, module, read in ((INPUT_IDS, EMBEDDINGS, weights.embeddings), (LABELS, HEAD, weights.head)):
        if read is not None and module not in trained:
            found |= untrained_among(read(added)) & ids_in(rows, column, added)
    return _notice([added[token] for token in sorted(found)]) if found else None


def ids_in(rows: Path, column: str, among: Collection[int]) -> set[int]:
    """Those ids of `among` that occur in a column of a file of rows."""
    end = max(among) + 1
    seen = np.zeros(end, bool)
    with pa.OSFile(str(rows)) as file, pa.ipc.open_stream(file) as reader:
        for batch in reader:
            ids = batch[column].flatten().to_numpy()
            seen[ids[(ids >= 0) & (ids < end)]] = True
    return {int(token) for token in among if seen[token]}


def _notice(names: Sequence[str]) -> Noticed:
    shown = ", ".join(names[:SHOWN]) + (", …" if len(names) > SHOWN else "")
    message = (
        f"the base was never trained on {shown}: their vectors are zero, or the same for several tokens, and LoRA "
        "leaves them so. Take a chat_template whose tokens the base knows, or train embed_tokens and lm_head too, by "
        "lora.modules_to_save"
    )
    return Noticed(code="untrained_tokens", message=message, field="model.chat_template")
