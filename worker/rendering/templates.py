"""The chat templates of one tokenizer: most have one, some have another for chats with tools."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any

from worker.rendering.chat_template import ChatTemplate
from worker.rendering.refusal import RowRefused, TemplateRefused
from worker.rendering.work import Work

Turns = list[dict[str, Any]]


class Templates:
    """Renders messages to text."""

    def __init__(self, tokenizer: Any) -> None:
        """Raises TemplateRefused if a template cannot be compiled."""
        source = tokenizer.chat_template
        self._source = source
        self._texts: dict[str, str] = source if isinstance(source, dict) else {"default": source} if source else {}
        self._compiled = {name: ChatTemplate(text) for name, text in self._texts.items()}
        self._special_tokens = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}

    def __bool__(self) -> bool:
        return bool(self._texts)

    @cached_property
    def sha256(self) -> str | None:
        """A hash over the template's text, or the texts of all. Returns None if there is no template."""
        text = json.dumps(self._source, sort_keys=True) if isinstance(self._source, dict) else self._source
        return hashlib.sha256(text.encode()).hexdigest() if text else None

    @property
    def uses_date(self) -> bool:
        """Whether a template reads the current date."""
        return any(template.uses_date for template in self._compiled.values())

    @cached_property
    def variables(self) -> frozenset[str]:
        """The names that a template reads and that neither a chat nor the tokenizer defines."""
        read = (template.variables for template in self._compiled.values())
        return frozenset().union(*read) - self._special_tokens.keys()

    def apply(
        self,
        turns: Turns,
        tools: Turns | None,
        variables: Mapping[str, Any],
        *,
        add_generation_prompt: bool,
        work: Work | None = None,
    ) -> str:
        """The text of a chat. Raises RowRefused `no_chat_template`, `unknown_template_variable`, `template_refused`."""
        template = self._compiled.get("tool_use") if tools else None
        template = template or self._compiled.get("default")
        if template is None:
            raise RowRefused(
                "no_chat_template", found="a model without a chat template", expected="a prompt instead of messages"
            )
        self._check(variables)
        try:
            return template.render(
                turns,
                tools=tools,
                add_generation_prompt=add_generation_prompt,
                variables={**self._special_tokens, **variables},
                work=work,
            )
        except TemplateRefused as error:
            raise RowRefused(
                "template_refused",
                found=f"messages that the chat template refuses: {error}",
                expected=f"messages that the template accepts; here the roles are {_roles(turns)}",
                field="messages",
            ) from error

    def _check(self, variables: Mapping[str, Any]) -> None:
        unknown = next((name for name in variables if name not in self.variables), None)
        if unknown is not None:
            known = ", ".join(sorted(self.variables)) or "none"
            raise RowRefused(
                "unknown_template_variable",
                found=f"{unknown[:100]!r}, which this model's chat template does not read",
                expected=f"names that it reads: {known}",
                field="chat_template_kwargs",
            )


def _roles(turns: Iterable[dict[str, Any]]) -> str:
    shown = [str(turn["role"]) for turn in turns]
    return ", ".join(shown[:12]) + (", …" if len(shown) > 12 else "")
