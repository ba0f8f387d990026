"""Pages of rows that are listed newest first, each page behind the last row of the one before."""

from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, and_, or_
from sqlalchemy.orm import InstrumentedAttribute


def is_behind(
    moment: InstrumentedAttribute[datetime], row_id: InstrumentedAttribute[str], last_moment: Any, last_id: Any
) -> ColumnElement[bool]:
    """Return the condition for rows behind one with this moment and id, in the order of both, descending.

    The first part alone limits the scan of an index of both columns.
    """
    return and_(moment <= last_moment, or_(moment < last_moment, row_id < last_id))
