"""The sandbox writes, or refuses, what transformers' own rendering writes or refuses, template by template."""

from itertools import product
from typing import Any

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from tests import ROOT
from worker.rendering.chat_template import ChatTemplate
from worker.rendering.refusal import TemplateRefused

Messages = list[dict[str, Any]]

# What none of the public templates of this folder has.
MARKED = """
{%- macro turn(role) %}<|im_start|>{{ role }}{{ caller() if caller }}
{% endmacro %}
{%- for message in messages recursive %}
    {%- if message.role == 'critic' %}{% continue %}{% endif %}
    {%- set words = message.content | string %}
    {%- call turn(message.role) %}: {{ loop.index }}{% endcall %}
    {%- generation %}
        {%- set words = words | trim | title if loop.first else words.rsplit('</think>', 1)[-1] %}
        {{- words ~ '%s' % eos_token }}
    {%- endgeneration %}
    {%- filter upper %}{{ words[:3] }}{% endfilter %}
{%- endfor %}
{{- turn('assistant') if add_generation_prompt else '' }}
{{- '{}'.format(tools | tojson(indent=4)) if tools }}
"""
FOLDER = ROOT / "tests" / "chat_formats"
TEMPLATES = [MARKED, *(path.read_text(encoding="utf-8") for path in sorted(FOLDER.glob("*.jinja")))]

TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string", "enum": ["<b>é</b>", "B"]}}, "required": []}
FUNCTION = {"name": "weather", "description": 'It\'s "weather" & more', "parameters": PARAMETERS, "return": {}}
TOOLS = [{"type": "function", "function": FUNCTION}]
ARGUMENTS = {"city": 'Paris & "é"', "days": [1, 2.5, None, True], "more": {}}
CALL = {"id": "abcdefghi", "type": "function", "function": {"name": "weather", "arguments": ARGUMENTS}}


def turn(role: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


EXTRAS: list[dict[str, Any]] = [{}, {"enable_thinking": False, "date_string": "1 May 2025"}]
THOUGHT = "<think>\nwhy\n</think>\n\nbecause\n"
CHATS: list[Messages] = [
    [],
    [turn("user", " hi \n")],
    [turn("system", " be kind "), turn("user", "a"), turn("assistant", " b "), turn("user", "c")],
    [turn("user", "a"), turn("assistant", THOUGHT), turn("user", "b"), turn("assistant", "<think></think>" + THOUGHT)],
    [turn("user", "a"), turn("assistant", "b", reasoning_content="c")],
    [
        turn("user", "weather?"),
        turn("assistant", "", tool_calls=[CALL]),
        turn("tool", '{"t": 21}', tool_call_id="abcdefghi"),
        turn("assistant", "sunny 😀"),
    ],
    [turn("user", "both?"), turn("assistant", "", tool_calls=[CALL, CALL]), turn("tool", "1"), turn("tool", "2")],
    [turn("user", "a"), turn("user", "b")],
    [turn("user", [{"type": "text", "text": " part "}, {"type": "image"}]), turn("assistant", "x" * 300)],
    [turn("critic", None)],
]


def by_transformers(source: str, messages: Messages, tools: Any, **extra: Any) -> str | None:
    """None where it refuses."""
    try:
        return str(render_jinja_template([messages], tools=tools, chat_template=source, **extra)[0][0])
    except Exception:  # noqa: BLE001  a template may raise anything there
        return None


def by_the_sandbox(
    template: ChatTemplate, messages: Messages, tools: Any, *, add_generation_prompt: bool = False, **extra: Any
) -> str | None:
    """None where it refuses."""
    try:
        return template.render(
            messages, tools=tools, add_generation_prompt=add_generation_prompt, variables={**TOKENS, **extra}
        )
    except TemplateRefused:
        return None


@pytest.mark.parametrize("source", TEMPLATES)
@pytest.mark.parametrize("messages", CHATS)
def test_a_template_writes_what_it_writes_in_transformers(source: str, messages: Messages) -> None:
    template = ChatTemplate(source)

    for tools, asks, extra in product((None, TOOLS), (False, True), EXTRAS):
        flags = {"add_generation_prompt": asks, **extra}
        expected = by_transformers(source, messages, tools, **{**TOKENS, **flags})
        assert by_the_sandbox(template, messages, tools, **flags) == expected


@pytest.mark.parametrize("source", TEMPLATES)
def test_the_templates_write_most_of_the_chats(source: str) -> None:
    template = ChatTemplate(source)

    written = [by_the_sandbox(template, chat, None, add_generation_prompt=True) for chat in CHATS]

    assert sum(text is not None for text in written) >= 4
