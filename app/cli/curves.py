"""Draws a series of numbers in the terminal, with the dots of Braille characters: two across and four down in each."""

import math
from collections.abc import Sequence

Point = tuple[float, float]
ROWS = 10
DOTS_ACROSS, DOTS_DOWN = 2, 4
BLANK = 0x2800
# The bit of each dot of a character, by column and row. https://www.unicode.org/charts/PDF/U2800.pdf
DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))


def curve(points: Sequence[Point], width: int, rows: int = ROWS) -> list[str]:
    """Lines of at most `width` characters: the values at the left, the curve, and the steps below.

    `points` are steps and values, in the order of the steps. A value that is not finite is left out.
    """
    shown = [(step, value) for step, value in points if math.isfinite(value)]
    if not shown:
        return ["no values"]
    lowest, highest = min(value for _, value in shown), max(value for _, value in shown)
    margin = max(len(f"{value:.4g}") for value in (lowest, highest))
    across = max(8, width - margin - 2)
    cells = _cells(shown, lowest, highest, across, rows)
    labels = {0: f"{highest:.4g}", rows - 1: f"{lowest:.4g}"} if highest > lowest else {rows // 2: f"{lowest:.4g}"}
    lines = [
        f"{labels.get(row, ''):>{margin}} ┤{''.join(chr(BLANK + cell) for cell in line).rstrip(chr(BLANK))}"
        for row, line in enumerate(cells)
    ]
    first, last = f"{shown[0][0]:g}", f"{shown[-1][0]:g}"
    steps = first if first == last else f"{first}{last:>{max(1, across - len(first))}}"
    return [*lines, f"{'step':>{margin}} └{steps}" if margin >= 4 else f"{'':>{margin}} └{steps}"]


def _cells(points: Sequence[Point], lowest: float, highest: float, across: int, rows: int) -> list[list[int]]:
    """The dots of each character. Neighbouring points are joined by a line."""
    cells = [[0] * across for _ in range(rows)]
    first, last = points[0][0], points[-1][0]
    most_x, most_y = across * DOTS_ACROSS - 1, rows * DOTS_DOWN - 1

    def place(point: Point) -> tuple[int, int]:
        x = (point[0] - first) / (last - first) if last > first else 0.0
        y = (highest - point[1]) / (highest - lowest) if highest > lowest else 0.5
        return round(x * most_x), round(y * most_y)

    before = place(points[0])
    for point in points:
        here = place(point)
        _join(cells, before, here)
        before = here
    return cells


def _join(cells: list[list[int]], begin: tuple[int, int], end: tuple[int, int]) -> None:
    length = max(abs(end[0] - begin[0]), abs(end[1] - begin[1]), 1)
    for part in range(length + 1):
        x = round(begin[0] + (end[0] - begin[0]) * part / length)
        y = round(begin[1] + (end[1] - begin[1]) * part / length)
        cells[y // DOTS_DOWN][x // DOTS_ACROSS] |= DOTS[x % DOTS_ACROSS][y % DOTS_DOWN]
