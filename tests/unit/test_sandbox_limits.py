"""No template takes more work, text or memory than a chat needs, whatever thread it is rendered in."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from worker.rendering import sandbox_budget
from worker.rendering.sandbox import ChatTemplate, TemplateRefused

CHAT: list[dict[str, Any]] = [{"role": "user", "content": "hi " * 9}, {"role": "assistant", "content": "yes"}]
LOOP, END = "{% for i in range(100000) %}", "{% endfor %}"
CHATML = "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
LOOKING_BACK = (
    "{% for m in messages %}{% set ns = namespace(last=none) %}"
    "{% for j in range(loop.index0 - 1, -1, -1) %}{% if ns.last is none and messages[j].role != 'tool' %}"
    "{% set ns.last = messages[j].role %}{% endif %}{% endfor %}{{ ns.last }}{{ m.content }}{% endfor %}"
)
THINKING = (
    "{% for m in messages %}{% set text = m.content %}{% if '</think>' in text %}"
    "{% set text = text.split('</think>')[-1].lstrip('\n') %}{% endif %}"
    "{{ '<|im_start|>' ~ m.role ~ '\n' ~ text|trim ~ '<|im_end|>' }}{% endfor %}"
)


def grown(expression: str, start: str = "[1]", times: int = 60) -> str:
    """A template that sets `ns.x` to the expression of itself again and again."""
    loop = "{% for i in range(" + str(times) + ") %}{% set ns.x = " + expression + " %}{% endfor %}"
    return "{% set ns = namespace(x=" + start + ") %}" + loop


MEGABYTE = grown("ns.x ~ ns.x", "'x'", 20)
DAG = grown("[ns.x, ns.x]")
TUPLES = grown("(ns.x, ns.x)", "(1,)")
RANGE = "range(100000)"

TOO_LARGE = [
    grown("ns.x ~ ns.x", "'x'"), grown("ns.x + ns.x", "'x'"), grown("ns.x + ns.x"), grown("ns.x + ns.x", "(1,)"),
    "{% set x = 'abcdefgh' %}" + "{% set x %}{{ x }}{{ x }}{% endset %}" * 40,
    "{% macro m(x) %}{{ x }}{{ x }}{% endmacro %}" + grown("m(ns.x)", "'x'"), "{{ 'x' * 10**9 }}", "{{ 10**9 * 'x' }}",
    "{{ [0] * 10**9 }}", "{{ (1, 2) * 10**9 }}", "{{ 'x' * 9999 * 9999 * 9999 }}", "{{ 10 ** 10 ** 8 }}",
    "{{ 9 ** 9 ** 9 ** 9 }}", grown("ns.x * ns.x", "2"), grown("ns.x + ns.x", "2", 99), "{{ 1e300|int }}",
    "{{ '%999999999d' % 1 }}", "{{ '%*d' % (999999999, 1) }}", "{{ '%.999999999f' % 1.0 }}",
    "{{ '%(a)999999999s' % {'a': 1} }}", "{{ '%((a)b)99999999s' % {'(a)b': 1} }}", "{{ '%999999999d'|format(1) }}",
    "{{ '%999999999d' is odd }}", "{{ '%999999999d' is divisibleby(3) }}", "{{ ['%999999999d']|select('even')|list }}",
    MEGABYTE + "{{ ('%(a)s' * 9999) % {'a': ns.x} }}", MEGABYTE + "{{ ('{0}' * 9999).format(ns.x) }}",
    "{{ '{:999999999}'.format(1) }}", "{{ '{:{w}}'.format(1, w=999999999) }}", "{{ '{:.999999999f}'.format(1.0) }}",
    MEGABYTE + "{{ ns.x|replace('x', ns.x) }}", MEGABYTE + "{{ ns.x.replace('', 'a' * 999) }}",
    MEGABYTE + "{{ ns.x.join(['a'] * 999) }}", MEGABYTE + f"{{{{ {RANGE}|join(ns.x) }}}}",
    MEGABYTE + "{{ ([ns.x] * 99)|join }}", MEGABYTE + f"{{{{ {RANGE}|map('string')|join(ns.x) }}}}",
    MEGABYTE + "{{ ([ns.x] * 99)|string }}", "{{ 'a'.ljust(10**9) }}", "{{ 'a'.center(10**9) }}",
    "{{ '1'.zfill(10**9) }}", "{{ '\t'.expandtabs(10**9) }}", "{{ 'a\nb'|indent(10**9) }}",
    MEGABYTE + "{{ ('a\n' * 999)|indent(ns.x) }}", "{{ messages|tojson(indent=10**9) }}",
    "{{ messages|tojson(indent='x' * 9999) }}", MEGABYTE + "{{ [1, 2]|tojson(separators=(ns.x, ns.x)) }}",
    "{{ ('9' * 9999)|int }}", "{{ 1.5|round(10**9, 'ceil') }}", "{{ 'ab'|round(9, 'ceil') }}",
    "{{ ('a ' * 2000000).split()|length }}", "{{ ('a\n' * 2000000).splitlines() }}",
    "{{ ('a' * 2000000)|list|length }}", "{{ ('a ' * 2000000)|title }}", "{{ strftime_now('%c' * 9999) }}",
]  # fmt: skip
TOO_MUCH_WORK = [
    LOOP * 3 + END * 3, LOOP * 3 + "{{ i }}" + END * 3, LOOP * 2 + "{% if false %}{% endif %}" + END * 2,
    LOOP + f"{{% for j in {RANGE} if false %}}{{% endfor %}}" + END, LOOP * 2 + "{% set x = messages[0].a %}" + END * 2,
    LOOP * 2 + "{% set x = messages|tojson(indent=2) %}" + END * 2, LOOP + f"{{% set x = {RANGE}|list %}}" + END,
    "{% macro m(n) %}{% if n %}{{ m(n - 1) ~ m(n - 1) }}{% endif %}{% endmacro %}{{ m(50) }}",
    "{% for x in [1, 2] recursive %}{% if loop.depth < 50 %}{{ loop([1, 2]) }}{% endif %}{% endfor %}",
    "{% macro m() %}{{ caller() ~ caller() }}{% endmacro %}" + "{% call m() %}" * 30 + "x" + "{% endcall %}" * 30,
    DAG + "{{ ns.x }}", DAG + "{{ ns.x|tojson }}", DAG + "{{ ns.x == [ns.x] }}", DAG + "{{ ns.x in [ns.x] }}",
    DAG + "{{ [1].index(ns.x) }}", DAG + "{{ {}[ns.x].y }}", DAG + "{{ raise_exception(ns.x) }}",
    DAG + "{{ '%s' % ns.x }}", DAG + "{{ '{}'.format(ns.x) }}", DAG + "{{ ns.x|join }}", DAG + "{{ ns.x|safe }}",
    DAG + "{{ (''|safe).join([ns.x]) }}", DAG + "{{ ('a'|safe).replace('a', ns.x) }}", DAG + "{{ [ns.x]|sort }}",
    TUPLES + "{{ {}[ns.x] }}", TUPLES + "{{ {}.get(ns.x) }}", TUPLES + "{{ ns.x in {} }}",
    MEGABYTE + LOOP + "{% set x = ns.x|upper %}" + END, MEGABYTE + LOOP + "{% set x = ns.x.strip() %}" + END,
    MEGABYTE + LOOP + "{% set x = ns.x[1:] %}" + END, MEGABYTE + LOOP + "{% set x = 'y' in ns.x %}" + END,
    MEGABYTE + LOOP + "{% set x = ns.x.rfind('y' * 99) %}" + END,
    MEGABYTE + "{% set y = ns.x ~ 1 %}{% set z = ns.x ~ 2 %}" + LOOP + "{% set x = y == z %}" + END,
    MEGABYTE + "{% for c in ns.x %}{% endfor %}",
    MEGABYTE + "{% set kept = namespace(l=[]) %}" + LOOP + "{% set kept.l = [kept.l, ns.x ~ i] %}" + END,
    LOOP + f"{{% set x = loop.cycle(*{RANGE}) %}}" + END, LOOP + "{% set x = dict(messages[0]) %}" + END,
    f"{{{{ {RANGE}|map(attribute='a.' * 999)|list }}}}", "{{ []|join(attribute='a.' * 999999) }}",
    "{{ ([[0] * 999] * 999)|sum(start=[]) }}",
    f"{{{{ {RANGE}|map('string')|map('string')|map('string')|list|length }}}}",
    LOOP + f"{{% set x = 'a' in {RANGE} %}}" + END,
]  # fmt: skip


# What a refusal by a limit says, and none by an error.
LIMITS = r"more than|too large|too long a form|which no chat needs"


@pytest.fixture
def low_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundredth of the work, so that it is soon done."""
    monkeypatch.setattr(sandbox_budget, "MAX_WORK", sandbox_budget.MAX_WORK // 100)


def renderer(source: str, messages: list[dict[str, Any]] = CHAT) -> Callable[[], str]:
    template = ChatTemplate(source)
    return lambda: template.render(messages, tools=None, add_generation_prompt=False, variables={})


@pytest.mark.parametrize("source", TOO_LARGE)
def test_what_would_be_too_large_is_refused(source: str) -> None:
    with pytest.raises(TemplateRefused, match=LIMITS):
        renderer(source)()


@pytest.mark.usefixtures("low_limit")
@pytest.mark.parametrize("source", TOO_MUCH_WORK)
def test_what_would_be_too_much_work_is_refused(source: str) -> None:
    with pytest.raises(TemplateRefused, match="does more work than a chat needs"):
        renderer(source)()


def test_work_ends_after_twenty_million_steps() -> None:
    with pytest.raises(TemplateRefused, match="stopped after 20,000,000 steps"):
        renderer(MEGABYTE + LOOP + "{% set x = ns.x|upper %}" + END)()


@pytest.mark.parametrize(("source", "count"), [(CHATML, 2000), (THINKING, 2000), (LOOKING_BACK, 500)])
def test_a_long_chat_is_no_work(source: str, count: int) -> None:
    messages = [{"role": "assistant", "content": f"<think>\nwhy\n</think>\n\n{'word ' * 200}{i}"} for i in range(count)]

    assert renderer(source, messages)().count("word ") == 200 * count


@pytest.mark.parametrize("source", [CHATML, THINKING])
@pytest.mark.parametrize("end", ["x", "😀"])
def test_a_message_may_have_16_million_characters(source: str, end: str) -> None:
    text = "</think>\n\n" + "x" * (16 * 1024**2 - 20) + end

    assert len(renderer(source, [{"role": "user", "content": text}])()) > 16_000_000


@pytest.mark.usefixtures("low_limit")
def test_every_render_has_the_whole_budget() -> None:
    render = renderer("{% for i in range(25000) %}{{ i }}{% endfor %}")

    assert len({render() for _ in range(5)}) == 1
    with pytest.raises(TemplateRefused):
        renderer("{% for i in range(50000) %}{{ i }}{% endfor %}")()


@pytest.mark.usefixtures("low_limit")
def test_renders_in_threads_share_neither_budget_nor_variables() -> None:
    template = ChatTemplate(
        "{% for i in range(9000) %}{% set x = i ~ messages[0].content %}{% endfor %}{{ messages[0].content }}"
    )
    chats = [[{"role": "user", "content": str(number)}] for number in range(40)]
    form: dict[str, Any] = {"tools": None, "add_generation_prompt": False, "variables": {}}

    with ThreadPoolExecutor(8) as threads:
        texts = list(threads.map(lambda chat: template.render(chat, **form), chats))

    assert texts == [str(number) for number in range(40)]


@pytest.mark.usefixtures("low_limit")
def test_a_refused_render_takes_nothing_from_those_beside_it() -> None:
    honest, hostile = renderer("{% for i in range(25000) %}{% endfor %}done"), renderer(LOOP * 2 + END * 2)

    with ThreadPoolExecutor(8) as threads:
        ends = [threads.submit(render) for _ in range(10) for render in (honest, hostile)]

    assert [end.exception() is None for end in ends] == [True, False] * 10
    assert {end.result() for end in ends[::2]} == {"done"}
