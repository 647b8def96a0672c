"""Helpers of a command on this machine: the same command on other devices, for the same results."""

import contextlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import cli

from engines import devices


@contextlib.contextmanager
def beside(command: Sequence[str], places: Sequence[devices.Slot], logs: Path) -> Iterator[None]:
    """Runs helpers while the block runs; they end with it.

    One that dies is not missed: the block does its work, too.

    Args:
      command: gets --helper=K, K = 1, 2, …
      places: one for each helper.
      logs: the folder of `K.log`, what helper K prints.
    """
    helpers = {}
    # At Ctrl-C the block has no end
    cli.at_interrupt(lambda: [process.kill() for process in helpers.values()])
    try:
        for number, place in enumerate(places, 1):
            logs.mkdir(parents=True, exist_ok=True)
            with open(logs / f"{number}.log", "ab") as log:
                own = [*command, f"--helper={number}"]
                helpers[number] = devices.start(own, place, log, log)
        yield
        # Say which ones did not help to the end
        for number, process in helpers.items():
            if process.poll():
                told = f"ended with status {process.returncode}: see {logs / f'{number}.log'}"
                print(f"helper {number} {told}", file=sys.stderr, flush=True)
    finally:
        devices.stop(list(helpers.values()))
