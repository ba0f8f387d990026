"""Decides, from its order, what a checker, a trainer or a download process may read and write."""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from app.contracts.order import BaseRef, CheckOrder, TrainingOrder
from app.contracts.spec import HubSource
from app.contracts.trackers import host_of
from worker.confinement.process import NVIDIA_CONTROL, Allowed
from worker.memory import host_bytes

# For each process of a check. A usual check needs a tenth of it; a malicious file may try to use all memory.
MOST_CHECK_MEMORY_BYTES = 4 * 2**30
# Tokenised rows are larger than their text.
LARGEST_ROWS_FACTOR = 8
# More than a checkpoint of the largest model.
LARGEST_CHECKPOINT_BYTES = 2**40
# A training on a CPU may reserve more memory than it uses. Beyond this limit an allocation fails with an error that can
# be reported. With CUDA there is no limit, since CUDA reserves large address ranges: if memory runs short there, the
# kernel kills the training first (`worker.supervising.spare.OOM_SCORE`).
RESERVED_FACTOR = 2


def of_check(order: CheckOrder) -> Allowed:
    """A check may use its source files, the caches of prepared data and, if it downloads anything, the hub's cache."""
    dataset = order.spec.dataset
    sources = (dataset.source, dataset.eval_source)
    is_offline = order.base.is_local and not any(isinstance(source, HubSource) for source in sources)
    files = (one.path for one in (order.train_file, order.eval_file) if one is not None)
    caches = (order.cache_dir / name for name in ("prepared", "tokenizers", "bases"))
    starts_cuda = order.spec.model.chat_template is not None and NVIDIA_CONTROL.exists()  # by `worker.templating`
    return Allowed(
        reads=(_base(order.base, os.environ), *files),
        writes=(order.events.parent, order.data_dir.parent, *caches, *(() if is_offline else _hub_folders(os.environ))),
        is_offline=is_offline,
        is_confined=order.is_confined,
        memory_bytes=None if starts_cuda else MOST_CHECK_MEMORY_BYTES,
        file_bytes=max(order.max_hub_bytes, LARGEST_ROWS_FACTOR * order.max_unpacked_bytes),
    )


def of_training(order: TrainingOrder, environment: Mapping[str, str] = os.environ) -> Allowed:
    """A training may use its rows, the weights it starts from, its attempt's folder, its job's checkpoints, and the
    ports of its trackers' servers.

    `environment` names the host's hub cache. It is that of before `go_offline`.
    """
    begins = (path for path in (order.resume_from, order.start_from, order.eval_rows) if path is not None)
    bases = () if order.cache_dir is None else (order.cache_dir / "bases",)
    tracking = () if order.tracking is None else (order.tracking,)
    servers = (host_of(url) for url in order.spec.training.tracker_urls.values())
    return Allowed(
        reads=(_base(order.base, environment), order.train_rows.parent, order.tokenizer, *begins),
        writes=(order.events.parent, order.checkpoints, *bases, *tracking),
        is_offline=True,
        is_confined=order.is_confined,
        memory_bytes=None if NVIDIA_CONTROL.exists() else RESERVED_FACTOR * host_bytes(),
        file_bytes=LARGEST_CHECKPOINT_BYTES,
        has_ranks=order.ranks > 1,
        ports=tuple(int(server.rpartition(":")[2]) for server in servers),
    )


def of_follower(order: TrainingOrder, folder: Path) -> Allowed:
    """A rank without events and checkpoints of its own may read what the training may, and write to its folder."""
    of_all = of_training(order)
    return replace(of_all, writes=(folder, folder.parent, *of_all.writes[2:]))


def of_fetching(order: TrainingOrder) -> Allowed:
    """The download of a base may use the hub and the hub's cache."""
    return Allowed(
        reads=(),
        writes=(order.events.parent, *_hub_folders(os.environ)),
        is_offline=False,
        is_confined=order.is_fetching_confined,
        memory_bytes=MOST_CHECK_MEMORY_BYTES,
        file_bytes=order.max_hub_bytes,
    )


def is_confined(confinement: str, *, loads_unsloth: bool) -> bool:
    """Whether the kernel confines a process, by the setting `confinement` and by what it runs.

    On a GPU Unsloth compiles kernels, with compilers and headers that may lie outside of the permitted folders.
    """
    return confinement == "on" or (confinement == "auto" and not (loads_unsloth and NVIDIA_CONTROL.exists()))


def hub_folder(base: BaseRef, environment: Mapping[str, str] = os.environ) -> Path | None:
    """The folder of a base in this host's hub cache. Returns None for a base that is a local folder."""
    return None if base.is_local else _hub_folders(environment)[1] / f"models--{base.source.replace('/', '--')}"


def _base(base: BaseRef, environment: Mapping[str, str]) -> Path:
    return hub_folder(base, environment) or Path(base.source)


def _hub_folders(environment: Mapping[str, str]) -> tuple[Path, Path]:
    """The home and the cache of the hub's client. They are computed here because the client must not be imported before
    it is configured to be offline or not."""
    caches = environment.get("XDG_CACHE_HOME", "~/.cache")
    home = environment.get("HF_HOME", f"{caches}/huggingface")
    cache = environment.get("HF_HUB_CACHE", f"{home}/hub")
    return Path(os.path.expanduser(home)), Path(os.path.expanduser(cache))
