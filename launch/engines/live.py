"""Shows the table of a sweep on a terminal, redrawn in place; elsewhere a line per change."""

import shutil
import sys
import time

from xinv import sweep

_SECONDS = 1.0  # between two drawings
_UP, _CLEAR = "\x1b[{}A", "\x1b[J"


class Table:
    """The current state of a sweep."""

    def __init__(self, board: sweep.Board):
        self._board = board
        self._terminal = sys.stderr.isatty()
        self._drawn = 0
        self._last = 0.0
        self._counts = ""

    def update(self) -> None:
        """Draws the table, at most once a second."""
        if time.monotonic() - self._last < _SECONDS:
            return
        self._last = time.monotonic()
        self._draw()

    def close(self) -> None:
        """Draws it for the last time."""
        self._draw()

    def _draw(self) -> None:
        if self._terminal:
            # The lines drawn before are overwritten in place.
            size = shutil.get_terminal_size()
            found = sweep.lines(self._board, size.columns - 1, size.lines - 1)
            back = f"\r{_UP.format(self._drawn)}" if self._drawn else ""
            sys.stderr.write(back + _CLEAR + "\n".join(found) + "\n")
            self._drawn = len(found)
        else:
            line = sweep.summary(self._board)
            # Times change with every look, counts with an event.
            counts, _, _ = line.partition(";")
            if counts != self._counts:
                sys.stderr.write(line + "\n")
            self._counts = counts
        sys.stderr.flush()
