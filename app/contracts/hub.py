"""How much of the hub is downloaded: one bound for checker, trainer and engine."""

MAX_BYTES_VARIABLE = "TUNESMITH_MAX_HUB_BYTES"
# Of one dataset, or of the files of one model that are read.
MOST_BYTES = 200 * 2**30
