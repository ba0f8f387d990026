"""Which modules LoRA can sit on: the checker and the trainer hold those of a spec against those of a model."""

import difflib
from collections.abc import Collection, Sequence
from typing import Any

from worker.failures import UserError

FIELD = "lora.target_modules"
# Unsloth trains these whole, whatever names them.
EMBEDDINGS = frozenset({"embed_tokens", "lm_head"})


def check_targets(targets: Sequence[str], linear: Collection[str], others: Collection[str], model: str) -> None:
    """Raises UserError for targets that are no linear module. Both collections are of last names of modules.

    `others` are modules of the model that are not linear; embeddings may be named, and are trained whole.
    """
    leaves = [name.rsplit(".", 1)[-1] for name in targets]
    allowed = {*linear, *EMBEDDINGS}
    wrong = [index for index, leaf in enumerate(leaves) if leaf not in allowed]
    known = ", ".join(sorted({*linear} - EMBEDDINGS))
    if not wrong and not {*leaves} <= EMBEDDINGS:
        return
    if not wrong:
        raise UserError(
            "no_linear_target",
            f"{FIELD}: found {', '.join(targets)}, which are trained whole, and no module for LoRA to sit on",
            hint=f"name a linear module too, or train all weights with model.full_finetuning; {model} has {known}",
            param=FIELD,
        )
    details = [_detail(index, targets[index], leaves[index] in others, sorted(allowed)) for index in wrong]
    first, more = details[0], f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
    message = f"{first['field']}: found {first['found']} of {model}, expected {first['expected']}{more}"
    hint = f"the linear modules of {model} are {known}"
    raise UserError("unknown_target_module", message, hint=hint, param=first["field"], details=details)


def check_saved(names: Sequence[str], modules: Collection[str], model: str) -> None:
    """Raises UserError for `lora.modules_to_save` that the model has not: any module can be trained whole."""
    for index, name in enumerate(names):
        if name.rsplit(".", 1)[-1] not in {*modules, *EMBEDDINGS}:  # a tied head has no weights
            raise UserError(
                "unknown_target_module",
                f"lora.modules_to_save.{index}: found {name}, which {model} has not, expected one of its modules"
                f"{_nearest(name, sorted(modules))}",
                hint=f"{model} has {', '.join(sorted(modules))}",
                param=f"lora.modules_to_save.{index}",
            )


def _detail(index: int, name: str, is_there: bool, allowed: Sequence[str]) -> dict[str, Any]:
    found = f"{name}, which is no linear module" if is_there else f"{name}, which is no module"
    expected = f"a linear module{_nearest(name, allowed)}"
    return {"field": f"{FIELD}.{index}", "code": "unknown_target_module", "found": found, "expected": expected}


def _nearest(name: str, known: Sequence[str]) -> str:
    match = difflib.get_close_matches(name.rsplit(".", 1)[-1], known, n=1, cutoff=0.5)
    return f": did you mean {match[0]}?" if match else ""
