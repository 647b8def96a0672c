"""Sweeps: many experiments as pieces (experiment, seed), worked on by any number of processes.

Nothing schedules them. A worker takes the next free piece, and leaves a stage under construction to
its builder. The states done, running and failed are read from files.

| file | concept |
|---|---|
| `manifest.py` | the experiments of a sweep and their pieces, written once |
| `tries.py` | attempts at a piece, recorded before they begin; the state of a piece |
| `work.py` | a worker |
| `cost.py` | the time left, from equal stages |
| `table.py` | the state of a sweep in lines of text |
"""

from xinv.sweep.cost import seconds_left
from xinv.sweep.manifest import Piece, Sweep, Unit, describe, planned, read, write
from xinv.sweep.table import lines, plan, summary
from xinv.sweep.tries import DONE, FAILED, RUNNING, WAITING, Board, State
from xinv.sweep.work import Outcome, Worker

__all__ = [
    "DONE",
    "FAILED",
    "RUNNING",
    "WAITING",
    "Board",
    "Outcome",
    "Piece",
    "State",
    "Sweep",
    "Unit",
    "Worker",
    "describe",
    "lines",
    "plan",
    "planned",
    "read",
    "seconds_left",
    "summary",
    "write",
]
