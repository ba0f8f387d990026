"""Which layout a row has: by its columns, by the columns that the user mapped, or by the layout the user named."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Any, Literal

from app.contracts.spec import DatasetSpec
from app.datasets.values import names, printable


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
# Part by the name that a column may have instead, where none has the name of the part.
ALIASES = {"response": "output"}
PARTS = frozenset(part for layout in Layout for part in NEEDED[layout] + OPTIONAL[layout])
MEDIA_COLUMNS = frozenset({"image", "images", "audio", "audios", "video", "videos"})


@dataclass(frozen=True)
class LayoutHints:
    """What the user said about the rows; the default is nothing."""

    layout: Layout | None = None
    columns: Mapping[str, str] | None = None
    text_column: str | None = None
    train_on: Literal["responses", "last_response", "all"] = "responses"

    @classmethod
    def of(cls, dataset: DatasetSpec) -> "LayoutHints":
        layout = None if dataset.format == "auto" else Layout(dataset.format)
        columns: dict[str, str] = {part: column for part, column in (dataset.columns or {}).items()}
        return cls(layout, columns, dataset.dataset_text_field, dataset.train_on)

    @property
    def is_of_raw_text(self) -> bool:
        """Whether the user asked for raw text. (A column named `text` alone does not: it may be one of many.)"""
        return self.layout is Layout.TEXT or "text" in self.mapped

    @cached_property
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
    def of(cls, values: Mapping[str, Any], hints: LayoutHints) -> "Row":
        mapped = hints.mapped
        columns = {part: column for part, column in mapped.items() if column in values}
        for name in values:
            part = ALIASES.get(name, name)
            is_free = part in PARTS and part not in mapped and name not in mapped.values()
            if is_free and (part == name or part not in values):
                columns[part] = name
        return cls(values, columns)

    @property
    def described(self) -> str:
        return f"columns {names(self.values)}"

    def without(self, column: str) -> str:
        return f"no {printable(column)!r}: {self.described}"

    def get(self, part: str) -> Any:
        column = self.columns.get(part)
        return None if column is None else self.values[column]

    def has(self, layout: Layout) -> bool:
        return all(part in self.columns for part in NEEDED[layout])

    @property
    def has_more_than_text(self) -> bool:
        """Whether the row is one of a table, of which the text is a column among others."""
        return len(self.values) > 1

    def fills(self, layout: Layout) -> bool:
        return all(self.get(part) is not None for part in NEEDED[layout])


def detect(row: Row, hints: LayoutHints) -> Layout | None:
    """The first layout whose columns the row fills, or at least has. Columns that the user mapped go first.

    Raw text is never guessed from a row that has more than its text.
    """
    asked = [layout for layout in Layout if any(part in hints.mapped for part in NEEDED[layout])]
    order = [*asked, *(layout for layout in Layout if layout not in asked)]
    if row.has_more_than_text and not hints.is_of_raw_text:
        order.remove(Layout.TEXT)
    filled = next((layout for layout in order if row.fills(layout)), None)
    return filled or next((layout for layout in order if row.has(layout)), None)


def media(row: Row) -> str | None:
    """The first column of pictures, sound or film that is not empty and not mapped to a part."""
    used = set(row.columns.values())
    return next((name for name in row.values if name in MEDIA_COLUMNS - used and row.values[name]), None)
