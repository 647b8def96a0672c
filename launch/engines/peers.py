"""Several processes of one run: started on this machine, or by an engine."""

import contextlib
import os
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

from engines import local
from xinv import parallel, processes
from xinv.processes import Place
from xinv.types import InputError

_GRACE = 10.0  # seconds in which the others may end after one has; all find the same mistake
_LOOK = 0.1  # seconds between two looks at the processes
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
        sentence = cli.sentence(error)
        if sentence is None:
            traceback.print_exc()
        else:
            print(f"error: {sentence}", file=sys.stderr)
        sys.stderr.flush()
        os._exit(1 if sentence is None else 2)
    finally:
        # Here all come: at the end, and when they were told to leave
        processes.leave()


@contextlib.contextmanager
def _without_stdout() -> Iterator[None]:
    sys.stdout.flush()
    kept = os.dup(1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        yield
    finally:
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
    coordinator = f"localhost:{_free_port()}"
    group = _Group()
    # Children have their parent's cores
    cores = os.sched_getaffinity(0)
    for number, share in enumerate(shares(count)):
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
    """The processes of one run, the first of which leads."""

    def __init__(self) -> None:
        self._members: list[subprocess.Popen] = []
        self._printed: list[IO[bytes]] = []
        # The first one tells the others
        for number in (signal.SIGTERM, signal.SIGUSR2):
            signal.signal(number, lambda *_: self._members[0].send_signal(signal.SIGTERM))

    def start(self, command: Sequence[str], environment: dict[str, str]) -> None:
        """Starts the next process."""
        printed = tempfile.TemporaryFile()
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
        self._linger()
        statuses = self._statuses()
        for process in self._members:
            process.kill()
            process.wait()
        # The first one has said why it ended
        if (statuses[0] or 0) > 0:
            return statuses[0]
        return self._explain(statuses)

    def _linger(self) -> None:
        """Lets the first process end by itself too, unless another was killed.

        JAX aborts a process if the first one is gone, so an abort is no cause.
        """
        deadline = time.monotonic() + _GRACE
        while not self._statuses()[0] and time.monotonic() < deadline:
            if any(status < 0 for status in self._causes(self._statuses()).values()):
                return
            time.sleep(_LOOK)

    def _explain(self, statuses: Sequence[int | None]) -> int:
        """Says which process was lost, or failed alone, and returns the status to leave with."""
        failed = {n: status for n, status in enumerate(statuses) if status}
        number, status = next(iter((self._causes(statuses) or failed).items()))
        killed = status in (-signal.SIGKILL, -signal.SIGTERM)
        if number and not killed:
            self._printed[number].seek(0)
            sys.stderr.write(self._printed[number].read().decode(errors="replace"))
        if status > 0:
            return status
        name = signal.Signals(-status).name
        print(
            f"lost process {number} of {len(statuses)} to {name}: the same command continues"
            " where this one stopped",
            file=sys.stderr,
            flush=True,
        )
        return cli.AGAIN

    def _causes(self, statuses: Sequence[int | None]) -> dict[int, int]:
        """Returns the statuses of processes that failed and were not aborted, by number."""
        aborted = -signal.SIGABRT
        return {n: status for n, status in enumerate(statuses) if status not in (None, 0, aborted)}

    def _statuses(self) -> list[int | None]:
        return [process.poll() for process in self._members]
