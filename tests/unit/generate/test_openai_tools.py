"""Calls of tools are taken out of an answer's text, whatever the borders of its pieces."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.generate.tools import Call, CallScanner

CALL = '<tool_call>\n{"name": "f", "arguments": {"x": "é"}}\n</tool_call>'
FOUND = Call("f", '{"x": "é"}')


def scanned(pieces: list[str]) -> list[str | Call]:
    """What comes out, neighbouring texts joined."""
    scanner = CallScanner(["f"])
    out: list[str | Call] = []
    found = [each for piece in pieces for each in scanner.feed(piece)] + scanner.finish()
    for each in found:
        if out and isinstance(each, str) and isinstance(out[-1], str):
            out[-1] += each
        else:
            out.append(each)
    return out


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("just words", ["just words"]),
        (CALL, [FOUND]),
        (f"I look.\n{CALL}", ["I look.", FOUND]),
        (f"{CALL}\n{CALL}\n", [FOUND, FOUND]),
        (f"{CALL}\nDone.", [FOUND, "Done."]),
        ("a < b <tool", ["a < b <tool"]),
        ('<tool_call>{"name": "f", "arg', ['<tool_call>{"name": "f", "arg']),
        ("<tool_call>no JSON</tool_call>", ["<tool_call>no JSON</tool_call>"]),
        ('<tool_call>{"name": "g"}</tool_call>', ['<tool_call>{"name": "g"}</tool_call>']),
        (
            '<tool_call>{"name": "f", "arguments": [1]}</tool_call>',
            ['<tool_call>{"name": "f", "arguments": [1]}</tool_call>'],
        ),
        ('<tool_call>{"name": "f"}</tool_call>', [Call("f", "{}")]),
        ('<tool_call>{"name": "f", "arguments": "{\\"x\\": 1}"}</tool_call>', [Call("f", '{"x": 1}')]),
        (f"<tool_call>[</tool_call> then {CALL}", ["<tool_call>[</tool_call> then", FOUND]),
    ],
)  # fmt: skip
def test_calls_are_told_from_text(text: str, expected: list[str | Call]) -> None:
    assert scanned([text]) == expected
    assert scanned(list(text)) == expected


parts = st.one_of(st.text(alphabet="<tol_cal/>x \n", max_size=12), st.just(CALL), st.just("<tool_call>"))


@given(st.lists(parts, max_size=5), st.data())
def test_the_borders_of_the_pieces_make_no_difference(some: list[str], data: st.DataObject) -> None:
    text = "".join(some)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=4)))
    pieces = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]

    assert scanned(pieces) == scanned([text])


@given(st.text(alphabet="<tol_cal/>{x \n", max_size=40))
def test_a_text_without_calls_comes_out_as_it_is(text: str) -> None:
    assert "".join(str(each) for each in scanned(list(text))) == text
