"""`python -m tests.support.publishing_trainer ORDER.json`: a training that ends at once with a bundle that is there
already.

$BUNDLE is its folder, $BASE the folder of the model that it was trained on.
"""

import os
import shutil
import sys
from pathlib import Path

from app.contracts.events import AdapterSaved, Finished
from app.contracts.order import TrainingOrder
from worker.events import EventWriter
from worker.hashing import bundle_version


def main() -> int:
    order = TrainingOrder.model_validate_json(Path(sys.argv[1]).read_text())
    shutil.copytree(os.environ["BUNDLE"], order.adapter_dir)
    saved = AdapterSaved(
        path=str(order.adapter_dir),
        version=bundle_version(order.adapter_dir),
        bytes=1,
        base_model=os.environ["BASE"],
        base_revision=None,
        adapter_kind="lora",
        rank=16,
        trainable_parameters=1,
    )
    with EventWriter(order.events) as events:
        events.write(saved)
        events.write(Finished(steps=20, train_seconds=1.0, final_loss=1.0, tokens=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
