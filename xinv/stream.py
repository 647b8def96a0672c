"""Reads batches in threads before a device needs them; the only file that names Grain.

Grain prefetches and does nothing else here. The order is the caller's, and no position is stored:
a training that resumes asks for the rest of its order.
"""

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import jax

from xinv.types import InputError

Position = TypeVar("Position")
Read = TypeVar("Read")

AHEAD = 2
"""Batches per thread that are read before they are asked for."""


def require_installed() -> None:
    """Raises InputError where Grain is not installed."""
    if importlib.util.find_spec("grain") is None:
        raise InputError(
            "reading in threads needs Grain: install the extra, pip install -e .[stream],"
            " or set threads=0"
        )


def threads(tree: Any) -> int:
    """Returns the number of threads that read the array-likes of `tree` ahead: the largest
    `threads` of them, which is 0 for those without this attribute.
    """
    return max((getattr(leaf, "threads", 0) for leaf in jax.tree.leaves(tree)), default=0)


def read_ahead(
    read: Callable[[Position], Read],
    positions: Sequence[Position],
    threads: int,
) -> Iterator[Read]:
    """Yields `read(position)` of each position, in their order.

    At most `AHEAD * threads` results are waiting or being read, whatever the number of positions.

    Args:
      read: must be safe to call from several threads at once. What it raises is raised here.
      positions: what `read` takes, one for each batch.
      threads: that read at once; 0 reads each batch when it is asked for.
    """
    if not threads:
        yield from map(read, positions)
        return
    import grain  # takes a second, and only sets that are not in memory need it

    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=AHEAD * threads)
    batches = iter(grain.MapDataset.source(positions).map(read).to_iter_dataset(options))
    try:
        yield from batches
    finally:
        batches.close()
