"""Several processes of one run: started on this machine, or by an engine."""

import contextlib
import ctypes
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from typing import IO

import cli
import jax

from engines import local
from xinv import parallel, processes
from xinv.processes import Place
from xinv.types import InputError

_GRACE = 10.0  # seconds in which the others may end after one has; all find the same mistake
_LOOK = 0.1  # seconds between two looks at the processes
_CONNECTION = re.compile("Gloo|NCCL|UNAVAILABLE|coordination service", re.IGNORECASE)
"""In the errors by which JAX tells that another process is gone."""
_DETECTED = "SLURM (in srun), Open MPI, Cloud TPU or Kubernetes"


@contextlib.contextmanager
def joined(place: Place | None) -> Iterator[None]:
    """Makes this process one of several; at the end it waits for the others, unless it has failed.

    Raises:
      InputError: see `processes.initialise`.
    """
    # Gloo tells stdout of each connection
    with _without_stdout():
        try:
            processes.initialise(place)
        except InputError as error:
            if place is not None:
                raise
            raise InputError(
                f"--multiprocess is for processes that {_DETECTED} has started; give --processes=N"
                f" to start them here ({error})"
            ) from None
        parallel.places()
    try:
        yield
    except Exception as error:
        # The others may wait for this process, and at a usual exit JAX would wait for them
        _fail(error)
    finally:
        # Here all come: at the end, and when they were told to leave
        processes.leave()


def _fail(error: Exception) -> None:
    """Ends this process at once with a sentence, or with the traceback of a fault of the program."""
    sentence, status = cli.sentence(error), 2
    if isinstance(error, jax.errors.JaxRuntimeError) and _CONNECTION.search(str(error)):
        # A parent knows more, and ends this process meanwhile
        time.sleep(_GRACE)
        first = str(error).partition("\n")[0]
        sentence = f"lost another process, and the same command continues the run: {first}"
        status = cli.AGAIN
    if sentence is None:
        traceback.print_exception(error)
        status = 1
    else:
        print(f"error: {sentence}", file=sys.stderr)
    sys.stderr.flush()
    os._exit(status)


@contextlib.contextmanager
def _without_stdout() -> Iterator[None]:
    sys.stdout.flush()
    kept = os.dup(1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        yield
    finally:
        # C keeps lines of its own back
        ctypes.CDLL(None).fflush(None)
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


def shares(count: int) -> list[local.Slot]:
    """Returns the accelerators, or else the cores, of each of `count` processes.

    Raises:
      InputError: this machine has fewer, or they cannot be divided.
    """
    if local.tpus():
        raise InputError(
            f"--processes={count}: on a TPU host one process computes on all chips: leave it out"
        )
    gpus = [variables["CUDA_VISIBLE_DEVICES"] for variables in local.gpus()]
    if gpus:
        if len(gpus) % count:
            raise InputError(
                f"--processes={count} do not divide the {len(gpus)} GPUs of this machine"
            )
        each = len(gpus) // count
        parts = [gpus[n * each :][:each] for n in range(count)]
        return [local.Slot({"CUDA_VISIBLE_DEVICES": ",".join(part)}) for part in parts]
    cores = sorted(os.sched_getaffinity(0))
    if count > len(cores):
        raise InputError(
            f"--processes={count} are more than the {len(cores)} cores of this machine"
        )
    each = len(cores) // count
    return [local.Slot({}, tuple(cores[n * each :][:each])) for n in range(count)]


def run(count: int, command: Sequence[str]) -> int:
    """Runs `command` as `count` processes of one run, and returns the status to leave with.

    It gets the flags by which each process knows its place. The first process has the terminal;
    what the others print is shown if one of them fails alone.

    Raises:
      InputError: see `shares`.
    """
    places, coordinator = shares(count), f"localhost:{_free_port()}"
    # Children have their parent's cores
    cores = os.sched_getaffinity(0)
    with contextlib.ExitStack() as files:
        group = _Group(files)
        for number, share in enumerate(places):
            place = [f"--coordinator_address={coordinator}", f"--process_id={number}"]
            if share.cores:
                os.sched_setaffinity(0, share.cores)
            group.start([*command, *place, f"--parent={os.getpid()}"], share.environment)
        os.sched_setaffinity(0, cores)
        return group.wait()


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return found.getsockname()[1]


class _Group:
    """The processes of one run, the first of which leads; `files` are closed after their end."""

    def __init__(self, files: contextlib.ExitStack):
        self._files = files
        self._members: list[subprocess.Popen] = []
        self._printed: list[IO[bytes]] = []
        # The first one tells the others
        for number in (signal.SIGTERM, signal.SIGUSR2):
            signal.signal(number, lambda *_: self._members[0].send_signal(signal.SIGTERM))

    def start(self, command: Sequence[str], environment: dict[str, str]) -> None:
        """Starts the next process."""
        printed = self._files.enter_context(tempfile.TemporaryFile())
        quiet = {"stdout": subprocess.DEVNULL, "stderr": printed} if self._members else {}
        # A session of its own: Ctrl-C reaches the parent, with which all end
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            env=os.environ | environment,
            start_new_session=True,
            **quiet,
        )
        self._members.append(process)
        self._printed.append(printed)

    def wait(self) -> int:
        """Waits until all have ended, or ends them if one fails; returns the status of the run."""
        while not any(self._statuses()):
            if None not in self._statuses():
                return 0
            time.sleep(_LOOK)
        # Often all fail alike; JAX aborts a process if the first one is gone, which is no cause
        deadline = time.monotonic() + _GRACE
        while not (self._killed() or self._statuses()[0]) and time.monotonic() < deadline:
            time.sleep(_LOOK)
        killed, statuses = self._killed(), self._statuses()
        for process in self._members:
            process.kill()
            process.wait()
        if killed:
            return self._lost(*killed[0])
        # The first one has said why it ended
        if statuses[0]:
            return statuses[0] if statuses[0] > 0 else self._lost(0, statuses[0])
        number = next(number for number, status in enumerate(statuses) if status)
        self._printed[number].seek(0)
        sys.stderr.write(self._printed[number].read().decode(errors="replace"))
        return statuses[number] if statuses[number] > 0 else self._lost(number, statuses[number])

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
            if status is not None and status < 0 and status != -signal.SIGABRT:
                found.append((number, status))
        return found

    def _statuses(self) -> list[int | None]:
        return [process.poll() for process in self._members]
