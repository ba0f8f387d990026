"""Secrets in files: `NAME_FILE` names a file that holds the value of `NAME`, as in official container images."""

from collections.abc import Mapping
from pathlib import Path

IN_A_FILE = "_FILE"


def read_secret(name: str, environment: Mapping[str, str]) -> str | None:
    """Return the value of a variable, or the content of the file of its `_FILE` variable without the line end.

    An empty variable counts as unset, because compose sets variables without a value to nothing. Raises ValueError if
    both are set, and for a file that cannot be read or is empty. No message holds a value.
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
