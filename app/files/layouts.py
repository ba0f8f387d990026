"""Which layout a row has: by its columns, by the columns that the user mapped, or by the layout the user named."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal

from app.contracts.spec import DatasetSpec
from app.files.findings import Findings
from app.files.values import names, printable


class Layout(StrEnum):
    MESSAGES = "messages"
    SHAREGPT = "sharegpt"
    ALPACA = "alpaca"
    PROMPT_COMPLETION = "prompt_completion"
    TEXT = "text"


# In the order of trial: a row of chats often carries the text or the prompt that it was made from.
NEEDED: dict[Layout, tuple[str, ...]] = {
    Layout.MESSAGES: ("messages",),
    Layout.SHAREGPT: ("conversations",),
    Layout.ALPACA: ("instruction", "output"),
    Layout.PROMPT_COMPLETION: ("prompt", "completion"),
    Layout.TEXT: ("text",),
}
OPTIONAL: dict[Layout, tuple[str, ...]] = {
    Layout.MESSAGES: ("system", "tools"),
    Layout.SHAREGPT: ("system", "tools"),
    Layout.ALPACA: ("input", "system"),
    Layout.PROMPT_COMPLETION: ("tools",),
    Layout.TEXT: (),
}
# The name of the column is no promise: both layouts of chats may stand under either, their own first.
CHAT_PARTS: dict[Layout, tuple[str, ...]] = {
    Layout.MESSAGES: ("messages", "conversations"),
    Layout.SHAREGPT: ("conversations", "messages"),
}
ALIASES = {"output": "response"}
PARTS = frozenset(part for layout in Layout for part in NEEDED[layout] + OPTIONAL[layout])
PREFERENCE_COLUMNS = frozenset({"chosen", "rejected"})
PREFERENCE_EXPECTED = 'one answer a row: map it, such as {"prompt": "prompt", "completion": "chosen"}'
MEDIA_COLUMNS = frozenset({"image", "images", "audio", "audios", "video", "videos"})
EXPECTED = (
    "messages, conversations, instruction and output, prompt and completion, or text; dataset.columns maps others, "
    'such as {"prompt": "question", "completion": "answer"}'
)


@dataclass(frozen=True)
class Wish:
    """What the user said about the rows; the default is nothing."""

    layout: Layout | None = None
    columns: Mapping[str, str] | None = None
    text_column: str | None = None
    train_on: Literal["responses", "all"] = "responses"

    @classmethod
    def of(cls, dataset: DatasetSpec) -> "Wish":
        layout = None if dataset.format == "auto" else Layout(dataset.format)
        columns: dict[str, str] = {part: column for part, column in (dataset.columns or {}).items()}
        return cls(layout, columns, dataset.dataset_text_field, dataset.train_on)

    @property
    def mapped(self) -> dict[str, str]:
        """Column by the part it plays, where the user said so."""
        text = {"text": self.text_column} if self.text_column is not None else {}
        return {**text, **(self.columns or {})}


@dataclass(frozen=True)
class Row:
    """A row by parts: `columns` has the column of every part that the row holds."""

    values: Mapping[str, Any]
    columns: Mapping[str, str]

    @classmethod
    def of(cls, values: Mapping[str, Any], wish: Wish) -> "Row":
        mapped = wish.mapped
        own = {part: _own_column(part, values) for part in PARTS - mapped.keys()}
        free = {part: column for part, column in own.items() if column not in mapped.values()}
        return cls(values, {part: column for part, column in {**free, **mapped}.items() if column in values})

    @property
    def described(self) -> str:
        return f"columns {names(self.values)}"

    def get(self, part: str) -> Any:
        column = self.columns.get(part)
        return None if column is None else self.values[column]

    def has(self, layout: Layout) -> bool:
        return all(part in self.columns for part in NEEDED[layout])

    def fills(self, layout: Layout) -> bool:
        return all(self.get(part) is not None for part in NEEDED[layout])


def _own_column(part: str, values: Mapping[str, Any]) -> str:
    alias = ALIASES.get(part, part)
    return alias if part not in values and alias in values else part


def detect(row: Row, wish: Wish) -> Layout | None:
    """The first layout whose columns the row fills, or at least has. Columns that the user mapped go first."""
    asked = [layout for layout in Layout if any(part in wish.mapped for part in NEEDED[layout])]
    order = [*asked, *(layout for layout in Layout if layout not in asked)]
    filled = next((layout for layout in order if row.fills(layout)), None)
    return filled or next((layout for layout in order if row.has(layout)), None)


def choose(row: Row, wish: Wish, findings: Findings) -> Layout | None:
    """The layout of all rows, from the first one; None, and a problem, when such rows cannot be trained on."""
    if row.values.keys() >= PREFERENCE_COLUMNS and not PREFERENCE_COLUMNS & set(wish.mapped.values()):
        findings.wrong("columns", "preference_rows", row.described, PREFERENCE_EXPECTED)
        return None
    _check_columns(row, wish, findings)
    layout = wish.layout or detect(row, wish)
    if layout is not None:
        _check_parts(row, layout, wish, findings)
    elif not findings.problems:
        findings.wrong("columns", "unknown_layout", row.described, EXPECTED)
    return None if findings.problems else layout


def _check_columns(row: Row, wish: Wish, findings: Findings) -> None:
    """Every column that the user mapped is there; one that a row may lack can come later."""
    optional = {part for parts in OPTIONAL.values() for part in parts}
    for part, column in (wish.columns or {}).items():
        if part not in optional and column not in row.values:
            found = f"no {printable(column)!r}: {row.described}"
            findings.wrong(f"columns.{part}", "missing", found, "a column of the rows")


def _check_parts(row: Row, layout: Layout, wish: Wish, findings: Findings) -> None:
    """Every part that the user mapped is one that the layout has: no mapping is left out in silence."""
    known = CHAT_PARTS.get(layout, NEEDED[layout]) + OPTIONAL[layout]
    for part in wish.columns or {}:
        if part not in known:
            found, expected = f"rows of {layout}: {row.described}", f"the parts of {layout}: {', '.join(known)}"
            findings.wrong(f"columns.{part}", "unused_mapping", found, expected)


def media(row: Row) -> str | None:
    """The first column of pictures, sound or film that is not empty and not mapped to a part."""
    used = set(row.columns.values())
    return next((name for name in row.values if name in MEDIA_COLUMNS - used and row.values[name]), None)
