"""Progress of a preparation where no progress bar can be drawn."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
_SECONDS_BETWEEN_LINES = 10.0


def report_progress(items: Iterable[T], *, what: str, total: int) -> Iterator[T]:
    """Passes items on and says now and then on stderr how many there were.

    On a terminal it stays silent, because there tfds draws its bars.

    Args:
      items: anything to iterate over.
      what: the name in front of the numbers.
      total: how many items there will be.

    Yields:
      The items.
    """
    silent = sys.stderr.isatty()
    next_line_at = time.monotonic() + _SECONDS_BETWEEN_LINES
    for count, item in enumerate(items, start=1):
        yield item
        if not silent and (count == total or time.monotonic() >= next_line_at):
            print(f"{what}: {count} of {total}", file=sys.stderr, flush=True)
            next_line_at = time.monotonic() + _SECONDS_BETWEEN_LINES
