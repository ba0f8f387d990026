"""Checks that the base's generation config can be loaded, because trainer and engine load it with the weights."""

import json
from pathlib import Path

from transformers import GenerationConfig

from app.contracts.model_card import GENERATION_CONFIG
from worker.failures import UserError


def check_generation_config(path: Path | None, param: str) -> None:
    """Raises UserError if transformers cannot load the file. `path` is None if the base has none."""
    if path is None:
        return
    try:
        GenerationConfig.from_dict(json.loads(path.read_text()))
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            "invalid_generation_config",
            f"the base's {GENERATION_CONFIG} cannot be loaded: {str(error)[:500]}",
            hint="correct the file, or remove it: it is optional",
            param=param,
        ) from error
