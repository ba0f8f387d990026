"""The layout that all rows of a dataset are read by, chosen from the first one; columns named wrongly are answered."""

import difflib
import json

from app.datasets.layouts import CHAT_PARTS, NEEDED, OPTIONAL, PARTS, Layout, LayoutHints, Row, detect
from app.datasets.row_issues import LONGEST_KEY, RowIssues
from app.datasets.values import printable
from app.errors import Problem

PREFERENCE_COLUMNS = frozenset({"chosen", "rejected"})
PREFERENCE_EXPECTED = 'one answer a row: map it, such as {"prompt": "prompt", "completion": "chosen"}'
EXPECTED = (
    "messages, conversations, instruction and output, prompt and completion, or text; dataset.columns maps others, "
    'such as {"prompt": "question", "completion": "answer"}'
)
TEXT_EXPECTED = (
    'the column text alone; dataset.format "text" (or dataset_text_field "text") learns that column and nothing else, '
    'and dataset.columns maps questions and answers, such as {"prompt": "question", "completion": "answer"}'
)
# The default of TRL's argument, which notebooks name whatever their rows hold.
USUAL_TEXT_COLUMN = "text"
COLUMNS_COMPARED = 50


def choose(row: Row, hints: LayoutHints, row_issues: RowIssues) -> Layout | None:
    """The layout of all rows, from the first one; None, and a problem, when such rows cannot be trained on."""
    if row.values.keys() >= PREFERENCE_COLUMNS and not PREFERENCE_COLUMNS & set(hints.mapped.values()):
        row_issues.wrong("columns", "preference_rows", row.described, PREFERENCE_EXPECTED)
        return None
    _check_columns(row, hints, row_issues)
    layout = hints.layout or detect(row, hints)
    if layout is not None:
        _check_parts(row, layout, hints, row_issues)
    elif not row_issues.problems:
        expected = TEXT_EXPECTED if row.has(Layout.TEXT) else EXPECTED
        row_issues.wrong("columns", "unknown_layout", row.described, expected)
    return None if row_issues.problems else layout


def _check_columns(row: Row, hints: LayoutHints, row_issues: RowIssues) -> None:
    """Every column that the user named is there; one that a row may lack can come later."""
    optional = {part for parts in OPTIONAL.values() for part in parts}
    for part, column in (hints.columns or {}).items():
        if part not in optional and column not in row.values:
            expected = _turned(row, hints) or _nearest(column, row)
            row_issues.wrong(f"columns.{part}", "missing", row.without(column), expected)
    text = hints.text_column
    if text is not None and text not in row.values and text != USUAL_TEXT_COLUMN:
        row_issues.wrong("dataset_text_field", "missing", row.without(text), _nearest(text, row))


def _turned(row: Row, hints: LayoutHints) -> str | None:
    """What to say of a mapping from column to part."""
    columns = hints.columns or {}
    if not all(part in row.values and column in PARTS for part, column in columns.items()):
        return None
    turned = json.dumps({column: part for part, column in columns.items()})
    return f"a column of the rows: columns maps part -> column, so did you mean {turned}?"


def _nearest(column: str, row: Row) -> str:
    names = [name for name in row.values if len(name) <= LONGEST_KEY][:COLUMNS_COMPARED]
    close = difflib.get_close_matches(column, names, n=1)
    near = close[0] if close else USUAL_TEXT_COLUMN
    return f"a column of the rows; did you mean {near!r}?" if near in names else "a column of the rows"


def never_seen(part: str, column: str) -> Problem:
    """A mapping of a part that rows may lack, where all of them lack it."""
    found = f"no {printable(column)!r} in any record"
    return Problem(field=f"columns.{part}", code="missing", found=found, expected="a column of the rows")


def _check_parts(row: Row, layout: Layout, hints: LayoutHints, row_issues: RowIssues) -> None:
    """Every part that the user named is one that the layout has: no mapping is left out in silence."""
    known = CHAT_PARTS.get(layout, NEEDED[layout]) + OPTIONAL[layout]
    found = f"rows of {layout}: {row.described}"
    for part in hints.columns or {}:
        if part not in known and not row_issues.has_wrong(f"columns.{part}"):
            row_issues.wrong(f"columns.{part}", "unused_mapping", found, f"the parts of {layout}: {', '.join(known)}")
    is_unused = layout is not Layout.TEXT and hints.text_column not in (None, USUAL_TEXT_COLUMN)
    if is_unused and not row_issues.has_wrong("dataset_text_field"):
        row_issues.wrong("dataset_text_field", "unused_mapping", found, "null, or rows of text")
