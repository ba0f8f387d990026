"""Checks the LoRA modules that a spec names against the modules of a model, for the checker and the trainer."""

import difflib
from collections.abc import Collection, Sequence
from typing import Any

from app.contracts.spec import LoraSpec
from worker.failures import UserError

FIELD = "lora.target_modules"
# Unsloth trains these modules in full, whichever field names them.
EMBEDDINGS = frozenset({"embed_tokens", "lm_head"})


def check_targets(targets: Sequence[str], linear: Collection[str], others: Collection[str], model: str) -> None:
    """Raises UserError unless every target is a linear module or an embedding, and at least one is a linear module.

    `linear`, `others`: the last parts of the names of the model's linear modules, and of all others. `model`: its name
    for messages.
    """
    leaves = [name.rsplit(".", 1)[-1] for name in targets]
    allowed = {*linear, *EMBEDDINGS}
    wrong_indices = [index for index, leaf in enumerate(leaves) if leaf not in allowed]
    known = ", ".join(sorted({*linear} - EMBEDDINGS))
    if not wrong_indices and not {*leaves} <= EMBEDDINGS:
        return
    if not wrong_indices:
        raise UserError(
            "no_linear_target",
            f"{FIELD}: found {', '.join(targets)}, which are trained in full, and no module to which LoRA can be added",
            hint=f"name a linear module too, or train all weights with model.full_finetuning; {model} has {known}",
            param=FIELD,
        )
    details = [_detail(index, targets[index], leaves[index] in others, sorted(allowed)) for index in wrong_indices]
    first, more = details[0], f" (and {len(wrong_indices) - 1} more)" if len(wrong_indices) > 1 else ""
    message = f"{first['field']}: found {first['found']} of {model}, expected {first['expected']}{more}"
    hint = f"the linear modules of {model} are {known}"
    raise UserError("unknown_target_module", message, hint=hint, param=first["field"], details=details)


def all_linear(linear: Collection[str], model: str) -> list[str]:
    """The targets that "all-linear" means, in PEFT's sense: without the output head. Raises UserError for none."""
    targets = sorted({*linear} - EMBEDDINGS)
    if not targets:
        message = f"{FIELD}: found all-linear, but the linear modules of {model} cannot be read from its files"
        raise UserError("no_linear_target", message, hint="name the modules", param=FIELD)
    return targets


def check_patterns(lora: LoraSpec, targets: Sequence[str], model: str) -> None:
    """Raises UserError for a name in `lora.rank_pattern` or `lora.alpha_pattern` that is none of the targets."""
    for field in ("rank_pattern", "alpha_pattern"):
        for name in getattr(lora, field) or ():
            if name not in targets:
                place = f"lora.{field}.{name}"
                message = f"{place}: found {name}, expected one of the linear modules of {model}: {', '.join(targets)}"
                raise UserError("unknown_target_module", message, param=place)


def check_layers(numbers: Sequence[int] | None, layers: int | None, model: str) -> None:
    """Raises UserError for a number in `lora.layers_to_transform` that is beyond the model's layers, if it is known how
    many it has.
    """
    for index, number in enumerate(numbers or ()):
        if layers is not None and number >= layers:
            field = f"lora.layers_to_transform.{index}"
            message = f"{field}: found {number}, expected a number from 0 to {layers - 1}: {model} has {layers} layers"
            raise UserError("unknown_layer", message, param=field)


def check_saved(names: Sequence[str], modules: Collection[str], model: str) -> None:
    """Raises UserError for `lora.modules_to_save` that the model does not have. Any module can be trained in full."""
    for index, name in enumerate(names):
        if name.rsplit(".", 1)[-1] not in {*modules, *EMBEDDINGS}:  # a tied head has no weights
            raise UserError(
                "unknown_target_module",
                f"lora.modules_to_save.{index}: found {name}, which {model} does not have, expected one of its modules"
                f"{_nearest(name, sorted(modules))}",
                hint=f"{model} has {', '.join(sorted(modules))}",
                param=f"lora.modules_to_save.{index}",
            )


def _detail(index: int, name: str, is_there: bool, allowed: Sequence[str]) -> dict[str, Any]:
    found = f"{name}, which is not a linear module" if is_there else f"{name}, which is not a module"
    expected = f"a linear module{_nearest(name, allowed)}"
    return {"field": f"{FIELD}.{index}", "code": "unknown_target_module", "found": found, "expected": expected}


def _nearest(name: str, known: Sequence[str]) -> str:
    match = difflib.get_close_matches(name.rsplit(".", 1)[-1], known, n=1, cutoff=0.5)
    return f": did you mean {match[0]}?" if match else ""
