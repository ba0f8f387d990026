"""Is the base model there, may we read it, and has it the modules that the spec relies on?

Only small files are read: the config, and the headers of the weights.
"""

import json
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError

from app.contracts.events import SpecResolved
from app.contracts.order import CheckOrder
from worker.checking.hub import hub_errors
from worker.events import EventWriter
from worker.failures import UserError

PARAM = "model.model_name"
CONFIG, INDEX, SINGLE = "config.json", "model.safetensors.index.json", "model.safetensors"
LARGEST_HEADER_BYTES = 100 * 2**20


@dataclass(frozen=True)
class ModelFacts:
    """What the checks need to know of a base model. `modules` is empty where the weights' header cannot be read.

    `revision` is the commit of the hub that was looked at.
    """

    modules: frozenset[str]
    positions: int | None
    vocabulary: int | None
    revision: str | None = None


def check_model(order: CheckOrder, events: EventWriter) -> ModelFacts:
    """Raises UserError for a model that cannot be read or does not fit; pins a hub model's revision."""
    facts = _local_facts(Path(order.base.source)) if order.base.is_local else _hub_facts(order, events)
    if not order.spec.model.full_finetuning:
        _check_targets(order, facts)
    _notice_context(order, facts, events)
    return facts


def _notice_context(order: CheckOrder, facts: ModelFacts, events: EventWriter) -> None:
    """Rows longer than the model knows positions for are trained, and answers stay within its own context."""
    asked, own = order.spec.model.max_seq_length, facts.positions
    if own is not None and asked > own:
        message = f"the model knows {own} positions: Unsloth scales its RoPE to train, and serving stays within {own}"
        events.notice("context_extended", message, field="model.max_seq_length", requested=asked, effective=asked)


def _check_targets(order: CheckOrder, facts: ModelFacts) -> None:
    wanted = [*order.spec.lora.target_modules, *(order.spec.lora.modules_to_save or [])]
    leaves = {module.rsplit(".", 1)[-1] for module in facts.modules} | {"lm_head"}  # a tied head has no weights
    unknown = [name for name in wanted if name.rsplit(".", 1)[-1] not in leaves]
    if facts.modules and unknown:
        raise UserError(
            "unknown_target_module",
            f"{order.spec.model.model_name} has no modules named {', '.join(unknown)}",
            hint=f"it has {', '.join(sorted(leaves))}",
            param="lora.target_modules",
        )


def _local_facts(folder: Path) -> ModelFacts:
    def read(name: str) -> Path | None:
        return folder / name if (folder / name).is_file() else None

    return _facts(read)


def _hub_facts(order: CheckOrder, events: EventWriter) -> ModelFacts:
    repo, name = order.base.source, order.spec.model.model_name
    with hub_errors(name, PARAM):
        sha = HfApi().model_info(repo, revision=order.base.revision).sha

        def fetch(file: str) -> Path | None:
            try:
                return Path(hf_hub_download(repo, file, revision=sha))
            except EntryNotFoundError:
                return None

        if fetch(CONFIG) is None:
            raise UserError(
                "not_a_model", f"{name} has no config.json", hint="is it a dataset or an adapter?", param=PARAM
            )
        events.write(SpecResolved(values={"model.revision": sha}))
        facts = _facts(lambda name: fetch(name) if name != SINGLE else None)  # gigabytes, for its header
        return replace(facts, revision=sha)


def _facts(read: Callable[[str], Path | None]) -> ModelFacts:
    """`read` gives a file of the model by its name, or None."""
    index, single = read(INDEX), read(SINGLE)
    if index is not None:
        tensors = list(json.loads(index.read_text())["weight_map"])
    else:
        tensors = list(_safetensors_header(single)) if single is not None else []
    modules = {name.rsplit(".", 1)[0] for name in tensors if name.endswith(".weight")}
    config = _json(read(CONFIG))
    text = config.get("text_config", config)  # of a model that also sees
    return ModelFacts(frozenset(modules), text.get("max_position_embeddings"), text.get("vocab_size"))


def _json(path: Path | None) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text()) if path is not None else {}
    return found


def _safetensors_header(path: Path) -> dict[str, Any]:
    """The names of a file's tensors (safetensors format: 8 bytes of length, little endian, then JSON)."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if length > LARGEST_HEADER_BYTES:
            raise UserError("damaged_weights", f"{path.name} is no safetensors file", param=PARAM)
        header: dict[str, Any] = json.loads(file.read(length))
    return {name: entry for name, entry in header.items() if name != "__metadata__"}
