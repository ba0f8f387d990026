"""The layouts of rows, and their detection from the columns of a row and from the user's settings."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Any, Literal

from app.contracts.spec import DatasetSpec
from app.datasets.values import join_names, printable


class Layout(StrEnum):
    MESSAGES = "messages"
    SHAREGPT = "sharegpt"
    ALPACA = "alpaca"
    PROMPT_COMPLETION = "prompt_completion"
    TEXT = "text"


# In the order of detection: a chat row often also has the text or the prompt that it was made from.
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
# Either chat layout may be in either column. The layout's own column comes first.
CHAT_PARTS: dict[Layout, tuple[str, ...]] = {
    Layout.MESSAGES: ("messages", "conversations"),
    Layout.SHAREGPT: ("conversations", "messages"),
}
# Other column names for a part, used if no column has the name of the part.
ALIASES = {"response": "output"}
PARTS = frozenset(part for layout in Layout for part in NEEDED[layout] + OPTIONAL[layout])
MEDIA_COLUMNS = frozenset({"image", "images", "audio", "audios", "video", "videos"})


@dataclass(frozen=True)
class LayoutHints:
    """The user's settings on how to read the rows. The defaults mean that nothing was set."""

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
        """Whether the user requested raw text. A column named `text` is not enough: it may be one of many."""
        return self.layout is Layout.TEXT or "text" in self.mapped

    @cached_property
    def mapped(self) -> dict[str, str]:
        """The user's mapping from part to column."""
        text = {"text": self.text_column} if self.text_column is not None else {}
        return {**text, **(self.columns or {})}


@dataclass(frozen=True)
class Row:
    """A row whose columns are assigned to parts. `columns` maps each part of the row to its column."""

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
        return f"columns {join_names(self.values)}"

    def without(self, column: str) -> str:
        return f"no {printable(column)!r}: {self.described}"

    def get(self, part: str) -> Any:
        column = self.columns.get(part)
        return None if column is None else self.values[column]

    def has(self, layout: Layout) -> bool:
        return all(part in self.columns for part in NEEDED[layout])

    @property
    def has_more_than_text(self) -> bool:
        """Whether the row has other columns beside its text."""
        return len(self.values) > 1

    def fills(self, layout: Layout) -> bool:
        return all(self.get(part) is not None for part in NEEDED[layout])


def layout_from_columns(row: Row, hints: LayoutHints) -> Layout | None:
    """Returns the first layout whose needed columns are not null, else the first whose columns exist, else None.

    Layouts with a mapped column are tried first. A row with more than its text is raw text only on request.
    """
    mapped = [layout for layout in Layout if any(part in hints.mapped for part in NEEDED[layout])]
    order = [*mapped, *(layout for layout in Layout if layout not in mapped)]
    if row.has_more_than_text and not hints.is_of_raw_text:
        order.remove(Layout.TEXT)
    filled = next((layout for layout in order if row.fills(layout)), None)
    return filled or next((layout for layout in order if row.has(layout)), None)


def media_column(row: Row) -> str | None:
    """Returns the first image, audio or video column that is not empty and not mapped to a part."""
    used = set(row.columns.values())
    return next((name for name in row.values if name in MEDIA_COLUMNS - used and row.values[name]), None)
