"""Is the base model there, may we read it, and has it the modules that the spec relies on?

Only small files are read: the config, and the headers of the weights.
"""

import json
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, SafetensorsParsingError

from app.contracts.events import SpecResolved
from app.contracts.order import CheckOrder
from worker.checking.generation import GENERATION_CONFIG, check_generation_config
from worker.checking.hub import hub_errors
from worker.events import EventWriter
from worker.failures import UserError
from worker.targets import check_saved, check_targets

PARAM = "model.model_name"
CONFIG, INDEX, SINGLE = "config.json", "model.safetensors.index.json", "model.safetensors"
LARGEST_HEADER_BYTES = 100 * 2**20
EMBEDDING = re.compile(r"embed|^wte$|^wpe$")
NO_LINEAR = re.compile(rf"norm|^ln_|conv|{EMBEDDING.pattern}")
Shape = tuple[int, ...] | None


@dataclass(frozen=True)
class ModelFacts:
    """What the checks need to know of a base model. `modules` is empty where the weights' header cannot be read.
    `linear` are those of them that LoRA can sit on.

    `revision` is the commit of the hub that was looked at.
    """

    modules: frozenset[str]
    linear: frozenset[str]
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
    lora, name = order.spec.lora, order.spec.model.model_name
    leaves = {module.rsplit(".", 1)[-1] for module in facts.modules}
    if leaves:
        linear = {module.rsplit(".", 1)[-1] for module in facts.linear}
        check_targets(lora.target_modules, linear, leaves - linear, name)
        check_saved(lora.modules_to_save or (), leaves, name)


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
        shapes = partial(_hub_shapes, repo, sha)
        facts = _facts(lambda name: fetch(name) if name != SINGLE else None, shapes)  # gigabytes, for its header
        return replace(facts, revision=sha)


def _hub_shapes(repo: str, sha: str | None) -> dict[str, Shape]:
    """Those of a model whose weights are one file: of that its header is fetched."""
    try:
        found = HfApi().parse_safetensors_file_metadata(repo, SINGLE, revision=sha)
    except EntryNotFoundError:
        return {}
    except SafetensorsParsingError as error:
        raise UserError("damaged_weights", f"{SINGLE} of {repo} is no safetensors file", param=PARAM) from error
    return {name: tuple(tensor.shape) for name, tensor in found.tensors.items()}


def _facts(read: Callable[[str], Path | None], shapes_elsewhere: Callable[[], dict[str, Shape]] = dict) -> ModelFacts:
    """`read` gives a file of the model by its name, or None; what it does not give may have its shapes elsewhere."""
    check_generation_config(read(GENERATION_CONFIG), PARAM)
    shapes = _shapes(read) or shapes_elsewhere()
    weights = {name.rsplit(".", 1)[0]: shape for name, shape in shapes.items() if name.endswith(".weight")}
    linear = frozenset(module for module, shape in weights.items() if _is_linear(module, shape))
    config = _json(read(CONFIG))
    text = config.get("text_config", config)  # of a model that also sees
    return ModelFacts(frozenset(weights), linear, text.get("max_position_embeddings"), text.get("vocab_size"))


def _shapes(read: Callable[[str], Path | None]) -> dict[str, Shape]:
    """Of every tensor by its name; None where its file is not here, and only the index tells of it."""
    index, single = read(INDEX), read(SINGLE)
    if index is None:
        return _safetensors_shapes(single) if single is not None else {}
    files: dict[str, str] = json.loads(index.read_text())["weight_map"]
    shapes: dict[str, Shape] = dict.fromkeys(files)
    for part in sorted({*files.values()}):
        if (index.parent / part).is_file():
            shapes |= _safetensors_shapes(index.parent / part)
    return shapes


def _safetensors_shapes(path: Path) -> dict[str, Shape]:
    return {name: tuple(entry["shape"]) for name, entry in _safetensors_header(path).items()}


def _is_linear(module: str, shape: Shape) -> bool:
    """A weight of two dimensions; by its name where the shape is not known. An embedding has such a weight too."""
    leaf = module.rsplit(".", 1)[-1]
    return not NO_LINEAR.search(leaf) if shape is None else len(shape) == 2 and not EMBEDDING.search(leaf)


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
