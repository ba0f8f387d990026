"""The limit of the engine's key-value cache, a variable that `tunesmith up` and the engine read in the same way."""

VARIABLE = "TUNESMITH_ENGINE_CACHE_BYTES"
LEAST_BYTES = 2**20


def read_bytes(text: str) -> int:
    """Return the number of bytes. Raises ValueError for text that is none, and for too few bytes."""
    if not text.strip().isdecimal() or int(text) < LEAST_BYTES:
        raise ValueError(f"found {text!r}, expected a number of bytes, at least {LEAST_BYTES}, such as {2**30}")
    return int(text)
