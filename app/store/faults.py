"""What goes wrong with a store, and what ends a transfer. It imports no boto."""

from collections.abc import Callable

# Called again and again during a transfer; an error that it raises ends the transfer.
Beat = Callable[[], None]
# The code of the error that clients and jobs see.
STORE_AWAY = "store_unavailable"


class StoreAway(Exception):
    """The store cannot be used at present: it is not reached, it fails, or it refuses access. Trying again may help."""


class ObjectMissing(Exception):
    """The bucket does not have the object."""


class EntryMissing(Exception):
    """The store does not have the entry, or not the one that its manifest describes."""


class EntryChanged(Exception):
    """What is to be stored has not the expected hash, changes while it is read, or is no plain file."""


def no_beat() -> None:
    """For a transfer that nobody ends."""
