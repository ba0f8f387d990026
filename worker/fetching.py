"""`python -m worker.fetching ORDER.json`: download a training's base, since the trainer may not use the network."""

import sys
from pathlib import Path

from app.contracts.events import Phase
from app.contracts.order import TrainingOrder
from worker.confinement.allowed import of_fetching
from worker.confinement.process import confine
from worker.events import EventWriter
from worker.failures import guarded, kept_out


def main() -> int:
    order = TrainingOrder.model_validate_json(Path(sys.argv[1]).read_text())
    confine(of_fetching(order))

    def fetch() -> None:
        from worker.checking.hub import hub_errors
        from worker.downloads import fetch_model

        events.enter(Phase.DOWNLOAD)
        with hub_errors(order.spec.model.model_name, "model.model_name"):
            fetch_model(order.base.source, order.base.revision, order.max_hub_bytes)

    with EventWriter(order.events) as events:
        return guarded(fetch, events, [kept_out])


if __name__ == "__main__":
    sys.exit(main())
