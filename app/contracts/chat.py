"""How the messages of a chat become a prompt."""

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field, StrictBool

from app.contracts.answers import Object
from app.contracts.base import Contract
from app.contracts.records import Message

MAX_VARIABLES = 32


class ChatForm(Contract):
    """What the chat template is told beside messages and tools, and where the prompt ends.

    `chat_template_kwargs` are those of transformers and vLLM; a name that the template does not read is refused.
    """

    chat_template_kwargs: Annotated[Object, Field(max_length=MAX_VARIABLES)] = Field(
        {}, description="more variables of the chat template, such as enable_thinking"
    )
    add_generation_prompt: StrictBool = Field(True, description="false: nothing behind the messages asks for an answer")
    continue_final_message: StrictBool = Field(
        False, description="the answer goes on with the last message, which is the assistant's"
    )

    @property
    def asks(self) -> bool:
        """Whether the template asks for a new answer behind the messages."""
        return self.add_generation_prompt and not self.continue_final_message


def check_form(form: ChatForm, messages: Sequence[Message] | None) -> None:
    """Raises ValueError for what goes without messages, or with none that could be continued."""
    if messages is None:
        given = next((name for name in ChatForm.model_fields if name in form.model_fields_set), None)
        if given is not None:
            raise ValueError(f"{given} should be left out where there are no messages")
    elif form.continue_final_message:
        _check_continued(form, messages[-1])


def _check_continued(form: ChatForm, last: Message) -> None:
    if "add_generation_prompt" in form.model_fields_set and form.add_generation_prompt:
        raise ValueError("add_generation_prompt should be false beside continue_final_message: true")
    if last.role != "assistant":
        raise ValueError(f"continue_final_message should be false behind a last message of the {last.role}")
    if last.tool_calls or not last.content.strip():
        found = "with tool calls" if last.tool_calls else "without words"
        raise ValueError(f"continue_final_message should be false behind a last message {found}")
