"""One worker, in this process; and how a process leaves that works on a store."""

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
    """Yields what SIGTERM and SIGUSR2 set; a run that stops by it leaves with status 75."""
    try:
        yield cli.Stop(signal.SIGTERM, signal.SIGUSR2)
    except (train.Stopped, store.Lost) as error:
        print(error, file=sys.stderr, flush=True)
        sys.exit(cli.AGAIN)


def leave(lease: Path) -> None:
    """Ends the process at once: another has gone on with its work, and it must write no more."""
    print(
        f"lost {lease}: this process was suspended, and another has gone on",
        file=sys.stderr,
        flush=True,
    )
    os._exit(cli.AGAIN)


def work(
    found: sweep.Sweep,
    number: int,
    tries: int,
    checkpoint_seconds: float,
    say: Callable[[str], None],
) -> sweep.Outcome:
    """Works on a sweep until nothing is left."""
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
