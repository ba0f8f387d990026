"""Checks the files of an untrusted model: plain files of a bounded size, and a config that fits its weights.

No other model, folder or program that these files name is loaded.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from app.contracts.model_card import ADAPTER_CONFIG, CONFIG, INDEX, SINGLE
from worker.failures import UserError
from worker.model_card import PARAM, Shape, text_of

# The endings of weight files in other formats than safetensors.
OTHER_WEIGHTS = (".gguf", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack")
CONVERT = (
    "if you trust the file, convert it: from transformers import AutoModelForCausalLM; "
    "AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(NEW_FOLDER); "
    "a GGUF is made from a safetensors model, which can be used"
)
# Four times the largest tokenizers and indexes that are known. Other text files have a few kilobytes.
LARGEST_TEXT_BYTES = 128 * 2**20
TEXTS = (".json", ".jinja", ".txt", ".model")
MODEL_TYPE = re.compile(r"[A-Za-z0-9_.-]{1,100}")
EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "embed_in.weight", "word_embeddings.weight", "tok_embeddings.weight")
LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks?)\.(\d+)\.")
# Some architectures use a layer twice.
MOST_LAYERS_EACH = 2


def check_files(name: str, sizes: Mapping[str, int]) -> None:
    """Raises UserError if files of these names and sizes are not a model in safetensors form."""
    if ADAPTER_CONFIG in sizes:
        raise _is_adapter(name, is_alone=CONFIG not in sizes)
    if CONFIG not in sizes:
        raise UserError("not_a_model", f"{name} has no {CONFIG}", hint="is it a dataset?", param=PARAM)
    if SINGLE not in sizes and INDEX not in sizes:
        raise _no_safetensors(name, sizes)
    for file, size in sorted(sizes.items()):
        if file.endswith(TEXTS) and "/" not in file and size > LARGEST_TEXT_BYTES:
            message = f"{file} of {name} has {size:,} bytes; at most {LARGEST_TEXT_BYTES:,} are read"
            raise UserError("damaged_model", message, param=PARAM)


def _is_adapter(name: str, *, is_alone: bool) -> UserError:
    if is_alone:
        message = f"{name} is an adapter ({ADAPTER_CONFIG}), not a whole model"
        hint = "set the base that it was trained on; to continue an adapter of this service, use continue_from"
    else:
        message = f"{name} has {ADAPTER_CONFIG} beside {CONFIG}: an adapter names another model as its base, which is"
        message, hint = f"{message} never loaded", f"remove {ADAPTER_CONFIG}, or use the model without an adapter"
    return UserError("adapter_not_model", message, hint=hint, param=PARAM)


def _no_safetensors(name: str, files: Iterable[str]) -> UserError:
    others = sorted(
        (file for file in files if file.endswith(OTHER_WEIGHTS)), key=lambda file: ("model" not in file, file)
    )
    has = f"has its weights in {others[0]} only" if others else "has no weights"
    message = f"{name} {has}: only safetensors are read ({SINGLE}, or {INDEX} and its parts)"
    return UserError("no_safetensors", message, hint=CONVERT, param=PARAM)


def sizes_of(folder: Path) -> dict[str, int]:
    """Returns the size in bytes of each file of a folder. Raises UserError for a link that leads out of it."""
    sizes = {}
    for path in folder.iterdir():
        if path.is_symlink() and not path.resolve().is_relative_to(folder.resolve()):
            message = f"{path.name} of {folder.name} is a link that leads out of the model's folder"
            raise UserError("damaged_model", message, hint="put the file itself there", param=PARAM)
        if path.is_file():
            sizes[path.name] = path.stat().st_size
    return sizes


def check_config(name: str, config: Mapping[str, Any], shapes: Mapping[str, Shape]) -> None:
    """Raises UserError for an unknown model type, or for a config with larger sizes than the weights have."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    kind = config.get("model_type")
    if not all(isinstance(each, str) and MODEL_TYPE.fullmatch(each) for each in _model_types(config)):
        raise UserError("unknown_architecture", f"a model_type in {CONFIG} of {name} is not a valid name", param=PARAM)
    if kind not in CONFIG_MAPPING_NAMES:
        message = f"the model_type of {name} is {kind!r}, which this version of transformers does not know"
        hint = "code that comes with a model is never run" if "auto_map" in config else None
        raise UserError("unknown_architecture", message, hint=hint, param=PARAM)
    _check_size(name, text_of(config), shapes)


def _model_types(config: Any) -> Iterable[Any]:
    """Yields the types of the model and of its parts. The recursion is bounded, because the JSON parser was."""
    for key, value in config.items():
        if key == "model_type":
            yield value
        elif isinstance(value, dict):
            yield from _model_types(value)


def _check_size(name: str, config: Mapping[str, Any], shapes: Mapping[str, Shape]) -> None:
    rows = [shape[0] for tensor, shape in shapes.items() if shape and tensor.endswith(EMBEDDINGS)]
    layers = [int(found[1]) + 1 for tensor in shapes if (found := LAYER.search(tensor))]
    most = {"vocab_size": max(rows, default=None), "num_hidden_layers": max(layers, default=0) * MOST_LAYERS_EACH}
    for key, bound in most.items():
        value = config.get(key)
        if bound and isinstance(value, int) and value > bound:
            message = f"{CONFIG} of {name} has {key} {value:,}, but the weights allow at most {bound:,}"
            raise UserError("damaged_model", message, param=PARAM)
