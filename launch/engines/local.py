"""Workers on this machine: a process per device, started again when it dies."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from engines import live
from xinv import sweep
from xinv.sweep.manifest import WORKERS
from xinv.types import InputError

_WORKER = Path(__file__).resolve().parent.parent / "worker.py"
_FUTILE = 5  # deaths in a row before which a worker did not take a piece
_GRACE = 60.0  # seconds in which a worker may save its training when it is told to leave
_LOOK = 0.5  # seconds between two looks at the workers
_NOTHING_LEFT, _FAILED, _BAD_INPUT, _AGAIN = 0, 1, 2, 75


class Slot(NamedTuple):
    """A place for one worker: the variables of its device, and the cores that it may use."""

    environment: dict[str, str]
    cores: tuple[int, ...] = ()


def slots(jobs: int | None) -> list[Slot]:
    """Returns a place per worker: as many as there are accelerators, without any one per four
    cores.

    Raises:
      InputError: there are fewer accelerators than `jobs`.
    """
    # JAX takes most of an accelerator's memory, so that two workers on one would die
    for variables in (_gpus(), _tpus()):
        if variables:
            jobs = jobs or len(variables)
            if jobs > len(variables):
                raise InputError(
                    f"--jobs={jobs} is more than the {len(variables)} accelerators of this machine"
                )
            return [Slot(each) for each in variables[:jobs]]
    cores = sorted(os.sched_getaffinity(0))
    jobs = jobs or max(1, len(cores) // 4)
    share = max(1, len(cores) // jobs)
    return [Slot({}, tuple(cores[(n * share) % len(cores) :][:share])) for n in range(jobs)]


def _gpus() -> list[dict[str, str]]:
    """The variables that show a process one GPU each, without a client of JAX, which would hold
    all.
    """
    if os.environ.get("JAX_PLATFORMS", "").startswith("cpu"):
        return []
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is None and shutil.which("nvidia-smi"):
        listed = subprocess.run(
            ["nvidia-smi", "--list-gpus"], capture_output=True, text=True
        ).stdout
        named = ",".join(
            str(number) for number, line in enumerate(listed.splitlines()) if line.startswith("GPU")
        )
    return [
        {"CUDA_VISIBLE_DEVICES": device}
        for device in (named or "").split(",")
        if device not in ("", "-1")
    ]


def _tpus() -> list[dict[str, str]]:
    """The variables that show a process one chip of a TPU host each."""
    if os.environ.get("JAX_PLATFORMS", "").startswith("cpu"):
        return []
    chips = sorted(Path("/dev").glob("accel[0-9]*")) or sorted(Path("/dev/vfio").glob("[0-9]*"))
    one = {"TPU_CHIPS_PER_PROCESS_BOUNDS": "1,1,1", "TPU_PROCESS_BOUNDS": "1,1,1"}
    return [
        {"TPU_VISIBLE_DEVICES": str(n), "TPU_VISIBLE_CHIPS": str(n), **one}
        for n in range(len(chips))
    ]


class Crew:
    """The workers of one sweep on this machine.

    Args:
      found: the sweep.
      places: see `slots`.
      arguments: flags of launch/worker.py.
    """

    def __init__(
        self,
        found: sweep.Sweep,
        places: list[Slot],
        arguments: list[str],
    ):
        self._sweep = found
        self._places = places
        self._arguments = arguments
        self._running: dict[int, subprocess.Popen] = {}
        self._ended: dict[int, int] = {}
        self._futile = dict.fromkeys(range(len(places)), 0)
        self._logged = {number: _size(found.log(number)) for number in range(len(places))}

    def run(self, board: sweep.Board, show: Callable[[], None]) -> dict[int, int]:
        """Keeps the workers alive until all have ended, and returns their exit statuses by number.

        `show()` is called about twice a second.
        """
        (self._sweep.workdir / WORKERS).mkdir(parents=True, exist_ok=True)
        for number in range(len(self._places)):
            self._start(number)
        while self._running:
            time.sleep(_LOOK)
            for number, process in list(self._running.items()):
                if process.poll() is not None:
                    del self._running[number]
                    self._judge(number, process, board)
            show()
        return self._ended

    def stop(self) -> None:
        """Lets the workers save their trainings and leave; ends those that do not within a minute.

        A second Ctrl-C ends them at once.
        """
        deadline = time.monotonic() + _GRACE
        for process in self._running.values():
            process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired, KeyboardInterrupt):
            for process in self._running.values():
                process.wait(max(0.0, deadline - time.monotonic()))
        for process in self._running.values():
            process.kill()
            process.wait()

    def errors(self) -> list[str]:
        """Returns what the workers have found wrong in their input, one sentence each."""
        found: dict[str, None] = {}
        for number, start in self._logged.items():
            for line in self._tail(number, start):
                if line.startswith("error: "):
                    found[line.removeprefix("error: ")] = None
        return list(found)

    def deaths(self) -> list[str]:
        """Returns one sentence on each worker that could not be kept alive."""
        found = []
        for number, status in self._ended.items():
            if self._futile[number] >= _FUTILE:
                last = self._tail(number, self._logged[number])[-1:]
                found.append(
                    f"worker {number} ended {_FUTILE} times with status {status} before it took a"
                    f" piece: {''.join(last)} (see {self._sweep.log(number)})"
                )
        return found

    def _tail(self, number: int, start: int) -> list[str]:
        with open(self._sweep.log(number), "rb") as log:
            log.seek(start)
            return log.read().decode(errors="replace").splitlines()

    def _start(self, number: int) -> None:
        place = self._places[number]
        command = [
            sys.executable,
            str(_WORKER),
            f"--workdir={self._sweep.workdir}",
            f"--number={number}",
        ]
        command += [f"--parent={os.getpid()}", *self._arguments]
        if place.cores:
            command.append(f"--cores={','.join(map(str, place.cores))}")
        # A session of its own: Ctrl-C reaches the sweep, which lets its workers save
        with open(self._sweep.log(number), "ab") as log:
            self._running[number] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | place.environment,
                start_new_session=True,
            )

    def _judge(
        self,
        number: int,
        process: subprocess.Popen,
        board: sweep.Board,
    ) -> None:
        """Starts a worker again, unless it has left for good or dies before it takes a piece."""
        status = process.returncode
        left = status in (_NOTHING_LEFT, _BAD_INPUT) or (status == _FAILED and not board.waiting())
        if status == _AGAIN or board.left_by(process.pid):
            self._futile[number] = 0
        else:
            self._futile[number] += 1
        if left or self._futile[number] >= _FUTILE:
            self._ended[number] = status
            return
        self._start(number)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def run(
    found: sweep.Sweep,
    jobs: int | None,
    tries: int,
    arguments: list[str],
) -> sweep.Outcome:
    """Works on a sweep by processes of this machine, and shows a table of its state."""
    board = sweep.Board(found, tries)
    # The death of an earlier sweep was no fault of its pieces
    board.forget()
    crew = Crew(found, slots(jobs), arguments)
    shown = live.Table(board)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        crew.run(board, shown.update)
    except KeyboardInterrupt:
        print(
            "\nstopping: workers save their trainings; Ctrl-C again stops at once",
            file=sys.stderr,
            flush=True,
        )
        crew.stop()
        board.forget()
        print(
            "interrupted: the same command continues where this one stopped",
            file=sys.stderr,
            flush=True,
        )
        sys.exit(130)
    shown.close()
    return sweep.Outcome(board.failures(), (*crew.errors(), *crew.deaths()))
