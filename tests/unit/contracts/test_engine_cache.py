"""The bound on the engine's keys and values, read alike by the settings and the engine."""

import pytest

from app.config import PREFIX, Settings
from app.contracts.engine_cache import LEAST_BYTES, VARIABLE, read_bytes


def test_the_bound_on_the_engines_cache_is_a_setting() -> None:
    assert VARIABLE.removeprefix(PREFIX).lower() in Settings.model_fields
    assert read_bytes(str(LEAST_BYTES)) == LEAST_BYTES


@pytest.mark.parametrize("text", ["", "1G", "-5", str(LEAST_BYTES - 1)])
def test_a_bound_that_is_none_is_refused_with_what_would_be_right(text: str) -> None:
    with pytest.raises(ValueError, match=f"expected a number of bytes, at least {LEAST_BYTES}"):
        read_bytes(text)
