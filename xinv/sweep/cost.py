"""The time that the rest of a sweep takes, estimated from stages like those to come.

A finished seed of an experiment names the stages that it used, and each stage the seconds that it
took. Another seed of it needs a stage like each of them; experiments that share a stage in one seed
share it in every other.
"""

import json
from pathlib import Path
from typing import NamedTuple

from xinv import store
from xinv.audit import results
from xinv.audit.stage import COST
from xinv.sweep.manifest import Piece, Sweep, Unit
from xinv.sweep.tries import DONE, FAILED, Board


class Estimate(NamedTuple):
    """The rest of a sweep.

    Attributes:
      seconds: the sum over the stages to come; None if nothing is known yet.
      known: pieces among those to come of whose experiment another seed is done.
      stages: stages to come for these.
      shared: uses of a stage, among these, beyond its first.
    """

    seconds: float | None
    known: int
    stages: int
    shared: int


def seconds(stages: Path, name: str) -> float:
    """Returns the seconds that a stage took; 0 if it does not say."""
    path = stages / name / COST
    if not path.exists():
        return 0.0
    return json.loads(path.read_text())["seconds"]


def seconds_left(board: Board) -> Estimate:
    """Estimates the work that is left, in seconds of one worker."""
    sweep = board.sweep
    used = {unit.number: _used(unit) for unit in sweep.units}
    done = []
    open_ = []
    for piece in sweep.pieces:
        kind = board.state(piece).kind
        if kind == DONE:
            done.append(piece)
        elif kind != FAILED:
            open_.append(piece)

    # Stages that are there for a seed, by the names that they have in the seed of reference
    there = {(piece.seed, name) for piece in done for name in _like(sweep, piece, used)}
    needed = {}
    uses = 0
    known = 0
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
    # Experiments of which nothing is known take as long as the others
    if known:
        total *= len(open_) / known
    return Estimate(total, known, len(needed), uses - len(needed))


def _like(
    sweep: Sweep,
    piece: Piece,
    used: dict[int, dict[str, list[str]]],
) -> list[str]:
    """The stages of a seed of the experiment that is done: the first that most of them share."""
    known = used[piece.unit.number]
    for seed in piece.unit.seeds:
        if str(seed) in known:
            return known[str(seed)]
    return []


def _used(unit: Unit) -> dict[str, list[str]]:
    """The stages of an experiment, by seed, as far as they are known."""
    path = unit.folder / results.STAGES
    if path.exists():
        return store.read_json(path)
    found = {}
    for seed in unit.seeds:
        path = unit.folder / "pieces" / f"{Piece(unit, seed).key}.json"
        if path.exists():
            found[str(seed)] = store.read_json(path)["stages"]
    return found
