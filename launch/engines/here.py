"""One worker in this process, and the ways of a process on a store to leave."""

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import cli

from xinv import store, sweep, train


@contextlib.contextmanager
def leaving() -> Iterator[cli.Stop]:
    """Yields a flag of SIGTERM and SIGUSR2; a run that stops by it leaves with status 75."""
    try:
        yield cli.Stop(signal.SIGTERM, signal.SIGUSR2)
    except (train.Stopped, store.Lost) as error:
        print(error, file=sys.stderr, flush=True)
        sys.exit(cli.AGAIN)


def leave(lease: Path) -> None:
    """Ends the process at once: another goes on with its work, so it must not write any more."""
    print(
        f"lost {lease}: this process was suspended, and another has gone on",
        file=sys.stderr,
        flush=True,
    )
    # A usual exit would clean up, and might write
    os._exit(cli.AGAIN)


def work(
    found: sweep.Sweep,
    number: int,
    tries: int,
    checkpoint_seconds: float,
    say: Callable[[str], None],
) -> sweep.Outcome:
    """Works on a sweep until nothing is left.

    Args:
      found: the sweep.
      number: of the worker; workers of different numbers begin with different pieces.
      tries: failed tries of a piece before it is given up.
      checkpoint_seconds: between checkpoints of a training.
      say: receives lines for a person.

    Returns:
      The pieces without a result.
    """
    # A lost lease ends the process, so that two never write to one stage.
    with leaving() as stop, store.opened(found.stages, leave) as stages:
        worker = sweep.Worker(
            found,
            stages,
            number,
            tries,
            checkpoint_seconds,
            stop,
            say,
        )
        # Ctrl-C is no fault of the piece
        cli.at_interrupt(lambda: worker.board.forget(worker.name))
        return worker.run()
