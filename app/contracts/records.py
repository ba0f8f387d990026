"""A dataset row after normalising, one JSON line each: a chat, a prompt with its completion, or raw text.

Tool calls and tools are plain JSON objects, because their arguments have their own keys and types.
"""

from typing import Annotated, Any, Literal

from pydantic import Field

from app.contracts.base import Contract


class Message(Contract):
    """One message of a chat, in the form that `tokenizer.apply_chat_template` reads."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str
    name: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None
    weight: Literal[0, 1] | None = Field(None, description="0: an assistant message without loss")

    @property
    def carries_loss(self) -> bool:
        """Whether the message is trained on, if answers are trained on."""
        return self.role == "assistant" and self.weight != 0

    def for_template(self) -> dict[str, Any]:
        """Return the message for the chat template, without keys that are null and without the loss weight."""
        return self.model_dump(exclude_none=True, exclude={"weight"})


class ChatRecord(Contract):
    kind: Literal["chat"] = "chat"
    messages: list[Message]
    tools: list[dict[str, Any]] | None = None

    @property
    def has_tools(self) -> bool:
        """Whether the chat defines a tool, calls one, or has a tool's message."""
        return bool(self.tools) or any(message.tool_calls or message.role == "tool" for message in self.messages)


class CompletionRecord(Contract):
    kind: Literal["completion"] = "completion"
    prompt: str
    completion: str


class TextRecord(Contract):
    kind: Literal["text"] = "text"
    text: str


Record = Annotated[ChatRecord | CompletionRecord | TextRecord, Field(discriminator="kind")]
