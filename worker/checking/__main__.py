"""`python -m worker.checking ORDER.json`: check the sources of one job and write the rows to train on."""

import worker.checking.without_torch  # noqa: F401  # isort: skip  # before transformers

import resource
import sys
from pathlib import Path

from app.contracts.events import Blame, Failed, Phase, SourcesChecked
from app.contracts.order import CheckOrder
from app.errors import ServiceError
from worker.checking.context import settle_context
from worker.checking.dataset import prepare_data
from worker.checking.model import check_model
from worker.events import EventWriter
from worker.failures import guarded

# Of one process. A usual check takes a tenth; a file made to burst takes all there is.
MOST_MEMORY_BYTES = 4 * 2**30


def main() -> int:
    order = CheckOrder.model_validate_json(Path(sys.argv[1]).read_text())

    def check() -> None:
        events.enter(Phase.DOWNLOAD)
        model = check_model(order, events)
        prepare_data(order, model, events)
        settle_context(order, model, events)
        events.write(SourcesChecked())

    resource.setrlimit(resource.RLIMIT_DATA, (MOST_MEMORY_BYTES, MOST_MEMORY_BYTES))
    with EventWriter(order.events) as events:
        return guarded(check, events, [refused])


def refused(error: BaseException) -> Failed | None:
    """What the service's own rules refuse is the user's to mend, and so is a file that unpacks to more than memory."""
    if isinstance(error, MemoryError):
        message = f"the check would need more than {MOST_MEMORY_BYTES >> 30} GiB of memory"
        return Failed(blame=Blame.USER, code="too_large", message=message, hint="is one record of it very large?")
    if not isinstance(error, ServiceError):
        return None
    details = [problem.model_dump(exclude_none=True) for problem in error.details]
    return Failed(blame=Blame.USER, code=error.code, message=error.message, param=error.param, details=details)


if __name__ == "__main__":
    sys.exit(main())
