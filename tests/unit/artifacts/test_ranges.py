"""Which bytes a `Range` means (RFC 9110, section 14.1)."""

import pytest

from app.artifacts.ranges import read_range
from app.errors import BadRequest, RangeNotSatisfiable


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ("bytes=0-0", (0, 1)),
        ("bytes=2-4", (2, 5)),
        ("bytes=2-", (2, 10)),
        ("bytes=2-999", (2, 10)),
        ("bytes=-3", (7, 10)),
        ("bytes=-999", (0, 10)),
        ("Bytes = 2-4", (2, 5)),
        ("bytes=0-1,4-5", None),
        ("rows=0-1", None),
        ("0-1", None),
    ],
)
def test_one_range_is_read_and_others_are_left_to_the_whole(header: str, found: tuple[int, int] | None) -> None:
    assert read_range(header, 10) == found


@pytest.mark.parametrize("header", ["bytes=10-", "bytes=10-20", "bytes=-0", "bytes=99-"])
def test_a_range_beyond_the_end_is_refused_with_the_size(header: str) -> None:
    with pytest.raises(RangeNotSatisfiable) as refused:
        read_range(header, 10)

    assert refused.value.size == 10


@pytest.mark.parametrize("header", ["bytes=", "bytes=-", "bytes=x-1", "bytes=4-2", "bytes=1", f"bytes={'9' * 99}-"])
def test_a_range_that_means_nothing_is_refused_by_its_field(header: str) -> None:
    with pytest.raises(BadRequest, match="expected bytes=FIRST-LAST") as refused:
        read_range(header, 10)

    assert refused.value.param == "Range"
