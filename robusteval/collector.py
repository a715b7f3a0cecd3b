"""Python's search for cycles of garbage, left out while nothing but lasting objects is made."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def paused() -> Iterator[None]:
    """A context, or the decorator of a function, in which nothing is looked for; then as before, whatever was raised.

    The collector looks through all young objects each time that some hundreds more were made than given back, and
    through all of them each time that a quarter was added. Records by the ten thousand are added and none is given
    back, so it finds nothing, and takes a quarter of the time of a report on hundreds of runs. What is garbage without
    being in a cycle is given back all the same.
    """
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if running:
            gc.enable()
