"""A secret in a spec: the name under which its project has stored it, and never its value."""

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

SCHEME = "secret://"
REFERENCE = re.compile(rf"{SCHEME}([A-Za-z0-9][A-Za-z0-9._-]{{0,63}})")


def _is_reference(value: Any) -> Any:
    """The error of anything else is one of its own, because the value may be the secret itself and is not repeated."""
    if value is None or (isinstance(value, str) and REFERENCE.fullmatch(value)):
        return value
    raise PydanticCustomError(
        "secret_reference", 'should be a reference such as "secret://hf" to what PUT /secrets/hf has stored'
    )


SecretReference = Annotated[
    str, BeforeValidator(_is_reference), WithJsonSchema({"type": "string", "pattern": f"^{REFERENCE.pattern}$"})
]


def name_of(reference: str) -> str:
    """Return the name of the secret."""
    return reference.removeprefix(SCHEME)
