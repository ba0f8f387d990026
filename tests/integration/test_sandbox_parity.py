"""The sandbox writes, or refuses, what transformers' own rendering writes or refuses, template by template."""

from itertools import product
from pathlib import Path
from typing import Any

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from worker.rendering.sandbox import ChatTemplate, TemplateRefused

Messages = list[dict[str, Any]]

CHATML = """
{%- for message in messages %}
{{- '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}
"""
LLAMA_WITH_TOOLS = """
{%- macro turn(role) %}<|start_header_id|>{{ role }}<|end_header_id|>

{% endmacro %}
{{- bos_token }}
{%- if messages and messages[0].role == 'system' %}
    {%- set system = messages[0].content | trim %}
    {%- set messages = messages[1:] %}
{%- endif %}
{{- turn('system') ~ 'Today Date: ' ~ date_string | default('26 Jul 2024') ~ '\n\n' }}
{{- (system | default('')) ~ eos_token }}
{%- if tools is not none %}
    {{- turn('user') }}
    {%- for tool in tools %}
        {{- tool | tojson(indent=4) ~ '\n\n' }}
    {%- endfor %}
{%- endif %}
{%- for message in messages %}
    {%- if 'tool_calls' in message and message.tool_calls %}
        {%- if message.tool_calls | length > 1 %}
            {{- raise_exception('one call at a time') }}
        {%- endif %}
        {%- set call = message.tool_calls[0].function %}
        {{- turn('assistant') ~ '{"name": "' ~ call.name ~ '", "parameters": ' ~ call.arguments | tojson ~ '}' }}
    {%- elif message.role in ['tool', 'ipython'] %}
        {{- turn('ipython') ~ message.content | tojson }}
    {%- else %}
        {{- turn(message.role) + message.content | trim }}
    {%- endif %}
    {{- eos_token }}
{%- endfor %}
{{- turn('assistant') if add_generation_prompt else '' }}
"""
STRICT_MISTRAL = """
{{- bos_token }}
{%- set ns = namespace(index=0) %}
{%- set asked = messages | selectattr('role', 'equalto', 'user') | list %}
{%- for message in messages if not message.tool_calls and message.role != 'tool' %}
    {%- if (message.role == 'user') != (ns.index % 2 == 0) %}
        {{- raise_exception('roles must alternate user/assistant/user/assistant/...') }}
    {%- endif %}
    {%- set ns.index = ns.index + 1 %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.role == 'user' %}
        {%- if tools and message == asked[-1] %}
            {{- '[AVAILABLE_TOOLS][' }}
            {%- for tool in tools %}
                {%- for key, value in tool.function.items() if key != 'return' %}
                    {{- '"' + key + '": ' + (value if value is string else value | tojson) }}
                    {{- ', ' if not loop.last }}
                {%- endfor %}
            {%- endfor %}
            {{- '][/AVAILABLE_TOOLS]' }}
        {%- endif %}
        {{- '[INST] ' + message.content + ' [/INST]' }}
    {%- elif message.tool_calls %}
        {{- '[TOOL_CALLS][' }}
        {%- for call in message.tool_calls %}
            {%- set written = call.function | tojson %}
            {{- written[:-1] ~ ', "id": "' ~ call.id[-9:] ~ '"}' }}
        {%- endfor %}
        {{- ']' + eos_token }}
    {%- elif message.role == 'assistant' %}
        {{- message.content | trim + eos_token }}
    {%- else %}
        {{- '[TOOL_RESULTS]' ~ message.content | string ~ '[/TOOL_RESULTS]' }}
    {%- endif %}
{%- endfor %}
"""
THINKING_QWEN = """
{%- if tools %}
    {{- '<|im_start|>system\n# Tools\n<tools>' }}
    {%- for tool in tools %}
        {{- '\n' ~ (tool | tojson) }}
    {%- endfor %}
    {{- '\n</tools><|im_end|>\n' }}
{%- endif %}
{%- set ns = namespace(searching=true, last=messages | length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages | length - 1) - loop.index0 %}
    {%- if ns.searching and message.role == 'user' and not message.content.startswith('<tool_response>') %}
        {%- set ns.searching = false %}
        {%- set ns.last = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.role == 'assistant' %}
        {%- set content = message.content %}
        {%- set thought = '' %}
        {%- if message.reasoning_content is string %}
            {%- set thought = message.reasoning_content %}
        {%- elif '</think>' in content %}
            {%- set thought = content.rsplit('</think>', 1)[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\n') %}
        {%- endif %}
        {{- '<|im_start|>assistant\n' }}
        {%- generation %}
        {%- if loop.index0 > ns.last and (loop.last or thought) %}
            {{- '<think>\n' + thought.strip('\n') + '\n</think>\n\n' }}
        {%- endif %}
        {{- content }}
        {%- for call in message.tool_calls or [] %}
            {%- set call = call.function if call.function else call %}
            {{- '\n<tool_call>\n{"name": "' ~ call.name ~ '", "arguments": ' }}
            {{- (call.arguments if call.arguments is string else call.arguments | tojson) ~ '}\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\n' }}
        {%- endgeneration %}
    {%- elif message.role == 'tool' %}
        {{- '<|im_start|>user' if loop.first or messages[loop.index0 - 1].role != 'tool' }}
        {{- '\n<tool_response>\n' ~ message.content ~ '\n</tool_response>' }}
        {{- '<|im_end|>\n' if loop.last or messages[loop.index0 + 1].role != 'tool' }}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' ~ ('<think>\n\n</think>\n\n' if enable_thinking is defined and not enable_thinking) }}
{%- endif %}
"""
GEMMA = """
{{ bos_token }}
{%- if messages and messages[0]['role'] == 'system' %}
    {%- if messages[0]['content'] is string %}
        {%- set prefix = messages[0]['content'] + '\n\n' %}
    {%- endif %}
    {%- set turns = messages[1:] %}
{%- else %}
    {%- set prefix = '' %}
    {%- set turns = messages %}
{%- endif %}
{%- for message in turns %}
    {%- if message['role'] == 'user' and loop.index0 % 2 != 0 %}
        {{ raise_exception('Conversation roles must alternate') }}
    {%- endif %}
    {%- set role = 'model' if message['role'] == 'assistant' else message['role'] %}
    {{ '<start_of_turn>' + role + '\n' + (prefix if loop.first else '') }}
    {%- if message['content'] is string %}
        {{ message['content'] | trim }}
    {%- elif message['content'] is iterable %}
        {%- for part in message['content'] %}
            {{ '<image>' if part['type'] == 'image' else part['text'] | trim }}
        {%- endfor %}
    {%- endif %}
    {{ '<end_of_turn>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{ '<start_of_turn>model\n' }}
{%- endif %}
"""
WRITTEN_HERE = [CHATML, LLAMA_WITH_TOOLS, STRICT_MISTRAL, THINKING_QWEN, GEMMA]
FOLDER = Path(__file__).parents[1] / "chat_formats"
FORMATS = [path.read_text(encoding="utf-8") for path in sorted(FOLDER.glob("*.jinja"))]

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


@pytest.mark.parametrize("source", WRITTEN_HERE + FORMATS)
@pytest.mark.parametrize("messages", CHATS)
def test_a_template_writes_what_it_writes_in_transformers(source: str, messages: Messages) -> None:
    template = ChatTemplate(source)

    for tools, asks, extra in product((None, TOOLS), (False, True), EXTRAS):
        flags = {"add_generation_prompt": asks, **extra}
        expected = by_transformers(source, messages, tools, **{**TOKENS, **flags})
        assert by_the_sandbox(template, messages, tools, **flags) == expected


@pytest.mark.parametrize("source", WRITTEN_HERE)
def test_the_templates_of_this_file_write_most_of_the_chats(source: str) -> None:
    template = ChatTemplate(source)

    written = [by_the_sandbox(template, chat, TOOLS, add_generation_prompt=True) for chat in CHATS]

    assert sum(text is not None for text in written) >= 6
