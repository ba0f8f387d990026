"""One raw row of a known layout as a record of the contract."""

from typing import Any

from app.contracts.records import ChatRecord, CompletionRecord, Message, Record, TextRecord
from app.datasets.layout_detection import TEXT_EXPECTED
from app.datasets.layouts import CHAT_PARTS, NEEDED, OPTIONAL, Layout, LayoutHints, Row, detect, media
from app.datasets.messages import Turn, read_turns, says_nothing
from app.datasets.row_issues import RowIssues
from app.datasets.tools import read_tools
from app.datasets.values import describe, is_blank, json_container, printable

ROLES_NAMED = 6
CHAT_COLUMNS = frozenset({"messages", "conversations"})
ROLE_KEYS = frozenset({"role", "from"})


def read_record(value: dict[str, Any], layout: Layout, hints: LayoutHints, row_issues: RowIssues) -> Record | None:
    """The record that a row becomes; None when the findings have a problem with it."""
    row = Row.of(value, hints)
    if _is_of(row, layout, hints, row_issues):
        _note_ignored(row, layout, row_issues)
        record = _read(row, layout, hints, row_issues)
        return None if row_issues.problems else record
    return None


def _read(row: Row, layout: Layout, hints: LayoutHints, row_issues: RowIssues) -> Record:
    match layout:
        case Layout.MESSAGES | Layout.SHAREGPT:
            return _chat(row, layout, hints, row_issues)
        case Layout.ALPACA:
            return _alpaca(row, hints, row_issues)
        case Layout.PROMPT_COMPLETION:
            return _pair(row, hints, row_issues)
        case Layout.TEXT:
            return _text(row, row_issues)


def _chat_part(row: Row, layout: Layout) -> str | None:
    return next((part for part in CHAT_PARTS.get(layout, ()) if part in row.columns), None)


def _is_of(row: Row, layout: Layout, hints: LayoutHints, row_issues: RowIssues) -> bool:
    """Whether the row has the columns of the layout; what it lacks is named."""
    column = media(row)
    if column is not None:
        row_issues.wrong(column, "media_rows", row.described, "columns of text only")
        return False
    if layout is Layout.TEXT and row.has_more_than_text and not hints.is_of_raw_text:
        row_issues.wrong("columns", "unknown_layout", row.described, TEXT_EXPECTED)
        return False
    if row.has(layout) or _chat_part(row, layout):
        return True
    other = detect(row, hints) if hints.layout is None else None
    if other is not None:
        expected = f"{layout}, the layout of record 1 (columns {', '.join(NEEDED[layout])})"
        row_issues.wrong("columns", "mixed_layouts", f"{other} ({row.described})", expected)
        return False
    for part in NEEDED[layout]:
        if part not in row.columns:
            column = hints.mapped.get(part, part)
            row_issues.wrong(column, "missing", row.without(column), f"the column {printable(column)!r}")
    return False


def _chat(row: Row, layout: Layout, hints: LayoutHints, row_issues: RowIssues) -> Record:
    part = _chat_part(row, layout) or NEEDED[layout][0]
    column = row.columns[part]
    turns = _with_system(read_turns(row.get(part), column, row_issues), row, row_issues)
    return _chat_record(turns, column, row, hints, row_issues)


def _chat_record(turns: list[Turn], column: str, row: Row, hints: LayoutHints, row_issues: RowIssues) -> Record:
    """A chat that has what the job learns from. What stands behind the last answer goes, unless all is learned."""
    answers = [turn for turn in turns if turn.message.role == "assistant"]
    is_last_only = hints.train_on == "last_response"
    learned = [turn for turn in (answers[-1:] if is_last_only else answers) if turn.message.carries_loss]
    if hints.train_on == "all":
        learned = answers
    elif turns and not learned and not row_issues.problems:
        expected = f"a {'last ' if is_last_only else ''}turn of the assistant that carries loss"
        row_issues.wrong(column, "nothing_to_learn", _roles(turns), expected)
    for turn in learned:
        turn.check_says_something(row_issues)
    if hints.train_on != "all" and answers and turns[-1] is not answers[-1]:
        row_issues.warn("trailing_turns")
        turns = turns[: max(index for index, turn in enumerate(turns) if turn.message.role == "assistant") + 1]
    messages = [turn.message for turn in turns]
    return ChatRecord(messages=messages, tools=read_tools(row.get("tools"), "tools", row_issues))


def _roles(turns: list[Turn]) -> str:
    last = [turn.message for turn in turns[-ROLES_NAMED:]]
    roles = [f"{message.role} (weight 0)" if message.weight == 0 else message.role for message in last]
    return f"{len(turns)} turns: {'…, ' if len(last) < len(turns) else ''}{', '.join(roles)}"


def _with_system(turns: list[Turn], row: Row, row_issues: RowIssues) -> list[Turn]:
    column = row.columns.get("system", "system")
    system = row_issues.optional_text(row.get("system"), column)
    if system is None:
        return turns
    if turns and turns[0].message.role == "system":
        row_issues.wrong(column, "two_systems", "text here and in a system turn", "one of the two")
    return [Turn(Message(role="system", content=system), column), *turns]


def _alpaca(row: Row, hints: LayoutHints, row_issues: RowIssues) -> Record:
    instruction = _text_of(row, "instruction", row_issues)
    more = row_issues.optional_text(row.get("input"), row.columns.get("input", "input"))
    asked = "\n\n".join(part for part in (instruction, more) if part)
    answer, column = _text_of(row, "output", row_issues), row.columns["output"]
    turns = [
        Turn(Message(role="user", content=asked), row.columns["instruction"]),
        Turn(Message(role="assistant", content=answer), column),
    ]
    return _chat_record(_with_system(turns, row, row_issues), column, row, hints, row_issues)


def _pair(row: Row, hints: LayoutHints, row_issues: RowIssues) -> Record:
    if _is_chat(row.get("prompt")) and _is_chat(row.get("completion")):
        return _pair_of_chats(row, hints, row_issues)
    pair = CompletionRecord(
        prompt=_text_of(row, "prompt", row_issues), completion=_text_of(row, "completion", row_issues)
    )
    column = row.columns["completion"]
    if says_nothing(pair.completion) and not row_issues.has_wrong(column):
        row_issues.wrong(column, "empty_answer", describe(pair.completion), "an answer with text")
    return pair


def _pair_of_chats(row: Row, hints: LayoutHints, row_issues: RowIssues) -> Record:
    """What the assistant said in the prompt is context: it carries no loss."""
    column = row.columns["completion"]
    asked = read_turns(row.get("prompt"), row.columns["prompt"], row_issues)
    context = [turn.without_loss if turn.message.role == "assistant" else turn for turn in asked]
    return _chat_record(
        [*context, *read_turns(row.get("completion"), column, row_issues)], column, row, hints, row_issues
    )


def _is_chat(value: Any) -> bool:
    """Whether it is a list, or text that is the JSON of a conversation."""
    return isinstance(value, list) or (isinstance(value, str) and value.lstrip()[:1] == "[" and _holds_chat(value))


def _holds_chat(text: str) -> bool:
    held = json_container(text)
    if isinstance(held, dict):
        return not CHAT_COLUMNS.isdisjoint(held)
    return bool(held) and all(isinstance(turn, dict) and not ROLE_KEYS.isdisjoint(turn) for turn in held or ())


def _text(row: Row, row_issues: RowIssues) -> Record:
    text, column = _text_of(row, "text", row_issues), row.columns["text"]
    if is_blank(text) and not row_issues.has_wrong(column):
        row_issues.wrong(column, "empty_text", describe(text), "text to learn")
    return TextRecord(text=text)


def _text_of(row: Row, part: str, row_issues: RowIssues) -> str:
    text = row_issues.text(row.get(part), row.columns[part])
    if _holds_chat(text):
        row_issues.warn("json_as_text")
    return text


def _note_ignored(row: Row, layout: Layout, row_issues: RowIssues) -> None:
    used = {row.columns[part] for part in NEEDED[layout] + OPTIONAL[layout] if part in row.columns}
    chat = _chat_part(row, layout)
    used.update({row.columns[chat]} if chat else ())
    row_issues.ignored.update(name for name, value in row.values.items() if name not in used and value is not None)
