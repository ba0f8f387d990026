"""The bound on the engine's keys and values: a variable that `tunesmith up` and the engine read alike."""

VARIABLE = "TUNESMITH_ENGINE_CACHE_BYTES"
LEAST_BYTES = 2**20


def read_bytes(text: str) -> int:
    """Raises ValueError for what is no number of bytes."""
    if not text.strip().isdecimal() or int(text) < LEAST_BYTES:
        raise ValueError(f"found {text!r}, expected a number of bytes, at least {LEAST_BYTES}, such as {2**30}")
    return int(text)
