"""Is the base model there, may we read it, and has it the modules that the spec relies on?

Only small files are read: the config, and the headers of the weights.
"""

import json
import re
import struct
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, SafetensorsParsingError

from app.contracts.events import SpecResolved
from app.contracts.order import BASE_REPLACED, CheckOrder
from worker.base_files import CONFIG, INDEX, SINGLE, BaseFiles, weight_files
from worker.checking.generation import GENERATION_CONFIG, check_generation_config
from worker.checking.hub import hub_errors
from worker.events import EventWriter
from worker.failures import UserError
from worker.targets import check_saved, check_targets

PARAM = "model.model_name"
LARGEST_HEADER_BYTES = 100 * 2**20
EMBEDDING = re.compile(r"embed|^wte$|^wpe$")
NO_LINEAR = re.compile(rf"norm|^ln_|conv|{EMBEDDING.pattern}")
Shape = tuple[int, ...] | None
# How files of weights end that are no safetensors.
OTHER_WEIGHTS = (".gguf", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack")
CONVERT = (
    "where you trust the file: from transformers import AutoModelForCausalLM; AutoModelForCausalLM.from_pretrained("
    "FOLDER).save_pretrained(NEW_FOLDER); a GGUF is made from a model in safetensors form, take that one"
)


@dataclass(frozen=True)
class ModelFacts:
    """What the checks need to know of a base model. `modules` is empty where the weights' header cannot be read.
    `linear` are those of them that LoRA can sit on.

    `revision` is the commit of the hub that was looked at, or the hash of a folder's files.
    """

    modules: frozenset[str]
    linear: frozenset[str]
    positions: int | None
    vocabulary: int | None
    revision: str | None = None
    config: dict[str, Any] = field(default_factory=dict)


def check_model(order: CheckOrder, events: EventWriter) -> ModelFacts:
    """Raises UserError for a model that cannot be read or does not fit; pins its revision."""
    facts = _local_facts(order, events) if order.base.is_local else _hub_facts(order, events)
    _check_origin(order, facts)
    if not order.spec.model.full_finetuning:
        _check_targets(order, facts)
    return facts


def _check_targets(order: CheckOrder, facts: ModelFacts) -> None:
    lora, name = order.spec.lora, order.spec.model.model_name
    leaves = {module.rsplit(".", 1)[-1] for module in facts.modules}
    if leaves:
        linear = {module.rsplit(".", 1)[-1] for module in facts.linear}
        check_targets(lora.target_modules, linear, leaves - linear, name)
        check_saved(lora.modules_to_save or (), leaves, name)


def _check_origin(order: CheckOrder, facts: ModelFacts) -> None:
    """What a job goes on from belongs to the very weights that it was trained on."""
    was, origin = order.origin_revision, order.spec.continue_from
    if origin is None or was is None or facts.revision in (None, was):
        return
    field, name = ("adapter", origin.adapter) if origin.adapter is not None else ("job", origin.job)
    message = f"{name} was trained on other weights than {order.spec.model.model_name} has now: on {was}, not on "
    hint = "begin without continue_from, or put the old files back under this name"
    if not order.base.is_local:
        hint = f"begin without continue_from, or set model.revision to {was}"
    raise UserError(BASE_REPLACED, f"{message}{facts.revision}", hint=hint, param=f"continue_from.{field}")


def _check_weights(name: str, files: Collection[str]) -> None:
    """Raises UserError for a model without safetensors, of whose files nothing is read."""
    if SINGLE in files or INDEX in files:
        return
    others = sorted(
        (file for file in files if file.endswith(OTHER_WEIGHTS)), key=lambda file: ("model" not in file, file)
    )
    has = f"has its weights in {others[0]} only" if others else "has no weights"
    message = f"{name} {has}: only safetensors are read ({SINGLE}, or {INDEX} and its parts)"
    raise UserError("no_safetensors", message, hint=CONVERT, param=PARAM)


def _local_facts(order: CheckOrder, events: EventWriter) -> ModelFacts:
    folder, name, asked = Path(order.base.source), order.spec.model.model_name, order.base.revision
    _check_weights(name, {path.name for path in folder.iterdir()})
    revision = BaseFiles(order.cache_dir).revision(folder)
    if revision is None:
        message = f"{name} has not all of its weights: found neither {SINGLE} nor all parts that {INDEX} names"
        raise UserError("damaged_weights", message, param=PARAM)
    if asked not in (None, revision):
        message = f"the files of {name} were replaced: model.revision is {asked}, and they are {revision} now"
        hint = "put the old files back, or post the job anew without model.revision"
        raise UserError(BASE_REPLACED, message, hint=hint, param="model.revision")
    for file in weight_files(folder):
        if file != INDEX:
            _safetensors_header(folder / file)
    events.write(SpecResolved(values={"model.revision": revision}))

    def read(file: str) -> Path | None:
        return folder / file if (folder / file).is_file() else None

    return replace(_facts(read), revision=revision)


def _hub_facts(order: CheckOrder, events: EventWriter) -> ModelFacts:
    repo, name = order.base.source, order.spec.model.model_name
    with hub_errors(name, PARAM):
        found = HfApi().model_info(repo, revision=order.base.revision)
        sha, files = found.sha, {one.rfilename for one in found.siblings or ()}

        def fetch(file: str) -> Path | None:
            try:
                return Path(hf_hub_download(repo, file, revision=sha))
            except EntryNotFoundError:
                return None

        if fetch(CONFIG) is None:
            raise UserError(
                "not_a_model", f"{name} has no config.json", hint="is it a dataset or an adapter?", param=PARAM
            )
        _check_weights(name, files)
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
    positions, vocabulary = text.get("max_position_embeddings"), text.get("vocab_size")
    return ModelFacts(frozenset(weights), linear, positions, vocabulary, config=config)


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
    """The names of a file's tensors (safetensors format: 8 bytes of length, little endian, then JSON, then the data).

    Raises UserError for a file that is none, or that ends before its data do.
    """
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            raw = file.read(length) if length <= LARGEST_HEADER_BYTES else b""
        header: dict[str, Any] = json.loads(raw)
        tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
        size = 8 + length + max((entry["data_offsets"][1] for entry in tensors.values()), default=0)
    except (struct.error, ValueError, KeyError, TypeError, AttributeError, IndexError):
        raise UserError("damaged_weights", f"{path.name} is no safetensors file", param=PARAM) from None
    if path.stat().st_size < size:
        found = f"{path.name} has {path.stat().st_size:,} of its {size:,} bytes"
        raise UserError("damaged_weights", found, hint="copy the file again; is it being copied now?", param=PARAM)
    return tensors
