"""The devices of this machine, and processes on them.

They are found without a client of JAX, which would hold them all.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, NamedTuple

from xinv.types import InputError

_GRACE = 60.0  # seconds for a process to save its training and leave


class Slot(NamedTuple):
    """A place for one process: the variables of its device, and the cores that it may use."""

    environment: dict[str, str]
    cores: tuple[int, ...] = ()


def slots(jobs: int | None) -> list[Slot]:
    """Returns a place per process.

    Args:
      jobs: number of processes; None for one per accelerator, or without any one per four cores.

    Raises:
      InputError: there are fewer accelerators than `jobs`.
    """
    # JAX takes most of an accelerator's memory, so two processes on one would die.
    for variables in (gpus(), tpus()):
        if variables:
            jobs = jobs or len(variables)
            if jobs > len(variables):
                raise InputError(
                    f"--jobs={jobs} is more than the {len(variables)} accelerators of this machine"
                )
            return [Slot(each) for each in variables[:jobs]]
    # Divide the cores; if there are more processes than cores, they share
    cores = sorted(os.sched_getaffinity(0))
    jobs = jobs or max(1, len(cores) // 4)
    share = max(1, len(cores) // jobs)
    return [Slot({}, tuple(cores[(n * share) % len(cores) :][:share])) for n in range(jobs)]


def take(place: Slot) -> None:
    """Moves this process to a place, before JAX is used; threads that exist stay where they are."""
    os.environ.update(place.environment)
    if place.cores:
        os.sched_setaffinity(0, place.cores)


def start(
    command: Sequence[str],
    place: Slot,
    stdout: IO[bytes] | int | None = None,
    stderr: IO[bytes] | int | None = None,
) -> subprocess.Popen:
    """Starts a command in a place, with --parent; by default it prints where this process does."""
    # A child has the cores of its parent from its first moment on, and libraries count them early
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, place.cores or cores)
    try:
        # A session of its own: Ctrl-C reaches the parent alone, which decides for its children
        return subprocess.Popen(
            [*command, f"--parent={os.getpid()}"],
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            env=os.environ | place.environment,
            start_new_session=True,
        )
    finally:
        os.sched_setaffinity(0, cores)


def stop(processes: Sequence[subprocess.Popen]) -> None:
    """Lets processes save their trainings and leave.

    After a minute, or at a KeyboardInterrupt, it ends the others.
    """
    # One deadline for all: they save at the same time.
    deadline = time.monotonic() + _GRACE
    for process in processes:
        process.send_signal(signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired, KeyboardInterrupt):
        for process in processes:
            process.wait(max(0.0, deadline - time.monotonic()))
    # End the rest; those already gone ignore it
    for process in processes:
        process.kill()
        process.wait()


def gpus() -> list[dict[str, str]]:
    """The variables that show a process one GPU each."""
    if os.environ.get("JAX_PLATFORMS", "").startswith("cpu"):
        return []
    # Respect GPUs chosen by a person or a scheduler
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is None and shutil.which("nvidia-smi"):
        listed = subprocess.run(
            ["nvidia-smi", "--list-gpus"], capture_output=True, text=True
        ).stdout
        named = ",".join(
            str(number) for number, line in enumerate(listed.splitlines()) if line.startswith("GPU")
        )
    found = []
    # An empty value or -1 hides all GPUs
    for device in (named or "").split(","):
        if device not in ("", "-1"):
            found.append({"CUDA_VISIBLE_DEVICES": device})
    return found


def tpus() -> list[dict[str, str]]:
    """The variables that show a process one chip of a TPU host each."""
    if os.environ.get("JAX_PLATFORMS", "").startswith("cpu"):
        return []
    # Some TPU hosts list their chips in /dev, others in /dev/vfio
    chips = sorted(Path("/dev").glob("accel[0-9]*")) or sorted(Path("/dev/vfio").glob("[0-9]*"))
    # Each process has a topology of its own, of one chip
    one = {"TPU_CHIPS_PER_PROCESS_BOUNDS": "1,1,1", "TPU_PROCESS_BOUNDS": "1,1,1"}
    found = []
    for n in range(len(chips)):
        found.append({"TPU_VISIBLE_DEVICES": str(n), "TPU_VISIBLE_CHIPS": str(n), **one})
    return found
