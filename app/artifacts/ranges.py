"""Sends a download, or the one range of it that a client asks for (RFC 9110, sections 13 and 14)."""

import re
from urllib.parse import quote

from fastapi import Request, Response
from fastapi.responses import StreamingResponse

from app.artifacts.content import Download
from app.errors import LONGEST_QUOTE, BadRequest, Problem, RangeNotSatisfiable
from app.web.conditional_get import tags_of

UNIT = "bytes="
ONE_RANGE = re.compile(r"([0-9]{0,18})-([0-9]{0,18})")


def respond(request: Request, download: Download) -> Response:
    """Return 200, 206, or 304 for a client that has these bytes. Raises BadRequest and RangeNotSatisfiable."""
    tag = f'"{download.tag}"'
    headers = {
        "etag": tag,
        "cache-control": "no-cache",  # caches must ask before they use it: an artifact can be deleted
        "accept-ranges": "bytes",
        "content-disposition": _disposition(download.filename),
    }
    if not {tag, "*"}.isdisjoint(tags_of(request.headers.getlist("if-none-match"))):
        return Response(status_code=304, headers=headers)
    wanted = request.headers.get("range")
    is_same = request.headers.get("if-range", tag) == tag
    found = read_range(wanted, download.size) if wanted is not None and is_same else None
    start, end = found or (0, download.size)
    headers["content-length"] = str(end - start)
    if found is not None:
        headers["content-range"] = f"bytes {start}-{end - 1}/{download.size}"
    status = 200 if found is None else 206
    return StreamingResponse(download.read(start, end), status, headers, download.media_type)


def read_range(header: str, size: int) -> tuple[int, int] | None:
    """Return the first byte of the range and the one after its last.

    Returns None for another unit and for several ranges: all bytes are sent then. Raises BadRequest and
    RangeNotSatisfiable.
    """
    ranges = header.replace(" ", "").lower()
    if not ranges.startswith(UNIT) or "," in ranges:
        return None
    found = ONE_RANGE.fullmatch(ranges.removeprefix(UNIT))
    first, last = found.groups() if found is not None else ("", "")
    if found is None or not (first or last) or (first and last and int(last) < int(first)):
        shown, expected = header[:LONGEST_QUOTE], "bytes=FIRST-LAST, bytes=FIRST- or bytes=-COUNT"
        problem = Problem(field="Range", code="invalid_range", found=repr(shown), expected=expected)
        message = f"Range: found {shown!r}, expected {expected}"
        raise BadRequest(message, param="Range", code="invalid_range", details=[problem])
    start = int(first) if first else max(size - int(last), 0)
    if start >= size or (not first and int(last) == 0):
        found_range, expected = repr(header[:LONGEST_QUOTE]), f"a part of {size} bytes"
        raise RangeNotSatisfiable(f"Range: found {found_range}, expected {expected}", size)
    return start, min(int(last) + 1, size) if first and last else size


def _disposition(filename: str) -> str:
    quoted = quote(filename, safe="")
    return f'attachment; filename="{filename}"' if quoted == filename else f"attachment; filename*=utf-8''{quoted}"
