"""`python -m bench.training.run_rival ORDER.json READY GO`: import a rival's libraries, wait for its turn, and train.

READY and GO are file descriptors of pipes. One byte is written to READY after the imports, and one is read from GO.
The result is written to the order's folder.
"""

import os
import resource
import sys
import time
from importlib import import_module
from pathlib import Path

from bench.training.contracts import RunOrder


def main() -> int:
    order = RunOrder.model_validate_json(Path(sys.argv[1]).read_text())
    ready, go = int(sys.argv[2]), int(sys.argv[3])
    began = time.monotonic()
    script = import_module(f"bench.training.{order.rival.runner}")
    from bench.training.meter import StepMeter  # imports torch, which Unsloth wants to be the first to do

    import_seconds = time.monotonic() - began
    os.write(ready, b".")
    if not os.read(go, 1):  # the parent has ended
        return 1
    meter = StepMeter(order.workload.steps, has_profile=order.has_profile)
    result = script.train(order, meter)
    measured = {
        "import_seconds": import_seconds,
        "allocated_bytes": meter.allocated_bytes or None,
        "reserved_bytes": meter.reserved_bytes or result.reserved_bytes,
        "host_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "profile": meter.profile(),
    }
    order.result.write_text(result.model_copy(update=measured).model_dump_json())
    return 0


if __name__ == "__main__":
    sys.exit(main())
