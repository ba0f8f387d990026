"""Whether the weights of one LoRA mean the same in another: the API asks it of a spec, the trainer of its model."""

from collections.abc import Collection, Mapping
from typing import Any

# The fields, besides the modules, that must be equal for the weights to have the same effect: shapes and scaling.
COMPARED = ("r", "lora_alpha", "use_rslora", "bias")


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(field, value there, value here) of all that differs. Both have peft's names; what `there` lacks is not compared.

    Unsloth moves embeddings and head from `target_modules` to `modules_to_save`, so both are compared as one.
    """
    fields = [name for name in COMPARED if there.get(name) is not None and there[name] != here[name]]
    found = [(name, str(there[name]), str(here[name])) for name in fields]
    theirs, ours = _modules(there), _modules(here)
    if theirs and ours and theirs != ours:
        found.append(("target_modules", ", ".join(sorted(theirs)), ", ".join(sorted(ours))))
    return found


def _modules(lora: Mapping[str, Any]) -> set[str]:
    """All that is trained; empty where a pattern says it."""
    targets: Collection[str] | None = lora.get("target_modules")
    return set() if targets is None or isinstance(targets, str) else {*targets, *(lora.get("modules_to_save") or ())}
