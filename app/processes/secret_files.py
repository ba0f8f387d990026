"""Secrets by file: `NAME_FILE` names a file that holds what `NAME` would, as official container images have it."""

from collections.abc import Mapping
from pathlib import Path

IN_A_FILE = "_FILE"


def read_secret(name: str, environment: Mapping[str, str]) -> str | None:
    """The value of a variable, or what is in the file that its `_FILE` variable names, without the end of its line. One
    that is set to nothing, as compose sets what nobody chose, is not set.

    Raises ValueError where both are set, and for a file that cannot be read or is empty; no message holds a value.
    """
    path = environment.get(name + IN_A_FILE)
    if not path:
        return environment.get(name) or None
    if environment.get(name):
        raise ValueError(f"{name} and {name}{IN_A_FILE} are both set: set one of them")
    try:
        value = Path(path).read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, ValueError) as error:
        raise ValueError(f"{name}{IN_A_FILE}: the file {path} cannot be read ({type(error).__name__})") from None
    if not value:
        raise ValueError(f"{name}{IN_A_FILE}: the file {path} is empty")
    return value
