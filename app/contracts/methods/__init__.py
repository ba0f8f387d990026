"""The training methods, and the union of their arguments.

A method is one module here: a `TrainingMethod`, which says all that the other parts ask about it. Plugins add methods
with `register` (`app.plugins`).
"""

from typing import TYPE_CHECKING, Annotated, Any, Union

from pydantic import Discriminator, Tag

from app.contracts.methods.cpt import CPT
from app.contracts.methods.method import TrainingMethod
from app.contracts.methods.sft import SFT
from app.contracts.training_args import TrainingArgs
from app.plugins import load_plugins

__all__ = ["METHODS", "AnyTrainingArgs", "TrainingMethod", "owner_of", "register"]

METHODS: dict[str, TrainingMethod] = {method.name: method for method in (SFT, CPT)}


def register(method: TrainingMethod) -> None:
    """Add the method of a plugin. Raises ValueError if there is another one of this name."""
    if METHODS.setdefault(method.name, method) != method:
        raise ValueError(f"two training methods have the name {method.name!r}")


def owner_of(argument: str) -> str | None:
    """Return the name of a method that has an argument which not every method has, or None."""
    if argument in TrainingArgs.model_fields:
        return None
    return next((name for name, method in METHODS.items() if argument in method.arguments.model_fields), None)


def _name_of(value: Any) -> str | None:
    """Return the method of the arguments as they were sent, or None if there is no such method."""
    if not isinstance(value, dict | TrainingArgs):
        return SFT.name  # which says that it should be an object
    name = value.get("method", SFT.name) if isinstance(value, dict) else value.method
    return name if isinstance(name, str) and name in METHODS else None


load_plugins()
if TYPE_CHECKING:
    AnyTrainingArgs = TrainingArgs
else:
    AnyTrainingArgs = Annotated[
        Union[tuple(Annotated[method.arguments, Tag(name)] for name, method in METHODS.items())],  # noqa: UP007
        Discriminator(
            _name_of,
            custom_error_type="training_method",
            custom_error_message=f"should be one of {', '.join(map(repr, METHODS))}",
        ),
    ]
