"""The names of devices that a worker reports."""

# The beginning of the name of a device without a GPU.
CPU = "cpu"
