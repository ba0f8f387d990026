"""Times and sizes in few characters."""

from datetime import timedelta

import pytest
import typer

from app.cli.amounts import age, read_duration, size
from tests.support.cli_answers import NOW


@pytest.mark.parametrize(
    ("passed", "text"),
    [
        (timedelta(seconds=0), "0s"),
        (timedelta(seconds=-5), "0s"),  # the clock of the service is ahead
        (timedelta(seconds=59), "59s"),
        (timedelta(seconds=60), "1m"),
        (timedelta(hours=23, minutes=59), "23h"),
        (timedelta(days=40), "40d"),
    ],
)
def test_an_age_is_its_largest_unit(passed: timedelta, text: str) -> None:
    assert age(NOW - passed, NOW) == text


def test_what_has_not_begun_has_no_age() -> None:
    assert age(None) == "-"


@pytest.mark.parametrize(("count", "text"), [(3, "3 B"), (1500, "1.5 kB"), (2_500_000, "2.5 MB"), (10**10, "10.0 GB")])
def test_a_size_has_one_unit(count: int, text: str) -> None:
    assert size(count) == text


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("1.5s", 1.5), ("10m", 600), ("2h", 7200), ("1d", 86400)])
def test_a_duration_is_a_number_and_a_unit(text: str, seconds: float) -> None:
    assert read_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "-1s", "5w", "1 m"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="expected a duration such as 90s, 10m or 2h"):
        read_duration(text)
