"""What the sandbox computes in its own way gives what Jinja's own sandbox gives."""

from typing import Any

import pytest
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from worker.rendering.sandbox import ChatTemplate

JINJA = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
DATA: dict[str, Any] = {
    "messages": [
        {"role": "user", "content": "  What is 1 < 2?\n", "n": 3, "items": "shadowed"},
        {"role": "assistant", "content": "<think>\nwhy\n</think>\n\nYes", "n": 1, "calls": [{"id": "x"}]},
        {"role": "user", "content": "a,b,,c", "n": 2, "b": {"Z": 1, "y": [1.5, None, True]}},
    ],
    "text": "One two\ttwo\n three é😀",
    "big": 10**30,
}
OPERATORS = [
    "1 + 2 - 3 * 4 / 5", "7 // 2 % 2 ** 3", "-7 // 2", "2 ** -1", "'a' + 'b' + text", "[1] + [2] + [3]", "(1,) + (2,)",
    "'ab' * 3", "3 * [0]", "'a' ~ 1 ~ none ~ missing ~ [1.5] ~ 'b'", "1 < 2 < 3", "1 < 3 > 2 == 2",
    "messages[0] == messages[2]", "messages[0] in messages", "'user' in messages[0].values()", "'role' in messages[0]",
    "'role' not in messages[0]", "'two' in text", "text in text", "'x' in missing", "3 in [1, 2]", "3 in (1, 2, 3)",
    "'%s-%d' % ('a', 5)", "'%(a)5.2f|' % {'a': 1.25}", "text[2:7]", "text[::-1]", "messages[::-1][0].n",
    "messages[1:][:-1]|length", "(1, 2, 3)[-2:]", "range(10)[2:4]|list", "messages[0]['items']",
    "messages[0].items()|list", "messages[0]['none'] is defined", "messages[-1].n", "messages[99] is defined",
    "messages[1]['calls'][0]['id']", "text[0]", "missing", "big", "not messages", "messages and 1 or 2", "'a' if false",
    "{'a': 1, 2: [3]}", "not 'a' in text", "true + 1", "[1, [2]] == [1, [2]]", "missing == none", "{1: 2}[1]",
    "messages[0][messages[1]['id']] is defined",
]  # fmt: skip
METHODS = [
    "text.split()", "text.split('two')", "text.split('two', 1)", "text.rsplit(' ', maxsplit=1)", "text.split(sep='e')",
    "text.splitlines()", "text.splitlines(true)", "text.partition('two')", "text.rpartition('two')",
    "text.strip('eéOn😀')", "text.lstrip('On')", "text.rstrip()", "text.replace('two', 'TWO!')",
    "text.replace('two', '', 1)", "text.replace('', '.')", "text.upper()", "text.title()", "text.count('t')",
    "text.find('two', 5)", "text.rfind('q')", "text.startswith(('x', 'One'))", "text.endswith('x')",
    "text.removeprefix('One')", "'5'.isdigit()", "', '.join(['a', 'b'])", "''.join('abc')",
    "'-'.join(messages|map(attribute='role'))", "'{} {0}'.isalpha()",
    "'{} {b:>6} {c[x]:.2f}'.format('a', b=1, c={'x': 2})", "messages[0].get('role')", "messages[0].get('none', 5)",
    "messages[0].get('none')", "messages[0].keys()|list", "messages[2].b.values()|list", "messages.count(1)",
    "messages.index(messages[1])", "(1.0).is_integer()", "messages[1].content.split('</think>')[-1].lstrip('\\n')",
]  # fmt: skip
FILTERS = [
    "text|trim", "text|trim('eO')", "text|trim(chars='O')", "text|upper", "text|title", "text|capitalize", "5|lower",
    "text|replace('two', 2)", "text|replace('two', 2, 1)", "text|length", "text|list|length", "text|reverse",
    "text|indent", "text|indent(2, true, blank=true)", "text|indent('> ')", "'12'|int", "'x'|int(7)",
    "'ff'|int(base=16)", "'1.5'|float", "1.25|round(1)", "1.25|round(1, 'floor')", "-3|abs",
    "[3, 1, 2]|sort(reverse=true)", "messages|sort(attribute='n')|map(attribute='n')|list", "messages[2].b|dictsort",
    "messages[2].b|dictsort(true)", "messages|map(attribute='none', default='-')|join(',')",
    "messages[2:]|map(attribute='b.Z')|list", "['a', 'b']|map('upper')|list", "[1, 2]|join", "[1, none, 'c']|join('|')",
    "messages|join('+', attribute='role')", "messages|sum(attribute='n')", "[1.5, 2]|sum(start=3)",
    "[[1], [2]]|sum(start=[])", "messages|selectattr('role', 'equalto', 'user')|list|length",
    "messages|rejectattr('calls')|list|length", "messages|selectattr('calls', 'defined')|first",
    "[1, 2, 3]|select('odd')|list", "[0, 1, '']|select|list", "[1, 2]|reject('in', [2])|list", "[1, 2, 3]|first",
    "[1, 2, 3]|last", "[]|first is defined", "[1, 3]|max", "messages|min(attribute='n')", "['b', 'A']|min",
    "missing|default('d')", "''|d('d', true)", "messages[2].b|items|list", "missing|items|list", "messages[2].b|string",
    "'%s!'|format(1)", "'%(a)s'|format(a=1)", "('<' ~ text)|safe", "'<' + ('&'|safe) + '>'", "('%s'|safe) % '<'",
    "('<'|safe).join(['<', '>'])", "('{}'|safe).format('<')", "('a'|safe).replace('a', '<')", "('<a>'|safe)|trim|upper",
    "(messages|selectattr('x')) is iterable", "5 if messages|select('none') else 6",
    "(messages|map('string')) is sequence", "[3, 1]|reverse|list", "messages|map('tojson')|first is string",
]  # fmt: skip
TESTS = [
    "3 is odd", "4 is even", "9 is divisibleby 3", "3 is in [3]", "'b' is in 'abc'", "3 is eq 3", "'a' is ne 'b'",
    "2 is gt(1)", "1 is lessthan 1", "text is string", "messages is mapping", "messages is sequence",
    "text is iterable", "none is none", "5 is number", "5.0 is integer", "5.0 is float", "true is boolean",
    "true is true", "text is lower", "'A' is upper", "missing is defined", "text is sameas text",
    "messages[0].items is callable", "not text is undefined",
]  # fmt: skip
PROGRAMS = [
    "{% for m in messages if m.role != 'assistant' %}{{ loop.index }}/{{ loop.length }}{{ m.n }}{% endfor %}",
    "{% for m in messages if m.n > 9 %}{{ loop.last }}{% else %}none{% endfor %}",
    "{% for m in messages|selectattr('calls') %}{{ loop.revindex }}{{ loop.previtem is defined }}{% endfor %}",
    "{% for m in [] %}{% else %}none{% endfor %}{% for a, b in {'x': 1}.items() %}{{ a }}{{ b }}{% endfor %}",
    "{% for m in messages %}{{ loop.cycle(1, 2) }}{{ loop.changed(m.role) }}{{ (loop.nextitem or m).n }}{% endfor %}",
    "{% for x in [1, [2, [3]]] recursive %}{{ x if x is number else '(' ~ loop(x) ~ ')' }}{{ loop.depth }}{% endfor %}",
    "{% macro m(a, b='-') %}{{ a }}{{ b }}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1) }}{{ m(1, 2, 3, c=4) }}",
    "{% macro m(a, b='-', d=0) %}{{ a }}{{ b }}{{ d }}{% endmacro %}{{ m(*[1, 2], **{'d': 5}) }}",
    "{% macro m() %}<{{ caller(1) }}>{% endmacro %}{% call(x) m() %}{{ x }}{% endcall %}",
    "{% set x %}a{{ messages[0].n }}{% endset %}{{ x }}{% filter upper %}b{{ x }}{% endfilter %}",
    "{% with y = 1 %}{{ y }}{% endwith %}{{ y is defined }}{# c #}{% raw %}{{ }}{% endraw %}",
    "{% set ns = namespace(l=[]) %}{% for m in messages %}{% set ns.l = ns.l + [m.n] %}{% endfor %}{{ ns.l }}",
    "{% set ns = namespace({'a': 1}) %}{{ ns.a }}{{ ns.b is defined }}{% set a, b = 1, 2 %}{{ a }}{{ b }}",
    "{% set d = dict(messages[0], n=9) %}{{ d.n }}{{ d.role }}{{ messages[0].n }}",
    "{% set x = 1 %}{% for i in [1] %}{% set x = 2 %}{% endfor %}{{ x }}{{ loop is defined }}",
    "{% for i in range(3, -1, -2) %}{{ i }}{% endfor %}{% if missing %}a{% elif text %}b{% else %}c{% endif %}",
]  # fmt: skip


@pytest.mark.parametrize("source", [f"{{{{ {e} }}}}" for e in OPERATORS + METHODS + FILTERS + TESTS] + PROGRAMS)
def test_a_template_gives_what_it_gives_in_jinja(source: str) -> None:
    expected = JINJA.from_string(source).render(DATA)

    more = {name: value for name, value in DATA.items() if name != "messages"}
    found = ChatTemplate(source).render(DATA["messages"], tools=None, add_generation_prompt=False, variables=more)

    assert found == expected
