"""Helpers of a command on this machine: the same command on other devices, for the same results."""

import contextlib
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import cli

from engines import devices


@contextlib.contextmanager
def beside(command: Sequence[str], places: Sequence[devices.Slot], logs: Path) -> Iterator[None]:
    """Runs helpers while the block runs; they end with it.

    One that dies is named at once, and not missed: the block does its work, too.

    Args:
      command: gets --helper=K, K = 1, 2, …
      places: one for each helper.
      logs: the folder of `K.log`, what helper K prints.
    """
    helpers: list[subprocess.Popen] = []
    over = threading.Event()

    def watch(number: int, helper: subprocess.Popen) -> None:
        # Without this wait a dead one would look alive to those who want its lease
        status = helper.wait()
        if status and not over.is_set():
            told = f"helper {number} ended with status {status}: see {logs / f'{number}.log'}"
            print(told, file=sys.stderr, flush=True)

    # At Ctrl-C the block has no end
    cli.at_interrupt(lambda: [helper.kill() for helper in helpers])
    try:
        for number, place in enumerate(places, 1):
            logs.mkdir(parents=True, exist_ok=True)
            with open(logs / f"{number}.log", "ab") as log:
                own = [*command, f"--helper={number}"]
                helpers.append(devices.start(own, place, log, log))
            threading.Thread(target=watch, args=(number, helpers[-1]), daemon=True).start()
        yield
        # All is computed: nothing of theirs is wanted any more
        over.set()
        for helper in helpers:
            helper.kill()
    finally:
        over.set()
        devices.stop(helpers)
