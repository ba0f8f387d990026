"""Reads the embedding vectors of single tokens from the weight files of a model, without loading the files."""

from collections.abc import Collection
from functools import partial
from pathlib import Path

import numpy as np

from worker.model_card import files_by_tensor, read_header
from worker.untrained import Vector, Vectors, Weights

# The names of the input embedding matrix and of the output matrix in different models.
EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "embed_in.weight", "word_embeddings.weight")
HEADS = ("lm_head.weight", "embed_out.weight")
WIDTHS = {"F32": 4, "F16": 2, "BF16": 2}


def weights_of(folder: Path) -> Weights | None:
    """Returns readers for the input and output vectors, or None if the files have no input embedding matrix."""
    files = files_by_tensor(folder)
    found = [next((name for name in files if name.endswith(ends)), None) for ends in (EMBEDDINGS, HEADS)]
    readers = [partial(_read, folder / files[name], name) if name is not None else None for name in found]
    return Weights(readers[0], readers[1]) if readers[0] is not None else None


def _read(path: Path, name: str, tokens: Collection[int]) -> Vectors:
    """Returns the vectors of the tokens. Returns {} for a matrix that is not of 16- or 32-bit floats."""
    header, begin = read_header(path)
    kind, shape, offset = header[name]["dtype"], header[name]["shape"], header[name]["data_offsets"][0]
    if kind not in WIDTHS or len(shape) != 2:
        return {}
    size = shape[1] * WIDTHS[kind]
    vectors = {}
    with path.open("rb") as file:
        for token in tokens:
            if token < shape[0]:
                file.seek(begin + offset + token * size)
                vectors[token] = _numbers(file.read(size), kind)
    return vectors


def _numbers(row: bytes, kind: str) -> Vector:
    if kind == "BF16":  # the upper half of a float32
        return (np.frombuffer(row, "<u2").astype(np.uint32) << 16).view(np.float32)
    return np.frombuffer(row, "<f4" if kind == "F32" else "<f2").astype(np.float32)
