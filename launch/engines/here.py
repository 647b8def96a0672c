"""One worker, in this process."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import cli

from xinv import store, sweep, train


def work(
    found: sweep.Sweep,
    number: int,
    tries: int,
    checkpoint_seconds: float,
    say: Callable[[str], None],
) -> sweep.Outcome:
    """Works on a sweep until nothing is left; leaves with status 75 when it is told to.

    SIGTERM and SIGUSR2 save the present training first, Ctrl-C does not.
    """
    stop = cli.Stop(signal.SIGTERM, signal.SIGUSR2)

    def leave(lease: Path) -> None:
        # Another process has gone on: nothing more may be written
        print(f"lost {lease}: this process was suspended, and another has gone on", file=sys.stderr, flush=True)
        os._exit(cli.AGAIN)

    try:
        with store.opened(found.stages, leave) as stages:
            worker = sweep.Worker(found, stages, number, tries, checkpoint_seconds, stop, say)
            cli.at_interrupt(lambda: worker.board.forget(worker.name))
            return worker.run()
    except (train.Stopped, store.Lost) as error:
        print(error, file=sys.stderr, flush=True)
        sys.exit(cli.AGAIN)
