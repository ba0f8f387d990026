"""A curve in the terminal."""

import math

import pytest

from app.cli.curves import curve


def test_a_falling_curve_goes_from_the_upper_left_to_the_lower_right() -> None:
    assert curve([(1, 4.0), (2, 2.0)], 16, rows=3) == [
        "4 ┤⠉⠒⠤⣀",
        "  ┤⠀⠀⠀⠀⠉⠑⠢⢄⣀",
        "2 ┤⠀⠀⠀⠀⠀⠀⠀⠀⠀⠉⠒⠤⣀",
        "  └1           2",
    ]


@pytest.mark.parametrize("width", [20, 80, 100])
def test_a_curve_is_no_wider_than_the_terminal(width: int) -> None:
    lines = curve([(step, 1000 / step) for step in range(1, 5000)], width)

    assert len(lines) == 11
    assert max(map(len, lines)) <= width
    assert lines[-1].endswith("4999")


def test_a_loss_that_is_not_finite_is_left_out() -> None:
    points = [(1, 4.0), (2, math.nan), (3, math.inf), (4, 2.0)]

    assert curve(points, 16) == curve([(1, 4.0), (4, 2.0)], 16)


@pytest.mark.parametrize("points", [[(7, 2.5)], [(7, 2.5), (8, 2.5)]])
def test_a_series_that_does_not_change_is_a_line_in_the_middle(points: list[tuple[float, float]]) -> None:
    lines = curve(points, 16, rows=3)

    assert [line.partition("┤")[0].strip() for line in lines[:3]] == ["", "2.5", ""]
    assert all(set(line.partition("┤")[2]) == set() for line in (lines[0], lines[2]))


def test_nothing_to_draw_is_said() -> None:
    assert curve([(1, math.nan)], 16) == ["no values"]
