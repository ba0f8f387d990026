"""Checks that the base model exists, can be read, and has the modules that the spec names.

Only small files are read: the config, and the headers of the weights.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.errors import EntryNotFoundError, SafetensorsParsingError

from app.contracts.events import SpecPinned
from app.contracts.model_card import CONFIG, GENERATION_CONFIG, INDEX, SINGLE, ModelCard
from app.contracts.order import BASE_REPLACED, CheckOrder
from worker.base_files import BaseFiles
from worker.checking.generation import check_generation_config
from worker.checking.hub import hub_errors
from worker.checking.model_files import check_config, check_files, sizes_of
from worker.downloads import Repository, files_of_model, look_at_model
from worker.events import EventWriter
from worker.failures import UserError
from worker.model_card import PARAM, Shape, card_of, parts_of, read_header, read_json
from worker.targets import all_linear, check_layers, check_patterns, check_saved, check_targets

EMBEDDING = re.compile(r"embed|^wte$|^wpe$")
NO_LINEAR = re.compile(rf"norm|^ln_|conv|{EMBEDDING.pattern}")


@dataclass(frozen=True)
class ModelFacts:
    """What the checks know about a base model.

    `modules` is empty if no header of the weights can be read. `linear` are the modules that LoRA can adapt.
    `revision` is the commit on the hub, or the hash of a local folder's files.
    """

    card: ModelCard
    modules: frozenset[str]
    linear: frozenset[str]
    revision: str | None = None
    config: dict[str, Any] = field(default_factory=dict)


def check_model(order: CheckOrder, events: EventWriter) -> ModelFacts:
    """Returns the facts of the base and pins its revision by an event. Raises UserError if the job cannot use it."""
    facts = _local_facts(order, events) if order.base.is_local else _hub_facts(order, events)
    _check_origin(order, facts)
    if not order.spec.model.full_finetuning:
        _check_targets(order, facts, events)
    return facts


def _check_targets(order: CheckOrder, facts: ModelFacts, events: EventWriter) -> None:
    """Replaces "all-linear" by the modules of this model, by an event."""
    lora, name = order.spec.lora, order.spec.model.model_name
    check_layers(lora.layers_to_transform, facts.card.layers, name)
    leaves = {module.rsplit(".", 1)[-1] for module in facts.modules}
    linear = {module.rsplit(".", 1)[-1] for module in facts.linear}
    if lora.target_modules == "all-linear":
        targets = all_linear(linear, name)
        check_patterns(lora, targets, name)
        events.write(SpecPinned(values={"lora.target_modules": targets}))
    if leaves:
        check_targets(lora.named_targets or sorted(linear), linear, leaves - linear, name)
        check_saved(lora.modules_to_save or (), leaves, name)


def _check_origin(order: CheckOrder, facts: ModelFacts) -> None:
    """Raises UserError if the adapter or job to continue from was trained on other weights than the base has now."""
    was, origin = order.origin_revision, order.spec.continue_from
    if origin is None or was is None or facts.revision in (None, was):
        return
    field, name = ("adapter", origin.adapter) if origin.adapter is not None else ("job", origin.job)
    message = f"{name} was trained on other weights than {order.spec.model.model_name} has now: on {was}, not on "
    hint = "start without continue_from, or put the old files back under this name"
    if not order.base.is_local:
        hint = f"start without continue_from, or set model.revision to {was}"
    raise UserError(BASE_REPLACED, f"{message}{facts.revision}", hint=hint, param=f"continue_from.{field}")


def _local_facts(order: CheckOrder, events: EventWriter) -> ModelFacts:
    folder, name, requested = Path(order.base.source), order.spec.model.model_name, order.base.revision
    sizes = sizes_of(folder)
    check_files(name, sizes)

    def read(file: str) -> Path | None:
        return folder / file if (folder / file).is_file() else None

    facts = _facts(name, sizes, read)
    revision = BaseFiles(order.cache_dir).revision(folder)
    if revision is None:
        message = f"some weights of {name} are missing: found neither {SINGLE} nor all parts that {INDEX} names"
        raise UserError("damaged_weights", message, param=PARAM)
    if requested not in (None, revision):
        message = f"the files of {name} were replaced: model.revision is {requested}, but the files now have {revision}"
        hint = "put the old files back, or submit the job again without model.revision"
        raise UserError(BASE_REPLACED, message, hint=hint, param="model.revision")
    events.write(SpecPinned(values={"model.revision": revision}))
    return replace(facts, revision=revision)


def _hub_facts(order: CheckOrder, events: EventWriter) -> ModelFacts:
    repo, name = order.base.source, order.spec.model.model_name
    with hub_errors(name, PARAM):
        found = look_at_model(repo, order.base.revision)
        check_files(name, found.sizes)
        events.write(SpecPinned(values={"model.revision": found.sha}))

        def read(file: str) -> Path | None:
            is_small = file in found.sizes and file != SINGLE  # downloading gigabytes for its header is too slow
            return found.download(file) if is_small else None

        facts = replace(_facts(name, found.sizes, read, partial(_hub_shapes, repo, found.sha)), revision=found.sha)
        _check_download(name, found, order.max_hub_bytes)
        return facts


def _check_download(name: str, found: Repository, max_bytes: int) -> None:
    """Raises an error if the trainer could not download all files that it reads."""
    files = files_of_model(found)
    if SINGLE not in files:
        missing = sorted({*parts_of(read_json(found.download(INDEX))).values()} - {*files})
        if missing:
            message = f"some weights of {name} are missing: {INDEX} names {missing[0]}, which does not exist"
            raise UserError("damaged_weights", message, param=PARAM)
    found.check(files, max_bytes)


def _hub_shapes(repo: str, sha: str | None) -> dict[str, Shape]:
    """Returns the shapes of a model with a single weights file. Only the header of the file is downloaded."""
    try:
        found = HfApi().parse_safetensors_file_metadata(repo, SINGLE, revision=sha)
    except EntryNotFoundError:
        return {}
    except SafetensorsParsingError as error:
        raise UserError("damaged_weights", f"{SINGLE} of {repo} is not a safetensors file", param=PARAM) from error
    return {name: tuple(tensor.shape) for name, tensor in found.tensors.items()}


def _facts(
    name: str,
    sizes: Mapping[str, int],
    read: Callable[[str], Path | None],
    shapes_elsewhere: Callable[[], dict[str, Shape]] = dict,
) -> ModelFacts:
    """`read` returns the path of a file of the model, or None. If it has no weights, `shapes_elsewhere` is called."""
    check_generation_config(read(GENERATION_CONFIG), PARAM)
    shapes = _shapes(read) or shapes_elsewhere()
    weights = {tensor.rsplit(".", 1)[0]: shape for tensor, shape in shapes.items() if tensor.endswith(".weight")}
    linear = frozenset(module for module, shape in weights.items() if _is_linear(module, shape))
    config = read_json(read(CONFIG))
    check_config(name, config, shapes)
    files = {SINGLE} if SINGLE in sizes else {*parts_of(read_json(read(INDEX))).values()}
    card = card_of(config, sum(sizes.get(file, 0) for file in files), shapes)
    return ModelFacts(card, frozenset(weights), linear, config=config)


def _shapes(read: Callable[[str], Path | None]) -> dict[str, Shape]:
    """Returns the shape of every tensor, or None for a tensor that is in the index but whose file is not here.

    A single file has precedence over an index, as in transformers.
    """
    single, index = read(SINGLE), read(INDEX)
    if single is not None:
        return _safetensors_shapes(single)
    if index is None:
        return {}
    files = parts_of(read_json(index))
    shapes: dict[str, Shape] = dict.fromkeys(files)
    for part in sorted({*files.values()}):
        if (index.parent / part).is_file():
            shapes |= _safetensors_shapes(index.parent / part)
    return shapes


def _safetensors_shapes(path: Path) -> dict[str, Shape]:
    return {name: tuple(entry["shape"]) for name, entry in read_header(path)[0].items()}


def _is_linear(module: str, shape: Shape) -> bool:
    """Whether a module is linear: by its shape, or by its name if the shape is unknown. Embeddings are excluded."""
    leaf = module.rsplit(".", 1)[-1]
    return not NO_LINEAR.search(leaf) if shape is None else len(shape) == 2 and not EMBEDDING.search(leaf)
