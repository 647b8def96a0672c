"""Several processes of one run on this machine: their devices, and a parent that watches them."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import IO

import cli

from engines import devices
from xinv.types import InputError

GRACE = 10.0
"""Seconds in which the others may end after one has: often all find the same mistake."""
_LOOK = 0.1  # seconds between two looks at the processes


def shares(count: int) -> list[devices.Slot]:
    """Returns the accelerators, or else the cores, of each of `count` processes.

    Raises:
      InputError: this machine has fewer, or they cannot be divided.
    """
    if devices.tpus():
        raise InputError(
            f"--processes={count}: on a TPU host one process computes on all chips: leave it out"
        )
    gpus = [variables["CUDA_VISIBLE_DEVICES"] for variables in devices.gpus()]
    if gpus:
        if len(gpus) % count:
            raise InputError(
                f"--processes={count} do not divide the {len(gpus)} GPUs of this machine"
            )
        # Give neighbouring GPUs to one process
        each = len(gpus) // count
        parts = [gpus[n * each :][:each] for n in range(count)]
        return [devices.Slot({"CUDA_VISIBLE_DEVICES": ",".join(part)}) for part in parts]
    # Without GPUs, each process has cores of its own; a remainder stays idle
    cores = sorted(os.sched_getaffinity(0))
    if count > len(cores):
        raise InputError(
            f"--processes={count} are more than the {len(cores)} cores of this machine"
        )
    each = len(cores) // count
    return [devices.Slot({}, tuple(cores[n * each :][:each])) for n in range(count)]


def run(count: int, command: Sequence[str]) -> int:
    """Runs `command` as `count` processes of one run, and returns the status to leave with.

    It gets the flags by which each process knows its place. The first process has the terminal;
    what the others print is shown if one of them fails alone.

    Raises:
      InputError: see `shares`.
    """
    places = shares(count)
    coordinator = f"localhost:{_free_port()}"
    with contextlib.ExitStack() as files:
        group = _Group(files)
        for number, share in enumerate(places):
            place = [f"--coordinator_address={coordinator}", f"--process_id={number}"]
            group.start([*command, *place], share)
        return group.wait()


def _free_port() -> int:
    with socket.socket() as found:
        # Port 0 lets the system choose a free one
        found.bind(("localhost", 0))
        return found.getsockname()[1]


class _Group:
    """The processes of one run, the first of which leads; `files` are closed after their end."""

    def __init__(self, files: contextlib.ExitStack):
        self._files = files
        self._members: list[subprocess.Popen] = []
        self._printed: list[IO[bytes]] = []
        # Either signal asks for a save, as in a run of one process
        for number in (signal.SIGTERM, signal.SIGUSR2):
            signal.signal(number, self._stop)

    def start(self, command: Sequence[str], place: devices.Slot) -> None:
        """Starts the next process."""
        printed = self._files.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 (it does)
        # Keep errors of all but the first, to show them after a failure
        output = (subprocess.DEVNULL, printed) if self._members else (None, None)
        self._members.append(devices.start(command, place, *output))
        self._printed.append(printed)

    def wait(self) -> int:
        """Waits until all have ended, or ends them if one fails; returns the status of the run."""
        while not any(self._statuses()):
            if None not in self._statuses():
                return 0
            time.sleep(_LOOK)
        # Often all fail alike; JAX aborts a process if the first one is gone, which is no cause
        deadline = time.monotonic() + GRACE
        while not (self._killed() or self._statuses()[0]) and time.monotonic() < deadline:
            time.sleep(_LOOK)
        # Read statuses before the kill below changes them
        killed = self._killed()
        statuses = self._statuses()
        for process in self._members:
            process.kill()
            process.wait()
        failed = killed or [(n, status) for n, status in enumerate(statuses) if status]
        number, status = failed[0]
        # The first one has told the terminal why it ended
        if number and not killed:
            self._printed[number].seek(0)
            sys.stderr.write(self._printed[number].read().decode(errors="replace"))
        if status > 0:
            return status
        return self._lost(number, status)

    def _stop(self, *_: object) -> None:
        """Lets the first process save; it tells the others."""
        for process in self._members[:1]:
            process.send_signal(signal.SIGTERM)

    def _lost(self, number: int, status: int) -> int:
        """Says that a process was killed, and returns the status to leave with."""
        print(
            f"lost process {number} of {len(self._members)} to {signal.Signals(-status).name}: the"
            " same command continues where this one stopped",
            file=sys.stderr,
            flush=True,
        )
        return cli.AGAIN

    def _killed(self) -> list[tuple[int, int]]:
        """Returns the numbers and statuses of processes that a signal has ended, but for aborts."""
        found = []
        for number, status in enumerate(self._statuses()):
            # A process aborts when JAX misses another, so it is not the cause
            if status is not None and status < 0 and status != -signal.SIGABRT:
                found.append((number, status))
        return found

    def _statuses(self) -> list[int | None]:
        return [process.poll() for process in self._members]
