"""Control tokens that a base was never trained on: their vectors are zero, or the same for several tokens.

A chat template may write such tokens. LoRA leaves their vectors as they are, so that the model cannot tell them apart.
The checker looks for them in the files of a local base, the trainer in the loaded weights of one of the hub.
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
# Gives the vectors of tokens: of those that it has.
Reader = Callable[[Collection[int]], Vectors]
EMBEDDINGS, HEAD = "embed_tokens", "lm_head"
# As Unsloth counts a vector as zero.
ZERO = 1e-16
SHOWN = 8


@dataclass(frozen=True)
class Weights:
    """The vectors by which a model reads tokens, and those by which it writes them; `head` is None where they are the
    same ones."""

    embeddings: Reader
    head: Reader | None


def untrained_among(vectors: Vectors) -> set[int]:
    """The tokens whose vector is zero, or equal to that of another of them."""
    uses = Counter(vector.tobytes() for vector in vectors.values())
    return {token for token, vector in vectors.items() if np.abs(vector).max() <= ZERO or uses[vector.tobytes()] > 1}


def find_untrained(rows: Path, spec: JobSpec, added: Mapping[int, str], weights: Weights) -> Noticed | None:
    """The notice about `added` tokens of a tokenizer, by their ids, that rows hold and that this training leaves
    untrained; None where there are none.
    """
    if spec.model.full_finetuning or not added:
        return None
    modules = [*spec.lora.target_modules, *(spec.lora.modules_to_save or [])]
    trained = {name.rsplit(".", 1)[-1] for name in modules}
    found: set[int] = set()
    for column, module, read in ((INPUT_IDS, EMBEDDINGS, weights.embeddings), (LABELS, HEAD, weights.head)):
        if read is not None and module not in trained:
            found |= untrained_among(read(added)) & ids_in(rows, column, added)
    return _notice([added[token] for token in sorted(found)]) if found else None


def ids_in(rows: Path, column: str, among: Collection[int]) -> set[int]:
    """Which ids stand in a column of a file of rows."""
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
