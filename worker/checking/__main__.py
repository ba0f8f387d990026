"""`python -m worker.checking ORDER.json`: check the sources of one job and write the rows to train on."""

import sys
from pathlib import Path

from app.contracts.events import Blame, Failed, Phase, SourcesChecked
from app.contracts.order import CheckOrder
from app.errors import ServiceError
from worker.confinement.allowed import MOST_CHECK_MEMORY_BYTES, of_check
from worker.confinement.process import confine
from worker.events import EventWriter
from worker.failures import TokenizerPanic, guarded, is_panic, kept_out


def main() -> int:
    order = CheckOrder.model_validate_json(Path(sys.argv[1]).read_text())
    confine(of_check(order))

    def check() -> None:
        import worker.checking.without_torch  # noqa: F401  # before transformers, and after confine(), because it starts threads
        from worker.checking.context import settle_context
        from worker.checking.dataset import prepare_data
        from worker.checking.model import check_model

        events.enter(Phase.DOWNLOAD)
        model = check_model(order, events)
        prepare_data(order, model, events)
        settle_context(order, model, events)
        events.write(SourcesChecked())

    with EventWriter(order.events) as events:
        return guarded(check, events, [refused, kept_out])


def refused(error: BaseException) -> Failed | None:
    """Returns the event for an error that the user can correct, or None for any other error."""
    if isinstance(error, MemoryError):
        message = f"the check would need more than {MOST_CHECK_MEMORY_BYTES >> 30} GiB of memory"
        return Failed(blame=Blame.USER, code="too_large", message=message, hint="is one record very large?")
    if is_panic(error) or isinstance(error, TokenizerPanic):
        message = f"the model's tokenizer crashed: {str(error)[:300]}"
        return Failed(blame=Blame.USER, code="tokenizer_broken", message=message, param="model.model_name")
    if not isinstance(error, ServiceError):
        return None
    details = [problem.model_dump(exclude_none=True) for problem in error.details]
    return Failed(blame=Blame.USER, code=error.code, message=error.message, param=error.param, details=details)


if __name__ == "__main__":
    sys.exit(main())
