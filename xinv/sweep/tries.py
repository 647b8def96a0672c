"""Attempts at pieces, and the resulting states.

A try is written before its piece begins, and removed at a good end. A try left behind by a dead
worker has failed. So a piece is known to fail even if it ends its worker's process.
"""

import json
import os
import socket
import time
import uuid
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from xinv import store
from xinv.audit import results
from xinv.leases import Leases
from xinv.sweep.manifest import Piece, Sweep, Unit

WAITING, RUNNING, DONE, FAILED = "waiting", "running", "done", "failed"


class Try(NamedTuple):
    """One attempt at a piece.

    Attributes:
      worker: the name of the worker's lease.
      number: of the worker, and of its log.
      host, pid: its process.
      started: seconds since 1970.
      place: the stage begun last, and its newest checkpoint.
      label: of that stage, for people.
      reason: the cause of its failure; "" of a running or killed one.
      final: True if another attempt would end in the same way.
    """

    worker: str
    number: int
    host: str
    pid: int
    started: float
    place: str = ""
    label: str = ""
    reason: str = ""
    final: bool = False


class State(NamedTuple):
    """The state of a piece: its kind, the reason of a failure, and the running try."""

    kind: str
    reason: str = ""
    running: Try | None = None


class Board:
    """The states of a sweep's pieces, as seen by one process.

    Args:
      sweep: its pieces.
      allowed: number of failed tries at one place before a piece is given up. A try with more
        progress than the one before, a stage or a checkpoint, begins a new count.
    """

    def __init__(self, sweep: Sweep, allowed: int = 3):
        self.sweep = sweep
        self._allowed = allowed
        self._leases = Leases()
        self._finished: set[str] = set()

    def state(self, piece: Piece) -> State:
        """Returns the state of a piece."""
        if self.is_done(piece):
            return State(DONE)
        attempts = [attempt for _, attempt in self._tries(piece)]
        # A try with a reason is over, though its worker may live
        for attempt in attempts:
            if not attempt.reason and self._leases.looks_held(self.sweep.lease(attempt.worker)):
                return State(RUNNING, running=attempt)
            if attempt.final:
                return State(FAILED, attempt.reason)
        # Give up after repeated failures at the same place: progress resets the count
        counts = Counter(attempt.place for attempt in attempts)
        for place, count in counts.items():
            if count >= self._allowed:
                last = max((a for a in attempts if a.place == place), key=lambda a: a.started)
                return State(FAILED, _because(last, count))
        return State(WAITING)

    def is_done(self, piece: Piece) -> bool:
        """Tests if a piece is computed."""
        return _result(piece).exists() or self.is_finished(piece.unit)

    def is_finished(self, unit: Unit) -> bool:
        """Tests if the rows of an experiment are written."""
        # Remember the answer: rows are long, and once written they stay
        if unit.digest not in self._finished and results.is_done(unit.folder, unit.config):
            self._finished.add(unit.digest)
        return unit.digest in self._finished

    def waiting(self) -> bool:
        """Tests if a piece waits for a worker."""
        return any(self.state(piece).kind == WAITING for piece in self.sweep.pieces)

    def failures(self) -> tuple[str, ...]:
        """Returns the abandoned pieces, one sentence each."""
        found = []
        for piece in self.sweep.pieces:
            state = self.state(piece)
            if state.kind == FAILED:
                found.append(f"{piece.label}: {state.reason}")
        return tuple(found)

    def left_by(self, pid: int) -> bool:
        """Tests if a process of this host has left a try behind."""
        # A try without a reason was running when its process ended
        here = socket.gethostname()
        for piece in self.sweep.pieces:
            for _, attempt in self._tries(piece):
                if (attempt.host, attempt.pid, attempt.reason) == (here, pid, ""):
                    return True
        return False

    def finish_piece(self, piece: Piece, result: dict) -> None:
        """Keeps the result of a piece, JSON values, until its experiment is written."""
        _result(piece).parent.mkdir(parents=True, exist_ok=True)
        store.write_json(_result(piece), result)

    def results(self, unit: Unit) -> dict[int, dict]:
        """Returns the results of an experiment's pieces, by seed."""
        return {seed: store.read_json(_result(Piece(unit, seed))) for seed in unit.seeds}

    def begin(self, piece: Piece, worker: str, number: int) -> tuple[Path, Try]:
        """Records a try, and returns its file."""
        # A file of its own for each try: workers never write to one file
        path = _folder(piece.unit) / f"{piece.key}-{uuid.uuid4().hex[:8]}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        attempt = Try(
            worker,
            number,
            socket.gethostname(),
            os.getpid(),
            time.time(),
        )
        record(path, attempt)
        return path, attempt

    def forget(self, worker: str | None = None, failed: bool = False) -> None:
        """Removes tries without a fault of their piece.

        Args:
          worker: removes those of this worker; None those of all dead ones.
          failed: True also removes those of failed pieces, for another try.
        """
        for piece in self.sweep.pieces:
            # A running try stays, and a failed one unless asked for
            state = self.state(piece)
            if worker is None and (state.kind == RUNNING or (state.kind == FAILED and not failed)):
                continue
            for path, attempt in self._tries(piece):
                if worker is None or (attempt.worker == worker and not attempt.reason):
                    path.unlink(missing_ok=True)

    def _tries(self, piece: Piece) -> list[tuple[Path, Try]]:
        found = []
        for path in sorted(_folder(piece.unit).glob(f"{piece.key}-*.json")):
            try:
                found.append((path, Try(**json.loads(path.read_text()))))
            except FileNotFoundError:
                # It ended well meanwhile
                continue
        return found


def record(path: Path, attempt: Try) -> None:
    """Writes a try."""
    store.write_json(path, attempt._asdict())


def place(folder: Path) -> str:
    """Returns the progress of a stage built in `folder`: its name and newest checkpoint."""
    name, _, _ = folder.name.partition(".")
    steps = []
    for path in folder.glob("checkpoints/*"):
        if path.name.isdigit():
            steps.append(int(path.name))
    return f"{name} {max(steps, default=0)}"


def _folder(unit: Unit) -> Path:
    return unit.folder / "tries"


def _result(piece: Piece) -> Path:
    return piece.unit.folder / "pieces" / f"{piece.key}.json"


def _because(last: Try, count: int) -> str:
    where = f" in {last.label}" if last.label else ""
    times = f"{count} tries" if count > 1 else "one try"
    if last.reason:
        return f"{last.reason} ({times})"
    return f"its worker was killed{where} ({times})"
