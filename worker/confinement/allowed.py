"""What the checker and the trainer may read and write, by their orders."""

import os
from pathlib import Path

from app.contracts.order import BaseRef, CheckOrder, TrainingOrder
from app.contracts.spec import HubSource
from worker.confinement.process import NVIDIA_CONTROL, Allowed
from worker.memory import host_bytes

# Of one process of a check. A usual check takes a tenth; a file made to burst takes all there is.
MOST_CHECK_MEMORY_BYTES = 4 * 2**30
# Rows are larger as tokens than as text; and a checkpoint of the largest model is smaller than this.
LARGEST_ROWS_FACTOR = 8
LARGEST_CHECKPOINT_BYTES = 2**40
# A training on a CPU may reserve more than it uses; what it cannot have at all ends as an error that can be told. CUDA
# reserves what it likes: there the kernel ends the training first where memory is short
# (`worker.supervising.attempt.OOM_SCORE`).
RESERVED_FACTOR = 2


def of_check(order: CheckOrder) -> Allowed:
    """Its sources, the caches of prepared data, and the hub's cache where something of it is fetched."""
    dataset = order.spec.dataset
    sources = (dataset.source, dataset.eval_source)
    is_offline = order.base.is_local and not any(isinstance(source, HubSource) for source in sources)
    files = (one.path for one in (order.train_file, order.eval_file) if one is not None)
    caches = (order.cache_dir / name for name in ("prepared", "tokenizers", "bases"))
    starts_cuda = order.spec.model.chat_template is not None and NVIDIA_CONTROL.exists()  # by `worker.templating`
    return Allowed(
        reads=(_base(order.base), *files),
        writes=(order.events.parent, order.data_dir.parent, *caches, *(() if is_offline else _hub_folders())),
        cache=order.cache_dir,
        is_offline=is_offline,
        has_walls=order.has_walls,
        memory_bytes=None if starts_cuda else MOST_CHECK_MEMORY_BYTES,
        file_bytes=max(order.max_hub_bytes, LARGEST_ROWS_FACTOR * order.max_unpacked_bytes),
    )


def of_training(order: TrainingOrder) -> Allowed:
    """Its rows, the weights it begins with, its attempt and its checkpoints."""
    begins = (path for path in (order.resume_from, order.start_from, order.eval_rows) if path is not None)
    bases = () if order.cache_dir is None else (order.cache_dir / "bases",)
    return Allowed(
        reads=(_base(order.base), order.train_rows.parent, order.tokenizer, *begins),
        writes=(order.events.parent, order.checkpoints, *bases),
        cache=order.cache_dir,
        is_offline=True,
        has_walls=order.has_walls,
        memory_bytes=None if NVIDIA_CONTROL.exists() else RESERVED_FACTOR * host_bytes(),
        file_bytes=LARGEST_CHECKPOINT_BYTES,
    )


def of_fetching(order: TrainingOrder) -> Allowed:
    """The hub, and its cache."""
    return Allowed(
        reads=(),
        writes=(order.events.parent, *_hub_folders()),
        cache=order.cache_dir,
        is_offline=False,
        has_walls=order.has_walls,
        memory_bytes=MOST_CHECK_MEMORY_BYTES,
        file_bytes=order.max_hub_bytes,
    )


def hub_folder(base: BaseRef) -> Path | None:
    """Where the hub's cache of this host keeps a base; None for one that is not of the hub."""
    return None if base.is_local else _hub_folders()[1] / f"models--{base.source.replace('/', '--')}"


def _base(base: BaseRef) -> Path:
    return hub_folder(base) or Path(base.source)


def _hub_folders() -> tuple[Path, Path]:
    """The home and the cache of the hub's client. It is not asked: it must not be imported before it is told whether it
    is offline."""
    caches = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    home = os.environ.get("HF_HOME", f"{caches}/huggingface")
    cache = os.environ.get("HF_HUB_CACHE", f"{home}/hub")
    return Path(os.path.expanduser(home)), Path(os.path.expanduser(cache))
