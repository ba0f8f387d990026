"""A dataset row after normalising: either a chat, a prompt with its completion, or raw text. One JSON line each.

Tool arguments keep their own keys and types, so messages are plain JSON objects and not a closed model.
"""

from typing import Annotated, Any, Literal

from pydantic import Field

from app.contracts.base import Contract


class Message(Contract):
    """One turn, in the form that `tokenizer.apply_chat_template` takes."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str
    name: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None
    weight: Literal[0, 1] | None = Field(None, description="0: an assistant turn without loss")

    @property
    def carries_loss(self) -> bool:
        """Whether it is learned where answers are learned at all."""
        return self.role == "assistant" and self.weight != 0

    def for_template(self) -> dict[str, Any]:
        """What the chat template sees: absent keys are absent, and loss weights are not its business."""
        return self.model_dump(exclude_none=True, exclude={"weight"})


class ChatRecord(Contract):
    kind: Literal["chat"] = "chat"
    messages: list[Message]
    tools: list[dict[str, Any]] | None = None

    @property
    def has_tools(self) -> bool:
        """Whether a tool is defined, called or heard in it."""
        return bool(self.tools) or any(message.tool_calls or message.role == "tool" for message in self.messages)


class CompletionRecord(Contract):
    kind: Literal["completion"] = "completion"
    prompt: str
    completion: str


class TextRecord(Contract):
    kind: Literal["text"] = "text"
    text: str


Record = Annotated[ChatRecord | CompletionRecord | TextRecord, Field(discriminator="kind")]
