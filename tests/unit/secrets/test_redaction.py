"""Secrets in texts: known ones however they are written, and what looks like one."""

import io
import logging

import pytest

from app.redaction import RedactingFormatter, Redactor

VALUE = 'can"ary/of\\this-test'


@pytest.mark.parametrize(
    "text",
    [
        f"Authorization: Bearer {VALUE}",
        '{"token": "can\\"ary/of\\\\this-test"}',
        "https://hub?token=can%22ary%2Fof%5Cthis-test",
        repr({"token": VALUE}),
        VALUE + VALUE,
    ],
)
def test_a_known_value_is_replaced_however_it_is_written(text: str) -> None:
    shown = Redactor([VALUE]).text(text)

    assert "[redacted]" in shown
    assert "ary" not in shown


@pytest.mark.parametrize(
    "secret",
    ["hf_" + "a1B2" * 9, "whsec_" + "aB+/" * 11, "ts_" + "ab12" * 12, "api_org_" + "a1B2" * 9],
)
def test_what_looks_like_a_secret_is_replaced(secret: str) -> None:
    assert Redactor().text(f"found {secret}.") == "found [redacted]."


@pytest.mark.parametrize("text", ["hf_hub_download", "ts_std", "a whsec_ secret", "model hf_internal", "short"])
def test_other_words_stay(text: str) -> None:
    assert Redactor(["short"]).text(text) == text


@pytest.mark.parametrize("value", ["eight888", "a-value-of-more-than-ten-letters"])
def test_bytes_are_masked_without_moving_what_follows(value: str) -> None:
    content = f'{{"a": "{value}", "b": 1}}'.encode()

    masked = Redactor([value]).mask(content)

    assert len(masked) == len(content)
    assert value.encode() not in masked
    assert masked.endswith(b'", "b": 1}')


def test_a_log_line_and_its_trace_are_redacted_also_of_what_is_known_later() -> None:
    redactor, output = Redactor(), io.StringIO()
    handler = logging.StreamHandler(output)
    handler.setFormatter(RedactingFormatter(logging.Formatter("%(levelname)s %(message)s"), redactor))
    logger = logging.Logger("of-this-test")
    logger.addHandler(handler)
    redactor.add([VALUE])

    try:
        raise ValueError(VALUE)
    except ValueError:
        logger.exception("failed with %s", VALUE)

    assert output.getvalue().startswith("ERROR failed with [redacted]\nTraceback")
    assert "ValueError: [redacted]" in output.getvalue()
