"""The options by which the messages of a chat become a prompt."""

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field, StrictBool

from app.contracts.answers import Object
from app.contracts.base import Contract
from app.contracts.records import Message

MAX_VARIABLES = 32


class ChatForm(Contract):
    """The chat template's variables in addition to messages and tools, and where the prompt ends.

    `chat_template_kwargs` are those of transformers and vLLM. A name that the template does not use is refused.
    """

    chat_template_kwargs: Annotated[Object, Field(max_length=MAX_VARIABLES)] = Field(
        {}, description="more variables of the chat template, such as enable_thinking"
    )
    add_generation_prompt: StrictBool = Field(True, description="false: the prompt ends with the last message")
    continue_final_message: StrictBool = Field(
        False, description="the answer continues the last message, which must be the assistant's"
    )

    @property
    def asks(self) -> bool:
        """Whether the prompt begins a new assistant message after the messages."""
        return self.add_generation_prompt and not self.continue_final_message


def check_form(form: ChatForm, messages: Sequence[Message] | None) -> None:
    """Raise ValueError for options that need messages if there are none, and for a last message that cannot be
    continued."""
    if messages is None:
        given = next((name for name in ChatForm.model_fields if name in form.model_fields_set), None)
        if given is not None:
            raise ValueError(f"{given} should be left out without messages")
    elif form.continue_final_message:
        _check_continued(form, messages[-1])


def _check_continued(form: ChatForm, last: Message) -> None:
    if "add_generation_prompt" in form.model_fields_set and form.add_generation_prompt:
        raise ValueError("add_generation_prompt should be false beside continue_final_message: true")
    if last.role != "assistant":
        raise ValueError(f"continue_final_message should be false if the last message is of the {last.role}")
    if last.tool_calls or not last.content.strip():
        found = "has tool calls" if last.tool_calls else "has no text"
        raise ValueError(f"continue_final_message should be false if the last message {found}")
