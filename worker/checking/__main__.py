"""`python -m worker.checking ORDER.json`: check the sources of one job and write its normalised records."""

import sys
from pathlib import Path

from app.contracts.events import Blame, Failed, Phase, SourcesChecked
from app.contracts.order import CheckOrder
from app.errors import ServiceError
from worker.checking.dataset import write_records
from worker.checking.model import check_model
from worker.events import EventWriter
from worker.failures import guarded


def main() -> int:
    order = CheckOrder.model_validate_json(Path(sys.argv[1]).read_text())

    def check() -> None:
        events.enter(Phase.DOWNLOAD)
        model = check_model(order, events)
        write_records(order, model, events)
        events.write(SourcesChecked())

    with EventWriter(order.events) as events:
        return guarded(check, events, [refused])


def refused(error: BaseException) -> Failed | None:
    """What the service's own rules refuse is the user's to mend."""
    if not isinstance(error, ServiceError):
        return None
    details = [problem.model_dump(exclude_none=True) for problem in error.details]
    return Failed(blame=Blame.USER, code=error.code, message=error.message, param=error.param, details=details)


if __name__ == "__main__":
    sys.exit(main())
