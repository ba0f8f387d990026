"""What the sandbox lists gives what it gives in Jinja's own sandbox."""

from typing import Any

import pytest
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from worker.rendering.sandbox import FILTER_NAMES, TEXT_METHODS, SandboxedTemplate

JINJA = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
DATA: dict[str, Any] = {
    "messages": [
        {"role": "user", "content": "  What is 1 < 2?\n", "n": 3, "items": "shadowed"},
        {"role": "assistant", "content": "<think>\nwhy\n</think>\n\nYes", "n": 1, "calls": [{"id": "x"}]},
        {"role": "user", "content": "a,b,,c", "n": 2, "b": {"Z": 1, "y": [1.5, None, True]}},
    ],
    "text": "One two\ttwo\n three é😀",
}
LOOKUPS = [
    "messages[0].items()|list", "messages[0]['items']", "messages[0]['none'] is defined", "messages[99] is defined",
    "messages[0].items is callable", "messages[0].clear is defined", "missing", "text[::-1]", "'a' in 'ab' == true",
    "'a' ~ 1 ~ none ~ missing ~ [1.5] ~ 'b'", "'%(a)5.2f|' % {'a': 1.25}", "9 ** 9 ** 9", "5 if messages|map else 6",
]  # fmt: skip
METHODS = [
    "text.split('two', 1)", "text.rsplit(' ', maxsplit=1)", "text.splitlines(true)", "text.partition('two')",
    "text.rpartition('two')", "text.strip('eéOn😀')", "text.lstrip('On')", "text.rstrip()", "text.find('two', 5)",
    "text.replace('two', 'TWO!', 1)", "text.count('t')", "text.startswith(('x', 'One'))", "text.endswith('x')",
    "text.removeprefix('One')", "text.removesuffix('x')", "text.index('t')", "text.rfind('q')", "text.rindex('t')",
    "'-'.join(messages|map(attribute='role'))", "'{} {b:>6} {c[x]:.2f}'.format('a', b=1, c={'x': 2})",
    "('{}'|safe).format('<')", "('<'|safe).join(['<', '>'])", "messages[0].get('none', 5)", "messages[0].copy()",
    "messages[0].keys()|list", "messages[2].b.values()|list", "messages.count(1)", "messages.index(messages[1])",
    "messages.copy()|length", "(1, 2).count(1)", "(1, 2).index(2)", "(1.0).is_integer()",
]  # fmt: skip
CASES = ("capitalize", "casefold", "lower", "swapcase", "title", "upper")
WITHOUT_ARGUMENTS = [f"text.{name}()" for name in TEXT_METHODS.split() if name in CASES or name.startswith("is")]
FILTERS = [
    "-3|abs", "text|capitalize", "[1]|count", "missing|d(1)", "''|default('d', true)", "messages[2].b|dictsort(true)",
    "[]|first is defined", "'1.5'|float", "'%s!'|format(1)", "text|indent(2, true)", "'ff'|int(base=16)",
    "messages[2].b|items|list", "messages|join('+', attribute='role')", "[1, 2]|last", "text|length", "'ab'|list",
    "text|lower", "messages|map(attribute='none', default='-')|join(',')", "['a', 'b']|map('upper')|list", "[1, 3]|max",
    "messages|min(attribute='n')", "[1, 2]|reject('in', [2])|list", "messages|rejectattr('calls')|list|length",
    "text|replace('two', 2, 1)", "text|reverse", "[3, 1]|reverse|list", "1.25|round(1, 'floor')", "('<' ~ text)|safe",
    "[1, 2, 3]|select('odd')|list", "messages|selectattr('role', 'equalto', 'user')|first",
    "messages|sort(attribute='n')|map(attribute='n')|list", "messages[2].b|string", "[[1], [2]]|sum(start=[])",
    "text|title", "text|trim('eO')", "text|upper", "(messages|selectattr('x')) is iterable",
    "(messages|map('string')) is sequence", "messages|map('tojson')|first is string",
]  # fmt: skip
TESTS = [
    "3 is odd", "4 is even", "9 is divisibleby 3", "3 is in [3]", "'b' is in 'abc'", "3 is eq 3", "'a' is ne 'b'",
    "2 is gt(1)", "1 is lessthan 1", "text is string", "messages is mapping", "messages is sequence",
    "text is iterable", "none is none", "5 is number", "5.0 is integer", "5.0 is float", "true is boolean",
    "true is true", "text is lower", "'A' is upper", "missing is defined", "text is sameas text",
    "not text is undefined",
]  # fmt: skip
PROGRAMS = [
    "{% for m in messages|selectattr('calls') %}{{ loop.revindex }}{{ loop.previtem is defined }}{% endfor %}",
    "{% for m in messages %}{{ loop.cycle(1, 2) }}{{ loop.changed(m.role) }}{{ (loop.nextitem or m).n }}{% endfor %}",
    "{% for x in [1, [2, [3]]] recursive %}{{ x if x is number else '(' ~ loop(x) ~ ')' }}{{ loop.depth }}{% endfor %}",
    "{% macro m(a, b='-') %}{{ a }}{{ b }}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1) }}{{ m(1, 2, 3, c=4) }}",
    "{% macro m() %}<{{ caller(1) }}>{% endmacro %}{% call(x) m() %}{{ x }}{% endcall %}",
    "{% set x %}a{{ messages[0].n }}{% endset %}{{ x }}{% filter upper %}b{{ x }}{% endfilter %}",
    "{% set ns = namespace({'a': 1}) %}{{ ns.a }}{{ ns.b is defined }}{% set a, b = 1, 2 %}{{ a }}{{ b }}",
    "{% set d = dict(messages[0], n=9) %}{{ d.n }}{{ d.role }}{{ messages[0].n }}",
    "{% with y = 1 %}{{ y }}{% endwith %}{% for i in range(3, -1, -2) %}{{ i }}{% endfor %}{{ loop is defined }}",
]  # fmt: skip
EXPRESSIONS = LOOKUPS + METHODS + WITHOUT_ARGUMENTS + FILTERS + TESTS


@pytest.mark.parametrize("source", [f"{{{{ {expression} }}}}" for expression in EXPRESSIONS] + PROGRAMS)
def test_a_template_gives_what_it_gives_in_jinja(source: str) -> None:
    assert SandboxedTemplate(source).render(DATA) == JINJA.from_string(source).render(DATA)


def test_every_filter_and_method_of_a_text_is_compared() -> None:
    compared = " ".join(EXPRESSIONS)

    assert [name for name in FILTER_NAMES.split() if f"|{name}" not in compared] == []
    assert [name for name in TEXT_METHODS.split() if f".{name}(" not in compared] == []
