"""Progress of a long pass over images, as a line now and then."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
_SECONDS_BETWEEN_LINES = 10.0


def report_progress(
    items: Iterable[T], *, what: str, total: int, on_terminal: bool = False
) -> Iterator[T]:
    """Passes items on and says now and then on stderr how many there were.

    Args:
      items: anything to iterate over.
      what: the name in front of the numbers.
      total: how many items there will be.
      on_terminal: whether to speak on a terminal too, where tfds draws bars for a preparation.

    Yields:
      The items.
    """
    silent = sys.stderr.isatty() and not on_terminal
    next_line_at = time.monotonic() + _SECONDS_BETWEEN_LINES
    for count, item in enumerate(items, start=1):
        yield item
        if not silent and (count == total or time.monotonic() >= next_line_at):
            print(f"{what}: {count} of {total}", file=sys.stderr, flush=True)
            next_line_at = time.monotonic() + _SECONDS_BETWEEN_LINES
