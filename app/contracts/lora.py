"""Compares two LoRA configurations, to see whether the weights of one fit the other. Used by API and trainer."""

from collections.abc import Collection, Mapping
from typing import Any

# The fields, besides the modules, that must be equal for the weights to have the same effect: shapes and scaling.
COMPARED = ("r", "lora_alpha", "use_rslora", "bias", "use_dora")
# These are compared too; peft and the spec write their absence in different ways.
PATTERNS = ("layers_to_transform", "rank_pattern", "alpha_pattern")


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return (field, value there, value here) of all differences. Both have peft's names.

    A field that `there` does not have is not compared.

    Unsloth moves embeddings and head from `target_modules` to `modules_to_save`, so both are compared as one.
    """
    fields = [name for name in COMPARED if there.get(name) is not None and there[name] != here[name]]
    fields += [name for name in PATTERNS if name in there and (there[name] or None) != (here.get(name) or None)]
    found = [(name, str(there[name]), str(here[name])) for name in fields]
    theirs, ours = _modules(there), _modules(here)
    if theirs and ours and theirs != ours:
        found.append(("target_modules", ", ".join(sorted(theirs)), ", ".join(sorted(ours))))
    return found


def _modules(lora: Mapping[str, Any]) -> set[str]:
    """Return the names of all trained modules, or an empty set if they are given as a pattern."""
    targets: Collection[str] | None = lora.get("target_modules")
    return set() if targets is None or isinstance(targets, str) else {*targets, *(lora.get("modules_to_save") or ())}
