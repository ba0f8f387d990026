"""What a chat template may use, what becomes of one that fails, and that it changes nothing."""

import json
import re
from copy import deepcopy
from typing import Any

import pytest

from worker.rendering.refusal import TemplateRefused
from worker.rendering.sandbox import SandboxedTemplate

Messages = list[dict[str, Any]]
CHAT: Messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello", "tags": ["a", "b"]}]
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}


def render(source: str, messages: Messages = CHAT, **extra: Any) -> str:
    own = {"messages": messages, "tools": None, "add_generation_prompt": False}
    return SandboxedTemplate(source).render({**TOKENS, **own, **extra})


def refusal(source: str, **extra: Any) -> str:
    with pytest.raises(TemplateRefused) as caught:
        render(source, **extra)
    return str(caught.value)


def test_a_template_sees_messages_tools_documents_the_prompt_flag_and_special_tokens() -> None:
    source = "{{ bos_token ~ messages[0].content ~ tools ~ documents ~ add_generation_prompt ~ eos_token }}"

    assert render(source) == "<s>hiNoneNoneFalse</s>"
    assert render(source, tools=[{}], documents=[], add_generation_prompt=True) == "<s>hi[{}][]True</s>"


def test_further_variables_overrule_special_tokens() -> None:
    assert render("{{ eos_token ~ enable_thinking }}", eos_token="<end>", enable_thinking=False) == "<end>False"


def test_the_line_of_a_tag_leaves_nothing_behind() -> None:
    assert render("a\n  {% if true %}\nb\n  {% endif %}\nc") == "a\nb\nc"


def test_loops_can_be_left_and_continued() -> None:
    source = (
        "{% for i in range(9) %}{% if i == 1 %}{% continue %}{% elif i == 4 %}{% break %}{% endif %}{{ i }}{% endfor %}"
    )

    assert render(source) == "023"


def test_a_generation_block_is_its_body() -> None:
    source = "{% for m in messages %}[{% generation %}{{ m.content ~ loop.index }}{% endgeneration %}]{% endfor %}"

    assert render(source) == "[hi1][hello2]"


@pytest.mark.parametrize(
    ("call", "form"),
    [
        ("tojson", {"ensure_ascii": False}),
        ("tojson(ensure_ascii=true)", {"ensure_ascii": True}),
        ("tojson(indent=4)", {"ensure_ascii": False, "indent": 4}),
        ("tojson(separators=(',', ':'))", {"ensure_ascii": False, "separators": (",", ":")}),
        ("tojson(false, 2, sort_keys=true)", {"ensure_ascii": False, "indent": 2, "sort_keys": True}),
    ],
)
def test_json_is_that_of_python_and_escapes_no_html(call: str, form: dict[str, Any]) -> None:
    value = {"b": ["<é> & '\u2028", 1.5, None, True, {}], "a": {"c": []}}

    assert render(f"{{{{ value|{call} }}}}", value=value) == json.dumps(value, **form)


def test_the_date_is_told_and_a_template_that_asks_for_it_says_so() -> None:
    template = "{{ strftime_now('%Y-%m-%d') }}"

    assert re.fullmatch(r"\d{4}-\d\d-\d\d", render(template))
    assert SandboxedTemplate(template).uses_date
    assert not SandboxedTemplate("{{ messages }} strftime_now").uses_date


def test_the_reason_of_a_template_is_passed_on_as_it_is() -> None:
    assert refusal("{{ raise_exception('roles must alternate') }}") == "roles must alternate"


def test_a_refusal_without_a_reason_has_one() -> None:
    assert refusal("{{ raise_exception('') }}") == "the chat template refused the chat"


@pytest.mark.parametrize("source", ["{{ raise_exception('x' * 9999) }}", f"{{{{ none.{'x' * 9999}.y }}}}"])
def test_a_reason_is_short(source: str) -> None:
    assert len(refusal(source)) == 500


def test_invalid_jinja_is_refused_with_its_line() -> None:
    with pytest.raises(TemplateRefused, match=r"not valid Jinja: line 2: .*endfor"):
        SandboxedTemplate("{% for m in messages %}\n{% endif %}")


@pytest.mark.parametrize(
    "source",
    [
        "{{ 1 / 0 }}",
        "{{ 1 + 'a' }}",
        "{{ none.role.name }}",
        "{{ messages[0].role.missing.deeper }}",
        "{{ messages.index('a') }}",
        "{{ 2.0 ** 5000 }}",
        "{{ messages|sort }}",
        "{{ none|length }}",
        "{{ 'a'|round }}",
        "{{ missing() }}",
        "{{ 5() }}",
        "{{ undefined_thing|tojson }}",
        "{% if false %}{% else %}{{ 1|no_such_filter }}{% endif %}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{% for a, b in [1] %}{% endfor %}",
    ],
)
def test_whatever_a_template_raises_is_a_refusal(source: str) -> None:
    reason = refusal(source)

    assert reason.startswith("the chat template ")
    assert "Traceback" not in reason


@pytest.mark.parametrize(
    "source",
    [
        "{% include 'a' %}",
        "{% import 'a' as a %}",
        "{% from 'a' import a %}",
        "{% extends 'a' %}",
        "{% block a %}{% endblock %}",
        "{% autoescape true %}{% endautoescape %}",
        "{% if false %}{% include 'a' %}{% endif %}",
        "{{ messages|urlize }}",
        "{{ messages|attr('role') }}",
        "{{ 5 is filter }}",
        "{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}",
        "{% if a %}" * 2000 + "{% endif %}" * 2000,
    ],
)
def test_what_no_chat_needs_is_refused_before_it_runs(source: str) -> None:
    with pytest.raises(TemplateRefused):
        SandboxedTemplate(source)


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.__init__.__globals__ }}",
        "{{ raise_exception.__globals__.x }}",
        "{% macro m() %}{% endmacro %}{{ m._environment }}{{ m._func.x }}",
        "{{ (messages|map('upper')).gi_frame.f_globals }}",
        "{{ self._TemplateReference__context.environment }}",
        "{{ '{0.__class__.__mro__}'.format(messages) }}",
        "{{ '{0.__globals__}'.format(raise_exception) }}",
        "{{ (['{0.__class__.x}']|map(attribute='format')|first)(1) }}",
        "{{ ''['__class__']['__mro__'] }}",
        "{{ 'a'.encode('utf-8') }}",
        "{{ 'a'.format_map({}) }}",
        "{{ (1).to_bytes(2) }}",
        "{{ cycler('a') }}{{ joiner() }}",
        "{{ lipsum() }}",
        "{{ namespace.mro() }}",
        "{{ dict.fromkeys([1]) }}",
        "{{ raise_exception }}",
        "{{ messages[0].items }}",
        "{{ [messages[0].items]|string }}",
    ],
)
def test_nothing_but_data_is_reached(source: str) -> None:
    found = ""
    try:
        found = render(source)
    except TemplateRefused:
        return

    assert found in ("", "()", "[]")


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages.append(1) }}",
        "{{ messages.clear() }}",
        "{{ messages[0].update({'role': 'system'}) }}",
        "{{ messages[0].pop('role') }}",
        "{{ messages[1].tags.sort() }}",
        "{{ messages[1]['tags'].extend([1]) }}",
        "{{ (messages|first).clear() }}",
        "{{ dict.update(messages[0], {'role': 'system'}) }}",
        "{% set messages[0].role = 'system' %}",
        "{% set copy = dict(messages[0], role='system') %}{{ raise_exception(copy.role) }}",
        "{% set more = messages + [1] %}{{ raise_exception('added') }}",
        "{% for m in messages %}{% set m = 1 %}{% endfor %}{{ raise_exception('set') }}",
    ],
)
def test_messages_are_never_changed(source: str) -> None:
    messages = deepcopy(CHAT)

    with pytest.raises(TemplateRefused):
        render(source, messages)

    assert messages == CHAT
