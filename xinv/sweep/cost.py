"""Estimates the time of the rest of a sweep, from the stages of its finished part.

A finished seed of an experiment names its stages, and each stage its seconds. Another seed needs a
stage like each of them. Experiments with a common stage in one seed share it in every other.
"""

from typing import NamedTuple

from xinv import store
from xinv.audit import results
from xinv.audit.stage import seconds
from xinv.sweep.manifest import Piece, Sweep, Unit
from xinv.sweep.tries import DONE, FAILED, Board


class Estimate(NamedTuple):
    """The rest of a sweep.

    Attributes:
      seconds: the sum over the stages to come; None if nothing is known yet.
      known: pieces among those to come with a finished seed of the same experiment.
      stages: stages to come for these.
      shared: uses of a stage, among these, beyond its first.
    """

    seconds: float | None
    known: int
    stages: int
    shared: int


def seconds_left(board: Board) -> Estimate:
    """Estimates the remaining work, in seconds of one worker."""
    sweep = board.sweep
    # Sort the pieces into done and open; failed ones take no more time
    used = {unit.number: _used(unit) for unit in sweep.units}
    done = []
    open_ = []
    for piece in sweep.pieces:
        kind = board.state(piece).kind
        if kind == DONE:
            done.append(piece)
        elif kind != FAILED:
            open_.append(piece)

    # Collect the finished stages of each seed, by their names in the seed of reference
    there = {(piece.seed, name) for piece in done for name in _like(sweep, piece, used)}
    needed = {}
    uses = 0
    known = 0
    # Add each missing stage once, however many pieces use it
    for piece in open_:
        like = _like(sweep, piece, used)
        known += bool(like)
        for name in like:
            if (piece.seed, name) not in there:
                uses += 1
                needed[piece.seed, name] = seconds(sweep.stages, name)
    if not known and open_:
        return Estimate(None, 0, 0, 0)
    total = sum(needed.values())
    # Experiments without a finished seed take as long as the others
    if known:
        total *= len(open_) / known
    return Estimate(total, known, len(needed), uses - len(needed))


def _like(
    sweep: Sweep,
    piece: Piece,
    used: dict[int, dict[str, list[str]]],
) -> list[str]:
    """Returns the stages of the experiment's first finished seed; [] if none is finished."""
    known = used[piece.unit.number]
    for seed in piece.unit.seeds:
        if str(seed) in known:
            return known[str(seed)]
    return []


def _used(unit: Unit) -> dict[str, list[str]]:
    """Returns the known stages of an experiment, by seed."""
    # A written experiment has them in one file, a running one by piece
    path = unit.folder / results.STAGES
    if path.exists():
        return store.read_json(path)
    found = {}
    for seed in unit.seeds:
        path = unit.folder / "pieces" / f"{Piece(unit, seed).key}.json"
        if path.exists():
            found[str(seed)] = store.read_json(path)["stages"]
    return found
