"""Refuses chats whose tools the chat template leaves out."""

from app.contracts.records import Message
from worker.rendering.folding import Tools
from worker.rendering.masking import Prefixes
from worker.rendering.refusal import RowRefused
from worker.rendering.renderer import Renderer
from worker.rendering.work import Work


def check_tools(chat: Prefixes, renderer: Renderer) -> None:
    """Raises RowRefused if the template ignores the tools: many do so silently, and the text is the same
    without tools.
    """
    messages = list(chat.messages)
    for index, message in enumerate(messages):
        if message.tool_calls:
            without = [*messages[:index], message.model_copy(update={"tool_calls": None}), *messages[index + 1 :]]
            other = _text_of(without, chat.tools, renderer, chat.work)
            _check_written(message.tool_calls, f"messages[{index}].tool_calls", chat.text, other)
    if chat.tools:
        _check_written(chat.tools, "tools", chat.text, _text_of(messages, None, renderer, chat.work))


def _text_of(messages: list[Message], tools: Tools | None, renderer: Renderer, work: Work | None) -> str | None:
    try:
        return renderer.render(messages, tools, work=work)
    except RowRefused:
        return None


def _check_written(tools: Tools, where: str, text: str, without: str | None) -> None:
    names = [str(tool["function"]["name"]) for tool in tools]
    lost = names[0] if text == without else next((name for name in names if name not in text), None)
    if lost is not None:
        raise RowRefused(
            "template_without_tools",
            found=f"the tool {lost}, which the chat template leaves out",
            expected="a model or a chat_template that renders tools, or rows without them",
            field=where,
        )
