"""Reads the config of a model, the index of its weights, and the headers of its weight files.

Only a bounded part of an untrusted file is read. No other file, folder or model that it names is loaded.
"""

import json
from collections.abc import Mapping
from math import prod
from pathlib import Path, PurePath
from typing import Any

from safetensors import SafetensorError, safe_open

from app.contracts.model_card import CONFIG, INDEX, SINGLE, ModelCard
from worker.failures import UserError

PARAM = "model.model_name"
# The same limit as that of the hub client.
LARGEST_HEADER_BYTES = 25_000_000


# The weights of the output head. A model without them uses those of its embeddings.
HEAD = "lm_head.weight"
Shape = tuple[int, ...] | None


def card_of(config: Mapping[str, Any], weight_bytes: int, shapes: Mapping[str, Shape] | None = None) -> ModelCard:
    """Returns the card of a model. The sizes are those of the text part of its config.

    `shapes`: of all tensors in its weight files; None for a tensor whose file was not read.
    """
    text, is_quantised = text_of(config), "quantization_config" in config
    known = [shape for shape in (shapes or {}).values() if shape is not None]
    are_counted = bool(shapes) and len(known) == len(shapes or ()) and not is_quantised
    tied = text.get("tie_word_embeddings", config.get("tie_word_embeddings"))

    def size(name: str) -> int | None:
        value = text.get(name)
        return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None

    return ModelCard(
        positions=size("max_position_embeddings"),
        vocabulary=size("vocab_size"),
        hidden_size=size("hidden_size"),
        intermediate_size=size("intermediate_size"),
        layers=size("num_hidden_layers"),
        is_quantised=is_quantised,
        weight_bytes=weight_bytes,
        heads=size("num_attention_heads"),
        key_value_heads=size("num_key_value_heads"),
        head_dim=size("head_dim"),
        is_tied=not any(name.endswith(HEAD) for name in shapes) if shapes else tied if tied in (True, False) else None,
        parameters=sum(prod(shape) for shape in known) if are_counted else None,
    )


def read_card(folder: Path) -> ModelCard | None:
    """Returns the card of a model that no job has checked, or None if its config cannot be read.

    The headers of its weight files are not read.
    """
    try:
        config = read_json(folder / CONFIG)
        return card_of(config, sum(path.stat().st_size for path in folder.glob("*.safetensors")))
    except (OSError, UserError):
        return None


def text_of(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the part of a config about text: the config of a multimodal model has a part for each modality."""
    text = config.get("text_config")
    return text if isinstance(text, dict) else config


def read_json(path: Path | None) -> dict[str, Any]:
    """Returns the JSON object of a file, or {} if `path` is None. Raises UserError if it is not a JSON object."""
    try:
        found = json.loads(path.read_bytes()) if path is not None else {}
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        name = path.name if path is not None else ""
        raise UserError("damaged_model", f"{name} is not a JSON object, or it is nested too deeply", param=PARAM)
    return found


def parts_of(index: Mapping[str, Any]) -> dict[str, str]:
    """Returns the file of each tensor in an index. Raises UserError if the index names a file of another folder."""
    parts = index.get("weight_map")
    if not isinstance(parts, dict):
        raise UserError("damaged_weights", f"{INDEX} has no weight_map", param=PARAM)
    for part in parts.values():
        if not (isinstance(part, str) and part.endswith(".safetensors") and PurePath(part).name == part):
            message = f"{INDEX} names {str(part)[:100]!r} as a part, expected the name of a safetensors file beside it"
            raise UserError("damaged_weights", message, param=PARAM)
    return parts


def files_by_tensor(folder: Path) -> dict[str, str]:
    """Returns the file of each tensor of a model, or {} if it has neither a single weights file nor an index.

    A single file has precedence over an index, as in transformers. Raises UserError for damaged files.
    """
    if (folder / SINGLE).is_file():
        return dict.fromkeys(read_header(folder / SINGLE)[0], SINGLE)
    return parts_of(read_json(folder / INDEX)) if (folder / INDEX).is_file() else {}


def count_numbers(folder: Path) -> int:
    """Returns the number of parameters in the weight files of a folder. Raises UserError for damaged files."""
    headers = [read_header(path)[0] for path in folder.glob("*.safetensors")]
    return sum(prod(entry["shape"]) for header in headers for entry in header.values())


def read_header(path: Path) -> tuple[dict[str, Any], int]:
    """Returns the header entries of a safetensors file by tensor name, and the offset of its data in bytes.

    Format: 8 bytes of length, little endian, then JSON, then the data. Raises UserError for an invalid or truncated
    file.
    """
    with path.open("rb") as file:
        start = file.read(8)
        length = int.from_bytes(start, "little")
        if len(start) == 8 and LARGEST_HEADER_BYTES < length <= path.stat().st_size:
            message = f"{path.name} has a header of {length:,} bytes; at most {LARGEST_HEADER_BYTES:,} are read"
            raise UserError("damaged_weights", message, param=PARAM)
        raw = file.read(length) if length <= LARGEST_HEADER_BYTES else b""
    try:
        tensors = {name: entry for name, entry in json.loads(raw).items() if name != "__metadata__"}
        size = 8 + length + max((entry["data_offsets"][1] for entry in tensors.values()), default=0)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
        raise UserError("damaged_weights", f"{path.name} is not a safetensors file", param=PARAM) from None
    if path.stat().st_size < size:
        found = f"{path.name} has {path.stat().st_size:,} of its {size:,} bytes"
        raise UserError("damaged_weights", found, hint="copy the file again; is it being copied now?", param=PARAM)
    try:
        with safe_open(path, framework="np"):  # the library checks shapes, types and offsets
            return tensors, 8 + length
    except SafetensorError as error:
        message = f"{path.name} is not a safetensors file: {str(error)[:200]}"
        raise UserError("damaged_weights", message, param=PARAM) from None
