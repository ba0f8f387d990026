"""No template takes more time or memory than a chat needs, and none takes anything from those beside it."""

import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from typing import Any

import pytest

from app.processes.environments import Process
from worker.confinement.limited_process import CallFailed, LimitedProcess, ProcessPool
from worker.rendering import chat_template
from worker.rendering.chat_template import MAX_SOURCE, POOL, ChatTemplate
from worker.rendering.refusal import TemplateRefused

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
SMALL = partial(LimitedProcess, "worker.rendering.render_child", Process.RENDER, most_bytes=2**26)


def grown(expression: str, start: str = "[1]", times: int = 60) -> str:
    """A template that sets `ns.x` to the expression of itself again and again."""
    loop = "{% for i in range(" + str(times) + ") %}{% set ns.x = " + expression + " %}{% endfor %}"
    return "{% set ns = namespace(x=" + start + ") %}" + loop


MEGABYTE = grown("ns.x ~ ns.x", "'x'", 20)
DAG = grown("[ns.x, ns.x]")

TOO_LARGE = [
    grown("ns.x ~ ns.x", "'x'"), grown("ns.x + ns.x"), grown("ns.x + ns.x", "(1,)"),
    "{% set x = 'abcdefgh' %}" + "{% set x %}{{ x }}{{ x }}{% endset %}" * 40,
    "{% macro m(x) %}{{ x }}{{ x }}{% endmacro %}" + grown("m(ns.x)", "'x'"), "{{ 'x' * 10**9 }}",
    "{{ [0] * 10**9 }}", "{{ '%999999999d' % 1 }}", "{{ '%*d' % (999999999, 1) }}", "{{ '%999999999d'|format(1) }}",
    "{{ '%999999999d' is odd }}", "{{ '{:999999999}'.format(1) }}", "{{ '{:{w}}'.format(1, w=999999999) }}",
    MEGABYTE + "{{ ('{0}' * 9999).format(ns.x) }}", MEGABYTE + "{{ ns.x|replace('x', ns.x) }}",
    MEGABYTE + "{{ ns.x.join(['a'] * 999) }}", MEGABYTE + "{{ ([ns.x] * 99)|string }}",
    "{{ 'a\nb'|indent(10**9) }}", "{{ messages|tojson(indent=10**9) }}", "{{ ('a\n' * 2000000).splitlines() }}",
    MEGABYTE + "{% set kept = namespace(l=[]) %}" + LOOP + "{% set kept.l = [kept.l, ns.x ~ i] %}" + END,
]  # fmt: skip
TOO_MUCH_WORK = [
    LOOP * 3 + END * 3, LOOP + "{% for j in range(100000) if false %}{% endfor %}" + END,
    LOOP + "{% set x = range(100000)|list %}" + END, LOOP + "{% set x = -1 in range(100000)|list %}" + END,
    "{% macro m(n) %}{% if n %}{{ m(n - 1) ~ m(n - 1) }}{% endif %}{% endmacro %}{{ m(50) }}",
    "{% for x in [1, 2] recursive %}{% if loop.depth < 50 %}{{ loop([1, 2]) }}{% endif %}{% endfor %}",
    "{% macro m() %}{{ caller() ~ caller() }}{% endmacro %}" + "{% call m() %}" * 30 + "x" + "{% endcall %}" * 30,
    DAG + "{{ ns.x }}", DAG + "{{ ns.x|tojson }}", DAG + "{{ '{}'.format(ns.x) }}", DAG + "{{ raise_exception(ns.x) }}",
    grown("(ns.x, ns.x)", "(1,)") + "{{ {}[ns.x] }}", grown("ns.x * ns.x", "2"),
    MEGABYTE + LOOP + "{% set x = ns.x|upper %}" + END, MEGABYTE + LOOP + "{% set x = 'y' in ns.x %}" + END,
    "{{ 9 ** (9 ** 9) }}",  # while it is compiled
]  # fmt: skip


@pytest.fixture(scope="module")
def small() -> Iterator[ProcessPool]:
    """Processes that have little memory."""
    with closing(ProcessPool(SMALL, 2)) as pool:
        yield pool


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_template, "MOST_SECONDS", 0.2)
    monkeypatch.setattr(chat_template, "COMPILE_SECONDS", 0.2)


def renderer(source: str, messages: list[dict[str, Any]] = CHAT, pool: ProcessPool = POOL) -> Callable[[], str]:
    template = ChatTemplate(source, pool)
    return lambda: template.render(messages, tools=None, add_generation_prompt=False, variables={})


@pytest.mark.parametrize("source", TOO_LARGE)
def test_what_would_be_too_large_is_refused(source: str, small: ProcessPool) -> None:
    with pytest.raises(TemplateRefused, match="needs too much memory"):
        renderer(source, pool=small)()


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("source", TOO_MUCH_WORK)
def test_what_would_be_too_much_work_is_refused(source: str, small: ProcessPool) -> None:
    with pytest.raises(TemplateRefused, match=r"does more work than a chat needs: stopped after 0\.2 seconds"):
        renderer(source, pool=small)()


def test_a_text_that_is_longer_than_any_chat_is_refused() -> None:
    with pytest.raises(TemplateRefused, match="a text of more than 67,108,864 characters"):
        renderer("{% for i in range(65) %}" + "{{ 'x' * 2**20 }}" + END)()


def test_a_source_that_is_longer_than_any_template_is_refused() -> None:
    with pytest.raises(TemplateRefused, match="more than 262,144"):
        ChatTemplate("x" * (MAX_SOURCE + 1))


def test_no_render_takes_more_than_two_seconds_of_computing() -> None:
    assert chat_template.MOST_SECONDS <= 2


@pytest.mark.parametrize(("source", "count"), [(CHATML, 2000), (THINKING, 2000), (LOOKING_BACK, 500)])
def test_a_long_chat_is_no_work(source: str, count: int) -> None:
    messages = [{"role": "assistant", "content": f"<think>\nwhy\n</think>\n\n{'word ' * 200}{i}"} for i in range(count)]

    assert renderer(source, messages)().count("word ") == 200 * count


@pytest.mark.parametrize("source", [CHATML, THINKING])
@pytest.mark.parametrize("end", ["x", "😀", "\ud800"])
def test_a_message_may_have_16_million_characters(source: str, end: str) -> None:
    text = "</think>\n\n" + "x" * (16 * 1024**2 - 20) + end

    written = renderer(source, [{"role": "user", "content": text}])()

    assert len(written) > 16_000_000
    assert end in written


def test_renders_in_threads_share_no_variables() -> None:
    template = ChatTemplate("{% for i in range(9000) %}{% endfor %}{{ messages[0].content }}")
    chats = [[{"role": "user", "content": str(number)}] for number in range(40)]
    form: dict[str, Any] = {"tools": None, "add_generation_prompt": False, "variables": {}}

    with ThreadPoolExecutor(8) as threads:
        texts = list(threads.map(lambda chat: template.render(chat, **form), chats))

    assert texts == [str(number) for number in range(40)]


@pytest.mark.usefixtures("short")
def test_a_refused_render_takes_nothing_from_those_beside_it(small: ProcessPool) -> None:
    honest, hostile = renderer("{{ messages|length }}", pool=small), renderer(LOOP * 3 + END * 3, pool=small)

    with ThreadPoolExecutor(8) as threads:
        ends = [threads.submit(render) for _ in range(5) for render in (honest, hostile)]

    assert [end.exception() is None for end in ends] == [True, False] * 5
    assert {end.result() for end in ends[::2]} == {"2"}


def test_a_process_that_ended_by_itself_is_replaced() -> None:
    pool = ProcessPool(SMALL, 1)
    render = renderer("{{ messages|length }}", pool=pool)
    with pool.process() as process:
        os.kill(process.pid, signal.SIGKILL)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)

    assert render() == "2"
    with pool.process() as process:
        process.close()


def test_a_process_that_does_not_answer_is_ended() -> None:
    with closing(SMALL(longest_seconds=0.2)) as process:
        os.kill(process.pid, signal.SIGSTOP)

        with pytest.raises(CallFailed, match=r"took longer than 0\.2 seconds"):
            process.call({}, 1)

        assert not process.is_usable


def test_a_process_that_fails_says_how_it_ended() -> None:
    with closing(SMALL()) as process, pytest.raises(CallFailed, match="ended with code 1"):
        process.call({"key": "never compiled"}, 1)
