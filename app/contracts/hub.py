"""The limit of downloads from the hub, for checker, trainer and engine."""

MAX_BYTES_VARIABLE = "TUNESMITH_MAX_HUB_BYTES"
# The most bytes of one dataset, or of the needed files of one model.
MOST_BYTES = 200 * 2**30
