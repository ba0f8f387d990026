"""Turns one raw row of a known layout into a record of the contract."""

from typing import Any

from app.contracts.records import ChatRecord, CompletionRecord, Message, Record, TextRecord
from app.datasets.layout_detection import TEXT_EXPECTED
from app.datasets.layouts import (
    CHAT_PARTS,
    NEEDED,
    OPTIONAL,
    Layout,
    LayoutHints,
    Row,
    layout_from_columns,
    media_column,
)
from app.datasets.messages import PlacedMessage, is_empty_answer, read_messages
from app.datasets.row_issues import RowIssues
from app.datasets.tools import read_tools
from app.datasets.values import describe, is_blank, json_container, printable

ROLES_NAMED = 6
CHAT_COLUMNS = frozenset({"messages", "conversations"})
ROLE_KEYS = frozenset({"role", "from"})


def read_record(value: dict[str, Any], layout: Layout, hints: LayoutHints, row_issues: RowIssues) -> Record | None:
    """Returns the record of a row, or None if the row has problems, which are added to `row_issues`."""
    row = Row.of(value, hints)
    if _has_layout(row, layout, hints, row_issues):
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
            return _prompt_completion(row, hints, row_issues)
        case Layout.TEXT:
            return _text(row, row_issues)


def _chat_part(row: Row, layout: Layout) -> str | None:
    return next((part for part in CHAT_PARTS.get(layout, ()) if part in row.columns), None)


def _has_layout(row: Row, layout: Layout, hints: LayoutHints, row_issues: RowIssues) -> bool:
    """Whether the row has the columns of the layout. If not, a problem is added."""
    column = media_column(row)
    if column is not None:
        row_issues.add_problem(column, "media_rows", row.described, "columns of text only")
        return False
    if layout is Layout.TEXT and row.has_more_than_text and not hints.is_of_raw_text:
        row_issues.add_problem("columns", "unknown_layout", row.described, TEXT_EXPECTED)
        return False
    if row.has(layout) or _chat_part(row, layout):
        return True
    other = layout_from_columns(row, hints) if hints.layout is None else None
    if other is not None:
        expected = f"{layout}, the layout of record 1 (columns {', '.join(NEEDED[layout])})"
        row_issues.add_problem("columns", "mixed_layouts", f"{other} ({row.described})", expected)
        return False
    for part in NEEDED[layout]:
        if part not in row.columns:
            column = hints.mapped.get(part, part)
            row_issues.add_problem(column, "missing", row.without(column), f"the column {printable(column)!r}")
    return False


def _chat(row: Row, layout: Layout, hints: LayoutHints, row_issues: RowIssues) -> Record:
    part = _chat_part(row, layout) or NEEDED[layout][0]
    column = row.columns[part]
    messages = _with_system(read_messages(row.get(part), column, row_issues), row, row_issues)
    return _chat_record(messages, column, row, hints, row_issues)


def _chat_record(
    messages: list[PlacedMessage], column: str, row: Row, hints: LayoutHints, row_issues: RowIssues
) -> Record:
    """Returns a chat. Messages after the last answer are dropped, unless the job trains on all messages."""
    answers = [each for each in messages if each.message.role == "assistant"]
    is_last_only = hints.train_on == "last_response"
    trained = [each for each in (answers[-1:] if is_last_only else answers) if each.message.carries_loss]
    if hints.train_on == "all":
        trained = answers
    elif messages and not trained and not row_issues.problems:
        expected = f"{'a last' if is_last_only else 'an'} assistant message that carries loss"
        row_issues.add_problem(column, "nothing_to_learn", _roles(messages), expected)
    for each in trained:
        each.check_has_answer(row_issues)
    if hints.train_on != "all" and answers and messages[-1] is not answers[-1]:
        row_issues.warn("trailing_turns")
        messages = messages[: max(index for index, each in enumerate(messages) if each.message.role == "assistant") + 1]
    tools = read_tools(row.get("tools"), "tools", row_issues)
    return ChatRecord(messages=[each.message for each in messages], tools=tools)


def _roles(messages: list[PlacedMessage]) -> str:
    last = [each.message for each in messages[-ROLES_NAMED:]]
    roles = [f"{message.role} (weight 0)" if message.weight == 0 else message.role for message in last]
    return f"{len(messages)} messages: {'…, ' if len(last) < len(messages) else ''}{', '.join(roles)}"


def _with_system(messages: list[PlacedMessage], row: Row, row_issues: RowIssues) -> list[PlacedMessage]:
    column = row.columns.get("system", "system")
    system = row_issues.optional_text(row.get("system"), column)
    if system is None:
        return messages
    if messages and messages[0].message.role == "system":
        row_issues.add_problem(column, "two_systems", "a text here and a system message", "only one of the two")
    return [PlacedMessage(Message(role="system", content=system), column), *messages]


def _alpaca(row: Row, hints: LayoutHints, row_issues: RowIssues) -> Record:
    instruction = _text_of(row, "instruction", row_issues)
    more = row_issues.optional_text(row.get("input"), row.columns.get("input", "input"))
    prompt = "\n\n".join(part for part in (instruction, more) if part)
    answer, column = _text_of(row, "output", row_issues), row.columns["output"]
    messages = [
        PlacedMessage(Message(role="user", content=prompt), row.columns["instruction"]),
        PlacedMessage(Message(role="assistant", content=answer), column),
    ]
    return _chat_record(_with_system(messages, row, row_issues), column, row, hints, row_issues)


def _prompt_completion(row: Row, hints: LayoutHints, row_issues: RowIssues) -> Record:
    if _is_chat(row.get("prompt")) and _is_chat(row.get("completion")):
        return _chat_from_pair(row, hints, row_issues)
    pair = CompletionRecord(
        prompt=_text_of(row, "prompt", row_issues), completion=_text_of(row, "completion", row_issues)
    )
    column = row.columns["completion"]
    if is_empty_answer(pair.completion) and not row_issues.has_problem(column):
        row_issues.add_problem(column, "empty_answer", describe(pair.completion), "an answer with text")
    return pair


def _chat_from_pair(row: Row, hints: LayoutHints, row_issues: RowIssues) -> Record:
    """Assistant messages in the prompt are context: they carry no loss."""
    column = row.columns["completion"]
    prompt = read_messages(row.get("prompt"), row.columns["prompt"], row_issues)
    context = [each.without_loss if each.message.role == "assistant" else each for each in prompt]
    answer = read_messages(row.get("completion"), column, row_issues)
    return _chat_record([*context, *answer], column, row, hints, row_issues)


def _is_chat(value: Any) -> bool:
    """Whether the value is a list, or the JSON text of a conversation."""
    return isinstance(value, list) or (isinstance(value, str) and value.lstrip()[:1] == "[" and _is_chat_json(value))


def _is_chat_json(text: str) -> bool:
    value = json_container(text)
    if isinstance(value, dict):
        return not CHAT_COLUMNS.isdisjoint(value)
    return bool(value) and all(isinstance(each, dict) and not ROLE_KEYS.isdisjoint(each) for each in value or ())


def _text(row: Row, row_issues: RowIssues) -> Record:
    text, column = _text_of(row, "text", row_issues), row.columns["text"]
    if is_blank(text) and not row_issues.has_problem(column):
        row_issues.add_problem(column, "empty_text", describe(text), "a text to train on")
    return TextRecord(text=text)


def _text_of(row: Row, part: str, row_issues: RowIssues) -> str:
    text = row_issues.text(row.get(part), row.columns[part])
    if _is_chat_json(text):
        row_issues.warn("json_as_text")
    return text


def _note_ignored(row: Row, layout: Layout, row_issues: RowIssues) -> None:
    used = {row.columns[part] for part in NEEDED[layout] + OPTIONAL[layout] if part in row.columns}
    chat = _chat_part(row, layout)
    used.update({row.columns[chat]} if chat else ())
    row_issues.ignored.update(name for name, value in row.values.items() if name not in used and value is not None)
