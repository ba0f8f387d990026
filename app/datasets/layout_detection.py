"""Detects the layout of a dataset from its first row, and reports columns that the spec names wrongly."""

import difflib
import json

from app.datasets.layouts import CHAT_PARTS, NEEDED, OPTIONAL, PARTS, Layout, LayoutHints, Row, layout_from_columns
from app.datasets.row_issues import LONGEST_KEY, RowIssues
from app.datasets.values import printable
from app.errors import Problem

PREFERENCE_COLUMNS = frozenset({"chosen", "rejected"})
PREFERENCE_EXPECTED = 'one answer per row: map one column, for example {"prompt": "prompt", "completion": "chosen"}'
EXPECTED = (
    "messages, conversations, instruction and output, prompt and completion, or text; map other names "
    'with dataset.columns, for example {"prompt": "question", "completion": "answer"}'
)
TEXT_EXPECTED = (
    'only the column text; set dataset.format to "text" (or dataset_text_field to "text") to train on that column and '
    'ignore the others, or map the columns, for example {"prompt": "question", "completion": "answer"}'
)
# TRL's default for dataset_text_field. Notebooks often set it although their rows have no such column.
USUAL_TEXT_COLUMN = "text"
COLUMNS_COMPARED = 50


def detect_layout(row: Row, hints: LayoutHints, row_issues: RowIssues) -> Layout | None:
    """Returns the layout of all rows, from the first row. Returns None and adds a problem if the row cannot be used."""
    if row.values.keys() >= PREFERENCE_COLUMNS and not PREFERENCE_COLUMNS & set(hints.mapped.values()):
        row_issues.add_problem("columns", "preference_rows", row.described, PREFERENCE_EXPECTED)
        return None
    _check_columns(row, hints, row_issues)
    layout = hints.layout or layout_from_columns(row, hints)
    if layout is not None:
        _check_parts(row, layout, hints, row_issues)
    elif not row_issues.problems:
        expected = TEXT_EXPECTED if row.has(Layout.TEXT) else EXPECTED
        row_issues.add_problem("columns", "unknown_layout", row.described, expected)
    return None if row_issues.problems else layout


def _check_columns(row: Row, hints: LayoutHints, row_issues: RowIssues) -> None:
    """Checks that the first row has every mapped column. A column of an optional part may appear in a later row."""
    optional = {part for parts in OPTIONAL.values() for part in parts}
    for part, column in (hints.columns or {}).items():
        if part not in optional and column not in row.values:
            expected = _swapped_mapping(row, hints) or _suggest_column(column, row)
            row_issues.add_problem(f"columns.{part}", "missing", row.without(column), expected)
    text = hints.text_column
    if text is not None and text not in row.values and text != USUAL_TEXT_COLUMN:
        row_issues.add_problem("dataset_text_field", "missing", row.without(text), _suggest_column(text, row))


def _swapped_mapping(row: Row, hints: LayoutHints) -> str | None:
    """Returns a hint if the user mapped column to part instead of part to column, else None."""
    columns = hints.columns or {}
    if not all(part in row.values and column in PARTS for part, column in columns.items()):
        return None
    swapped = json.dumps({column: part for part, column in columns.items()})
    return f"a column of the rows: columns maps part -> column, so did you mean {swapped}?"


def _suggest_column(column: str, row: Row) -> str:
    names = [name for name in row.values if len(name) <= LONGEST_KEY][:COLUMNS_COMPARED]
    close = difflib.get_close_matches(column, names, n=1)
    near = close[0] if close else USUAL_TEXT_COLUMN
    return f"a column of the rows; did you mean {near!r}?" if near in names else "a column of the rows"


def column_in_no_row(part: str, column: str) -> Problem:
    """Returns the problem for an optional part whose mapped column is in no record."""
    found = f"no {printable(column)!r} in any record"
    return Problem(field=f"columns.{part}", code="missing", found=found, expected="a column of the rows")


def _check_parts(row: Row, layout: Layout, hints: LayoutHints, row_issues: RowIssues) -> None:
    """Checks that the layout has every part that the user mapped, so that no mapping is ignored silently."""
    known = CHAT_PARTS.get(layout, NEEDED[layout]) + OPTIONAL[layout]
    found = f"rows of {layout}: {row.described}"
    for part in hints.columns or {}:
        if part not in known and not row_issues.has_problem(f"columns.{part}"):
            row_issues.add_problem(
                f"columns.{part}", "unused_mapping", found, f"the parts of {layout}: {', '.join(known)}"
            )
    is_unused = layout is not Layout.TEXT and hints.text_column not in (None, USUAL_TEXT_COLUMN)
    if is_unused and not row_issues.has_problem("dataset_text_field"):
        row_issues.add_problem("dataset_text_field", "unused_mapping", found, "null, or rows of text")
