"""A worker: takes pieces of a sweep until none is left."""

import contextlib
import shutil
import time
import traceback
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from xinv import data, store, train
from xinv.audit import results
from xinv.audit.results import Config
from xinv.audit.run import Found, computed, load_data, opened, write
from xinv.audit.service import Service
from xinv.audit.stage import Noted, Stages, Watch, asked, spent
from xinv.audit.validate import validate
from xinv.leases import Busy
from xinv.store import Store
from xinv.sweep.manifest import WORKERS, Piece, Sweep, Unit
from xinv.sweep.tries import RUNNING, WAITING, Board, Try, place, record
from xinv.types import InputError

# Seconds until the next look at pieces of other workers
_PAUSE, _LONGEST_PAUSE = 0.5, 10.0


class Outcome(NamedTuple):
    """Pieces left undone when a worker finds nothing more to do, one sentence each.

    Attributes:
      failed: abandoned pieces.
      rejected: pieces with bad input; their tries do not count.
    """

    failed: tuple[str, ...]
    rejected: tuple[str, ...]


class Worker:
    """One process at a sweep.

    Args:
      sweep: its pieces.
      stages: its store.
      number: workers of different numbers begin with different pieces.
      tries: see `Board`.
      checkpoint_seconds: least time between two checkpoints of a training.
      stop: returns True to make the worker leave.
      say: called with a line for people as each piece begins.
    """

    def __init__(
        self,
        sweep: Sweep,
        stages: Store,
        number: int = 0,
        tries: int = 3,
        checkpoint_seconds: float = 30.0,
        stop: Callable[[], bool] = train.never,
        say: Callable[[str], None] = print,
    ):
        self.board = Board(sweep, tries)
        self.name = uuid.uuid4().hex[:12]
        self._sweep = sweep
        self._stages = stages
        self._number = number
        self._checkpoint_seconds = checkpoint_seconds
        self._stop = stop
        self._say = say
        self._rejected: dict[str, str] = {}
        self._opened: set[int] = set()
        self._data: dict[str, data.Dataset] = {}

    def run(self) -> Outcome:
        """Works until no piece is left for another try.

        Raises:
          Stopped: by `stop`; the present training has saved its state.
          Lost: it was suspended, and another worker has gone on with its stage.
        """
        folder = self._sweep.workdir / WORKERS
        folder.mkdir(parents=True, exist_ok=True)
        # One that was killed between two pieces has left no try, by which others would find it
        for marker in folder.glob("*.lease"):
            self._stages.leases.is_held(marker)  # removes that of a dead one
        # The lease shows other processes that this worker lives
        with self._stages.leases.hold(self._sweep.lease(self.name)):
            pause = _PAUSE
            while not self._stop():
                pieces, running = self._open()
                written, unwritten = self._finish()
                advanced = written > 0
                for piece in pieces:
                    if self._attempt(piece):
                        advanced = True
                        self._finish()
                if not pieces and not running and not unwritten:
                    return Outcome(self.board.failures(), tuple(self._rejected.values()))
                # Other workers hold all the rest: look again, ever more rarely
                pause = min(1.5 * pause, _LONGEST_PAUSE)
                if advanced:
                    pause = _PAUSE
                else:
                    self._rest(pause)
        raise train.Stopped("stopped between two pieces")

    def _rest(self, pause: float) -> None:
        end = time.monotonic() + pause
        while time.monotonic() < end and not self._stop():
            time.sleep(_PAUSE)

    def _open(self) -> tuple[list[Piece], list[Piece]]:
        """Returns the pieces to try, and those of other workers."""
        # Start elsewhere than other workers, so that they rarely meet
        pieces = self._sweep.pieces
        first = self._number % len(pieces)
        waiting = []
        running = []
        for piece in pieces[first:] + pieces[:first]:
            kind = self.board.state(piece).kind
            if kind == RUNNING:
                running.append(piece)
            elif kind == WAITING and piece.key not in self._rejected:
                waiting.append(piece)
        return waiting, running

    def _attempt(self, piece: Piece) -> bool:
        """Computes a piece; returns False if another worker is at a stage of it, or it failed."""
        if self.board.state(piece).kind != WAITING or self._stop():
            return False
        # Leave a record first: if this process is killed, the record remains
        path, attempt = self.board.begin(piece, self.name, self._number)
        watch = _PieceWatch(path, attempt, self._stop)
        try:
            service = self._service(piece.unit, watch)
            found = computed(service, piece.seed)
            # Also those within a stage that another piece had built before
            used = asked(self._stages.root, watch.stages)
            result = {**found._asdict(), "stages": used}
            self.board.finish_piece(piece, result)
        except Busy:
            return False
        # The same seed diverges again
        except train.Diverged as error:
            watch.failed(str(error), final=True)
            self._say(f"{piece.label} diverged: {error}")
            return False
        except (InputError, OSError) as error:
            # A person can mend it: count no try
            self._reject(piece, piece.label, error)
            return False
        # These end the worker, not the piece
        except (store.Lost, train.Stopped):
            raise
        except Exception as error:
            traceback.print_exc()
            watch.failed(_sentence(error))
            return False
        finally:
            # Without a reason it ended well or was no fault of the piece
            if not watch.attempt.reason:
                path.unlink(missing_ok=True)
        return True

    def _service(self, unit: Unit, watch: Watch) -> Service:
        stages = Stages(self._stages, unit.folder, self._checkpoint_seconds, watch)
        service = opened(unit.config, stages, self._load)
        if unit.number in self._opened:
            return service
        self._say(f"unit {unit.number + 1} of {len(self._sweep.units)}: {unit.name}")
        # A finished piece was valid
        if not any(self.board.is_done(Piece(unit, seed)) for seed in unit.seeds):
            validate(service)
        # Remove rows of an earlier config
        with contextlib.suppress(Busy), self._stages.leases.hold(unit.folder / ".lease"):
            results.begin(unit.folder, unit.config)
        self._opened.add(unit.number)
        return service

    def _load(self, settings: Config) -> data.Dataset:
        """Returns the data set of a section; keeps the last ones, since experiments share them."""
        key = store.canonical(settings)
        if key not in self._data:
            self._data = dict(list(self._data.items())[-1:])
            self._data[key] = load_data(settings)
        return self._data[key]

    def _finish(self) -> tuple[int, int]:
        """Writes the complete experiments; counts the written ones and those held back."""
        written = unwritten = 0
        for unit in self._sweep.units:
            # Skip what is written, incomplete or rejected
            pieces = [Piece(unit, seed) for seed in unit.seeds]
            if self.board.is_finished(unit) or not all(map(self.board.is_done, pieces)):
                continue
            if any(piece.key in self._rejected for piece in pieces):
                continue
            try:
                self._write(unit)
                written += 1
            except Busy:
                unwritten += 1
            except (store.Lost, train.Stopped):
                raise
            except Exception as error:
                # All its pieces are done: another try would end in the same way
                if not isinstance(error, (InputError, OSError)):
                    traceback.print_exc()
                self._reject(pieces[0], unit.name, error)
        return written, unwritten

    def _reject(self, piece: Piece, label: str, error: Exception) -> None:
        self._rejected[piece.key] = f"{label}: {_sentence(error)}"
        self._say(f"error: {self._rejected[piece.key]}")

    def _write(self, unit: Unit) -> None:
        with self._stages.leases.hold(unit.folder / ".lease"):
            if self.board.is_finished(unit):
                return
            # Join the pieces: rows, the stages behind them, and their cost
            service = self._service(unit, Watch(self._stop))
            found = self.board.results(unit)
            used = {}
            for seed, result in found.items():
                used[seed] = result.pop("stages")
            results.begin(unit.folder, unit.config)
            store.write_json(unit.folder / results.STAGES, used)
            names = {name for of_seed in used.values() for name in of_seed}
            taken = spent(self._stages.root, names)
            parts = {seed: Found(**result) for seed, result in found.items()}
            write(service, unit.folder, parts, taken)
            # The rows are written: the pieces are no longer needed
            for name in ("tries", "pieces"):
                shutil.rmtree(unit.folder / name, ignore_errors=True)


class _PieceWatch(Noted):
    """Keeps the try of a piece up to date."""

    def __init__(self, path: Path, attempt: Try, stop: Callable[[], bool]):
        super().__init__(Watch(stop))
        self.attempt = attempt
        self._path = path

    def begun(self, label: str, folder: Path) -> None:
        """Records the place of the try."""
        self._record(self.attempt._replace(place=place(folder), label=label))

    def failed(self, reason: str, final: bool = False) -> None:
        """Records the end of the try."""
        self._record(self.attempt._replace(reason=reason, final=final))

    def _record(self, attempt: Try) -> None:
        self.attempt = attempt
        record(self._path, attempt)


def _sentence(error: Exception) -> str:
    # Name the file and the system's reason, or the person's mistake, or the bug's first line
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'input or output'}: {error.strerror}"
    if isinstance(error, InputError):
        return str(error)
    first = (str(error).splitlines() or [""])[0]
    return f"{type(error).__name__}: {first}"
