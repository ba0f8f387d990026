"""Can the base's generation config be loaded? Trainer and engine load it with the weights, and need it to be right."""

import json
from pathlib import Path

from transformers import GenerationConfig

from app.contracts.model_card import GENERATION_CONFIG
from worker.failures import UserError


def check_generation_config(path: Path | None, param: str) -> None:
    """`path` is None where the base has none. Raises UserError for one that transformers does not load."""
    if path is None:
        return
    try:
        GenerationConfig.from_dict(json.loads(path.read_text()))
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            "invalid_generation_config",
            f"the base's {GENERATION_CONFIG} cannot be loaded: {str(error)[:500]}",
            hint="correct the file, or remove it: a base needs none",
            param=param,
        ) from error
