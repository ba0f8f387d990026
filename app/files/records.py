"""One raw row of a known layout as a record of the contract."""

from typing import Any

from app.contracts.records import ChatRecord, CompletionRecord, Message, Record, TextRecord
from app.files.findings import Findings
from app.files.layouts import CHAT_PARTS, NEEDED, OPTIONAL, Layout, Row, Wish, detect, media
from app.files.tools import read_tools
from app.files.turns import read_turns
from app.files.values import describe, printable

ROLES_NAMED = 6


def read_record(value: dict[str, Any], layout: Layout, wish: Wish, findings: Findings) -> Record | None:
    """The record that a row becomes; None when the findings have a problem with it."""
    row = Row.of(value, wish)
    if _is_of(row, layout, wish, findings):
        _note_ignored(row, layout, findings)
        record = _read(row, layout, wish, findings)
        return None if findings.problems else record
    return None


def _read(row: Row, layout: Layout, wish: Wish, findings: Findings) -> Record:
    match layout:
        case Layout.MESSAGES | Layout.SHAREGPT:
            return _chat(row, layout, wish, findings)
        case Layout.ALPACA:
            return _alpaca(row, wish, findings)
        case Layout.PROMPT_COMPLETION:
            return _pair(row, wish, findings)
        case Layout.TEXT:
            return _text(row, findings)


def _chat_part(row: Row, layout: Layout) -> str | None:
    return next((part for part in CHAT_PARTS.get(layout, ()) if part in row.columns), None)


def _is_of(row: Row, layout: Layout, wish: Wish, findings: Findings) -> bool:
    """Whether the row has the columns of the layout; what it lacks is named."""
    column = media(row)
    if column is not None:
        findings.wrong(column, "media_rows", row.described, "columns of text only")
        return False
    if row.has(layout) or _chat_part(row, layout):
        return True
    other = detect(row, wish) if wish.layout is None else None
    if other is not None:
        expected = f"{layout}, the layout of record 1 (columns {', '.join(NEEDED[layout])})"
        findings.wrong("columns", "mixed_layouts", f"{other} ({row.described})", expected)
        return False
    for part in NEEDED[layout]:
        if part not in row.columns:
            column = wish.mapped.get(part, part)
            findings.wrong(column, "missing", row.without(column), f"the column {printable(column)!r}")
    return False


def _chat(row: Row, layout: Layout, wish: Wish, findings: Findings) -> Record:
    part = _chat_part(row, layout) or NEEDED[layout][0]
    column = row.columns[part]
    messages = _with_system(read_turns(row.get(part), column, findings), row, findings)
    return _chat_record(messages, column, row, wish, findings)


def _chat_record(messages: list[Message], column: str, row: Row, wish: Wish, findings: Findings) -> Record:
    answers = [message for message in messages if message.role == "assistant"]
    is_last_only = wish.train_on == "last_response"
    learned = [answer for answer in (answers[-1:] if is_last_only else answers) if answer.carries_loss]
    if messages and not learned and wish.train_on != "all":
        expected = f"a {'last ' if is_last_only else ''}turn of the assistant that carries loss"
        findings.wrong(column, "nothing_to_learn", _roles(messages), expected)
    if any(not answer.content.strip() and not answer.tool_calls for answer in learned):
        findings.warnings.add("empty_answer")
    return ChatRecord(messages=messages, tools=read_tools(row.get("tools"), "tools", findings))


def _roles(messages: list[Message]) -> str:
    last = messages[-ROLES_NAMED:]
    roles = [f"{turn.role} (weight 0)" if turn.weight == 0 else turn.role for turn in last]
    return f"{len(messages)} turns: {'…, ' if len(last) < len(messages) else ''}{', '.join(roles)}"


def _with_system(messages: list[Message], row: Row, findings: Findings) -> list[Message]:
    column = row.columns.get("system", "system")
    system = findings.optional_text(row.get("system"), column)
    if system is None:
        return messages
    if messages and messages[0].role == "system":
        findings.wrong(column, "two_systems", "text here and in a system turn", "one of the two")
    return [Message(role="system", content=system), *messages]


def _alpaca(row: Row, wish: Wish, findings: Findings) -> Record:
    instruction = findings.text(row.get("instruction"), row.columns["instruction"])
    more = findings.optional_text(row.get("input"), row.columns.get("input", "input"))
    output = findings.text(row.get("output"), row.columns["output"])
    asked = "\n\n".join(part for part in (instruction, more) if part)
    messages = [Message(role="user", content=asked), Message(role="assistant", content=output)]
    return _chat_record(_with_system(messages, row, findings), row.columns["output"], row, wish, findings)


def _pair(row: Row, wish: Wish, findings: Findings) -> Record:
    prompt, completion = row.get("prompt"), row.get("completion")
    if isinstance(prompt, list) and isinstance(completion, list):
        return _pair_of_chats(row, wish, findings)
    pair = CompletionRecord(
        prompt=findings.text(prompt, row.columns["prompt"]),
        completion=findings.text(completion, row.columns["completion"]),
    )
    if not pair.completion.strip():
        findings.warnings.add("empty_answer")
    return pair


def _pair_of_chats(row: Row, wish: Wish, findings: Findings) -> Record:
    """What the assistant said in the prompt is context: it carries no loss."""
    column = row.columns["completion"]
    asked = read_turns(row.get("prompt"), row.columns["prompt"], findings)
    context = [turn.model_copy(update={"weight": 0}) if turn.role == "assistant" else turn for turn in asked]
    return _chat_record([*context, *read_turns(row.get("completion"), column, findings)], column, row, wish, findings)


def _text(row: Row, findings: Findings) -> Record:
    column = row.columns["text"]
    text = findings.text(row.get("text"), column)
    if not text.strip() and not findings.problems:
        findings.wrong(column, "empty_text", describe(text), "text to learn")
    return TextRecord(text=text)


def _note_ignored(row: Row, layout: Layout, findings: Findings) -> None:
    used = {row.columns[part] for part in NEEDED[layout] + OPTIONAL[layout] if part in row.columns}
    chat = _chat_part(row, layout)
    used.update({row.columns[chat]} if chat else ())
    findings.ignored.update(name for name, value in row.values.items() if name not in used and value is not None)
