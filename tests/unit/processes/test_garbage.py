"""What is excluded from garbage collections, and what is still collected."""

import gc
import sys
import weakref

from app.processes.garbage import exclude_from_collections


class Circle:
    """An object that only a collection frees."""

    def __init__(self) -> None:
        self.itself = self


def test_modules_are_excluded_and_new_objects_are_still_collected() -> None:
    exclude_from_collections()
    circle = weakref.ref(Circle())
    gc.collect()

    assert all(found is not sys.modules for found in gc.get_objects())
    assert circle() is None
