"""Runs workers on this machine: a process per device, started again when it dies."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from engines import devices, live
from xinv import sweep
from xinv.sweep.manifest import WORKERS

_WORKER = Path(__file__).resolve().parent.parent / "worker.py"
_FUTILE = 5  # deaths in a row before which a worker did not take a piece
_LOOK = 0.5  # seconds between two looks at the workers
_NOTHING_LEFT, _FAILED, _BAD_INPUT, _AGAIN = 0, 1, 2, 75


class Crew:
    """The workers of one sweep on this machine.

    Args:
      found: the sweep.
      places: see `devices.slots`.
      arguments: flags of launch/worker.py.
    """

    def __init__(
        self,
        found: sweep.Sweep,
        places: list[devices.Slot],
        arguments: list[str],
    ):
        self._sweep = found
        self._places = places
        self._arguments = arguments
        # By worker: its process or exit status, deaths in a row without a piece, and the size of
        # its log before this run
        self._running: dict[int, subprocess.Popen] = {}
        self._ended: dict[int, int] = {}
        self._futile = dict.fromkeys(range(len(places)), 0)
        self._logged = {number: _size(found.log(number)) for number in range(len(places))}

    def run(self, board: sweep.Board, show: Callable[[], None]) -> dict[int, int]:
        """Keeps the workers alive until all have ended.

        Args:
          board: the state of the sweep.
          show: called about twice a second.

        Returns:
          Exit statuses by number.
        """
        (self._sweep.workdir / WORKERS).mkdir(parents=True, exist_ok=True)
        for number in range(len(self._places)):
            self._start(number)
        # A dead worker is started again before the table is drawn.
        while self._running:
            time.sleep(_LOOK)
            for number, process in list(self._running.items()):
                if process.poll() is not None:
                    del self._running[number]
                    self._judge(number, process, board)
            show()
        return self._ended

    def stop(self) -> None:
        """Lets the workers save their trainings and leave.

        After a minute, or a second Ctrl-C, it ends the others.
        """
        devices.stop(list(self._running.values()))

    def errors(self) -> list[str]:
        """Returns the workers' errors of input, one sentence each."""
        # Every worker finds the same error, so each sentence counts once.
        found: dict[str, None] = {}
        for number, start in self._logged.items():
            for line in self._tail(number, start):
                if line.startswith("error: "):
                    found[line.removeprefix("error: ")] = None
        return list(found)

    def deaths(self) -> list[str]:
        """Returns one sentence on each worker that died again and again."""
        found = []
        for number, status in self._ended.items():
            if self._futile[number] >= _FUTILE:
                # Name the cause by the last line of the log
                last = self._tail(number, self._logged[number])[-1:]
                found.append(
                    f"worker {number} ended {_FUTILE} times with status {status} before it took a"
                    f" piece: {''.join(last)} (see {self._sweep.log(number)})"
                )
        return found

    def _tail(self, number: int, start: int) -> list[str]:
        with open(self._sweep.log(number), "rb") as log:
            # Skip the lines of earlier runs
            log.seek(start)
            return log.read().decode(errors="replace").splitlines()

    def _start(self, number: int) -> None:
        # The worker ends with this process, and keeps to its own device and cores.
        command = [
            sys.executable,
            str(_WORKER),
            f"--workdir={self._sweep.workdir}",
            f"--number={number}",
            *self._arguments,
        ]
        with open(self._sweep.log(number), "ab") as log:
            self._running[number] = devices.start(command, self._places[number], log, log)

    def _judge(
        self,
        number: int,
        process: subprocess.Popen,
        board: sweep.Board,
    ) -> None:
        """Starts a worker again, unless it left for good or keeps dying before it takes a piece."""
        # A worker that failed a piece starts again while other pieces wait.
        status = process.returncode
        left = status in (_NOTHING_LEFT, _BAD_INPUT) or (status == _FAILED and not board.waiting())
        # A death with a piece in hand is the fault of the piece.
        if status == _AGAIN or board.left_by(process.pid):
            self._futile[number] = 0
        else:
            self._futile[number] += 1
        if left or self._futile[number] >= _FUTILE:
            self._ended[number] = status
            return
        self._start(number)


def _size(path: Path) -> int:
    if path.exists():
        return path.stat().st_size
    return 0


def run(
    found: sweep.Sweep,
    jobs: int | None,
    tries: int,
    arguments: list[str],
) -> sweep.Outcome:
    """Works on a sweep by processes of this machine, and shows a table of its state.

    Args:
      found: the sweep.
      jobs: as in `devices.slots`.
      tries: failed tries of a piece before it is given up.
      arguments: flags of launch/worker.py.

    Returns:
      The pieces without a result.
    """
    board = sweep.Board(found, tries)
    # The death of an earlier sweep was no fault of its pieces
    board.forget()

    crew = Crew(found, devices.slots(jobs), arguments)
    shown = live.Table(board)
    # A signal becomes an exception here: the workers save first.
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
        # Wait for the workers, then remove the tries of those now dead
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
