"""A row as it is learned, as text: trained parts green, the rest dim; between [[ and ]] where there is no colour."""

from collections.abc import Iterator

import typer

from app.cli_text import visible
from app.client_views import Row


def row_lines(row: Row, *, has_colour: bool, has_ids: bool) -> Iterator[str]:
    """Its counts, its text, what was cut off behind, and with `has_ids` the token ids of every span."""
    trained = _piece(f"{row.supervised_tokens:,} trained", is_trained=True, has_colour=has_colour)
    rest = _piece(f"{row.tokens - row.supervised_tokens:,} not trained", is_trained=False, has_colour=has_colour)
    yield f"record {row.record} of {row.split}: {row.tokens:,} tokens, {trained}, {rest}, {row.cut_tokens:,} cut off"
    yield "".join(_piece(span.text, is_trained=span.trained, has_colour=has_colour) for span in row.spans)
    if row.cut_tokens:
        yield f"… {row.cut_tokens:,} more tokens were cut off here, behind max_seq_length"
    for span in row.spans if has_ids else []:
        ids = " ".join(map(str, span.token_ids))
        yield f"{'trained' if span.trained else 'not trained'}, {len(span.token_ids):,} tokens: {ids}"


def _piece(text: str, *, is_trained: bool, has_colour: bool) -> str:
    shown = visible(text)
    if not has_colour:
        return f"[[{shown}]]" if is_trained else shown
    return typer.style(shown, fg=typer.colors.GREEN, bold=True) if is_trained else typer.style(shown, dim=True)
